"""Images and their masks from one text-to-image pipeline and its own self- and cross-attention.

SeeDiff, and the strategies that its Table 5 compares it with (cross-attention alone, Dataset
Diffusion). A mask labels the classes that its prompt names. Other pixels may show anything, so
training ignores them unless the taxonomy has a class called background.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seggen_core.attention.dataset_diffusion import dataset_diffusion_masks
from seggen_core.attention.layers import list_attention_layers
from seggen_core.attention.masks import ACCEPTED, ClassMasks
from seggen_core.attention.pamr import MaskRefiner
from seggen_core.attention.seediff import SeeDiffSettings, seediff_masks
from seggen_core.config import SeeDiffConfig
from seggen_core.errors import AttentionError
from seggen_core.generators.foundation import vae_scale_factor
from seggen_core.generators.sampling import use_scheduler
from seggen_core.project.chunks import padded_chunks
from seggen_core.synthesis.captured_images import CapturedImages, CaptureRequest, run_with_captures
from seggen_core.synthesis.kept_attention import KeptAttention
from seggen_core.synthesis.mask_quality import mask_quality, mask_status
from seggen_core.synthesis.prompts import ClassPrompt
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass


@dataclass(frozen=True, eq=False)
class AttentionSamples:
    """B images with masks of the classes each was prompted with.

    Attributes:
        images: uint8 [B, H, W, 3].
        labels: uint8 [B, H, W]: k where class k (from 1) of the image's prompt is, 0 outside,
            IGNORE_INDEX where uncertain.
        status: per image "accepted" or why its mask can't be used, that of its first class.
        class_status: per image the same of every class, in the order of the labels.
        quality: per image the scores of `mask_quality`, of its prompt's first class.
        maps: float32 [B, s, s] in [0, 1] by name: cross_attention, expansion_<s> for each scale,
            background, soft_mask; of the first class.
    """

    images: np.ndarray
    labels: np.ndarray
    status: tuple[str, ...]
    class_status: tuple[tuple[str, ...], ...]
    quality: tuple[dict[str, float], ...]
    maps: dict[str, np.ndarray]

    @property
    def masks(self) -> np.ndarray:
        """Where the first class is: bool [B, H, W]."""
        return self.labels == 1


def seediff_self_resolutions(unet: Any, *, config: SeeDiffConfig, latent_size: int) -> list[int]:
    """Return the self-attention resolutions that `config.strategy` needs.

    They are that of the seeds and finer ones; "ca" needs none.

    Raises:
        AttentionError: the chosen cross-attention layers have no map at
            `config.cross_attention_resolution`, or the network no self-attention at one of
            `config.self_attention_resolutions`.
    """
    layers = list_attention_layers(unet, latent_size=latent_size)
    chosen = [
        a
        for a in layers
        if a.is_cross
        and (config.cross_attention_layers is None or a.name in config.cross_attention_layers)
    ]
    available = sorted({a.resolution for a in chosen})
    # An empty choice is a misspelt layer, which capture reports with the names that there are.
    if chosen and config.cross_attention_resolution not in available:
        raise AttentionError(
            f"seediff.cross_attention_resolution is {config.cross_attention_resolution}, but with "
            f"{latent_size}x{latent_size} latents the chosen cross-attention layers have "
            f"{', '.join(map(str, available))}; choose one of these"
        )
    return expansion_sides({a.resolution for a in layers if not a.is_cross}, config=config)


def expansion_sides(existing: Iterable[int], *, config: SeeDiffConfig) -> list[int]:
    """Return which of the resolutions of self-attention that there are `config.strategy` needs.

    Raises:
        AttentionError: there is none at one of `config.self_attention_resolutions`.
    """
    known = sorted(existing)
    if missing := sorted(set(config.self_attention_resolutions or ()) - set(known)):
        raise AttentionError(
            f"seediff.self_attention_resolutions has {', '.join(map(str, missing))}, but with "
            f"images of this size the network has self-attention at {', '.join(map(str, known))}"
        )
    if config.strategy == "ca":
        return []
    chosen = (
        known if config.self_attention_resolutions is None else config.self_attention_resolutions
    )
    return sorted({r for r in chosen if r >= config.cross_attention_resolution})


def class_masks(
    cross_map: torch.Tensor,
    self_maps: dict[int, torch.Tensor],
    *,
    config: SeeDiffConfig,
    images: torch.Tensor,
) -> ClassMasks:
    """Return the masks of one class an image by `config.strategy`.

    Args:
        cross_map: float32 [B, s, s].
        self_maps: float32 [B, N, N] by resolution.
        config: strategy and its settings.
        images: float32 [B, 3, H, W] in [0, 1], for PAMR; square.

    Raises:
        AttentionError: self-attention isn't there at the resolution that the strategy needs.
    """
    refiner = None
    if config.pamr:
        refiner = MaskRefiner(images, config.pamr_iterations, config.pamr_dilations)
    if config.strategy == "ca_sa":
        # The paper takes 32x32 of 8, 16, 32 and 64: the coarsest that is finer than
        # cross-attention.
        finer = sorted(r for r in self_maps if r > cross_map.shape[-1]) or sorted(self_maps)
        if not finer:
            raise AttentionError(
                "strategy ca_sa needs self-attention, but none was captured; "
                "name a resolution that there is"
            )
        return dataset_diffusion_masks(
            cross_map,
            self_maps[finer[0]],
            image_size=images.shape[-1],
            power=config.power,
            threshold=config.beta,
            uncertainty_threshold=config.uncertainty_threshold,
            refiner=refiner,
        )
    settings = SeeDiffSettings(
        alpha=config.alpha,
        beta=config.beta,
        seed_threshold=config.seed_threshold,
        affinity=config.affinity,
        normalization=config.normalization,
        expansion="none" if config.strategy == "ca" else config.expansion,
        background_expansion=config.background_expansion and config.strategy == "seediff",
    )
    return seediff_masks(
        cross_map, self_maps, image_size=images.shape[-1], settings=settings, refiner=refiner
    )


def combine_classes(results: Sequence[ClassMasks]) -> torch.Tensor:
    """Return the label maps of several classes, uint8 [B, H, W] as in `AttentionSamples`.

    A pixel that several classes claim goes to the one with the largest soft mask, the first of
    equals; one that none claims is uncertain where some class is, else background.
    """
    claims = torch.stack([torch.where(r.binary, r.soft, -1.0) for r in results])
    largest, winner = claims.max(dim=0)
    uncertain = torch.stack([r.uncertain for r in results]).any(0)
    outside = torch.where(uncertain, IGNORE_INDEX, 0)
    return torch.where(largest >= 0, winner + 1, outside).to(torch.uint8)


def generate_from_attention(
    pipeline: Any,
    *,
    prompts: Sequence[ClassPrompt],
    generators: Callable[[int], torch.Generator],
    config: SeeDiffConfig,
    image_size: int,
) -> AttentionSamples:
    """Generate one image per prompt, and from the attention that made it the masks of its classes.

    Args:
        pipeline: a diffusers text-to-image pipeline with a UNet (SD 1.x, 2.x, XL).
        prompts: B prompts; prompt k is computed in row ``k % micro_batch_size`` of a network call,
            which rounding may depend on.
        generators: returns a fresh generator for the noise of prompt i.
        config: sampler and settings of the method.
        image_size: side of the images in pixels.

    Raises:
        AttentionError: the network's attention can't be captured, or not at the resolution asked
            for.
    """
    (samples,) = generate_with_recipes(
        pipeline, prompts=prompts, generators=generators, configs=[config], image_size=image_size
    )
    return samples


@torch.no_grad()
def generate_with_recipes(
    pipeline: Any,
    *,
    prompts: Sequence[ClassPrompt],
    generators: Callable[[int], torch.Generator],
    configs: Sequence[SeeDiffConfig],
    image_size: int,
) -> list[AttentionSamples]:
    """Generate one image per prompt, once, and masks of it by several settings.

    Arguments and errors are those of `generate_from_attention`; all `configs` have one sampler.

    Returns:
        The samples by each of `configs`, with the bits that it alone would give.
    """
    latent_size = image_size // vae_scale_factor(pipeline)
    requests = [
        CaptureRequest(
            cross_layers=config.cross_attention_layers,
            cross_resolutions=[config.cross_attention_resolution],
            self_resolutions=seediff_self_resolutions(
                pipeline.unet, config=config, latent_size=latent_size
            ),
        )
        for config in configs
    ]
    sampling = configs[0].sampling
    calls: list[list[AttentionSamples]] = []
    with use_scheduler(pipeline, sampling):
        for rows, num_real in padded_chunks(range(len(prompts)), sampling.micro_batch_size):
            captures = run_with_captures(
                pipeline,
                prompts=[prompts[i] for i in rows],
                generators=[generators(i) for i in rows],
                sampling=sampling,
                image_size=image_size,
                requests=requests,
            )
            calls.append(
                [
                    _samples_of_call(captured, request, num_real=num_real, config=config)
                    for captured, request, config in zip(captures, requests, configs, strict=True)
                ]
            )
    return [join_samples(parts) for parts in zip(*calls, strict=True)]


def join_samples(parts: Sequence[AttentionSamples]) -> AttentionSamples:
    """Return the samples of several calls as one batch, in their order."""
    return AttentionSamples(
        images=np.concatenate([c.images for c in parts]),
        labels=np.concatenate([c.labels for c in parts]),
        status=sum((c.status for c in parts), ()),
        class_status=sum((c.class_status for c in parts), ()),
        quality=sum((c.quality for c in parts), ()),
        maps={name: np.concatenate([c.maps[name] for c in parts]) for name in parts[0].maps},
    )


def _samples_of_call(
    captured: CapturedImages, request: CaptureRequest, *, num_real: int, config: SeeDiffConfig
) -> AttentionSamples:
    """Return the samples of one network call, of its first `num_real` rows."""
    recorder = captured.recorder
    samples = label_images(
        captured.pixels,
        recorder.cross_map(config.cross_attention_resolution),
        {r: recorder.self_map(r) for r in request.self_resolutions or ()},
        status=captured.status,
        config=config,
    )
    return AttentionSamples(
        images=samples.images[:num_real],
        labels=samples.labels[:num_real],
        status=samples.status[:num_real],
        class_status=samples.class_status[:num_real],
        quality=samples.quality[:num_real],
        maps={name: m[:num_real] for name, m in samples.maps.items()},
    )


def label_kept(
    attention: KeptAttention,
    classes: Sequence[SegmentationClass],
    *,
    config: SeeDiffConfig,
    device: torch.device,
) -> AttentionSamples:
    """Cut the masks of one image from its kept attention.

    Args:
        attention: the image.
        classes: of its prompt.
        config: the method.
        device: where to compute.

    Raises:
        AttentionError: the network has no layer or resolution that `config` asks for.
    """
    sides, side = (
        expansion_sides(attention.self_maps, config=config),
        config.cross_attention_resolution,
    )
    cross = [
        attention.cross_map(
            index, layers=config.for_class(c.slug).cross_attention_layers, side=side
        )
        for index, c in enumerate(classes)
    ]
    pixels = torch.from_numpy(attention.image).permute(2, 0, 1)[None].float()
    return label_images(
        pixels.to(device),
        torch.stack(cross)[None].to(device),
        {r: torch.from_numpy(attention.self_maps[r])[None].to(device).float() for r in sides},
        status=[attention.status],
        config=config,
    )


def label_images(
    pixels: torch.Tensor,
    cross_maps: torch.Tensor,
    self_maps: dict[int, torch.Tensor],
    *,
    status: Sequence[str],
    config: SeeDiffConfig,
) -> AttentionSamples:
    """Return images with their masks, which come from attention and from the pixels that are kept.

    Args:
        pixels: the 8-bit values of the images, float32 [B, 3, H, W] in 0..255.
        cross_maps: float32 [B, P, s, s] of P classes an image; zero where an image has fewer.
        self_maps: float32 [B, N, N] by resolution.
        status: per image "accepted" or why it can't be used.
        config: the method.

    Raises:
        AttentionError: as `class_masks`.
    """
    results = [
        class_masks(cross_maps[:, k], self_maps, config=config, images=pixels / 255)
        for k in range(cross_maps.shape[1])
    ]
    first, labels = results[0], combine_classes(results)
    quality, class_status = _judge_masks(results, labels, status=status, config=config)
    maps = {
        "cross_attention": first.cross_attention,
        **{f"expansion_{r}": m for r, m in first.expansions.items()},
        "background": first.background,
        "soft_mask": first.soft,
    }
    return AttentionSamples(
        images=pixels.permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy(),
        labels=labels.cpu().numpy(),
        status=tuple(statuses[0] for statuses in class_status),
        class_status=class_status,
        quality=quality,
        maps={name: m.cpu().numpy() for name, m in maps.items()},
    )


def _judge_masks(
    results: Sequence[ClassMasks],
    labels: torch.Tensor,
    *,
    status: Sequence[str],
    config: SeeDiffConfig,
) -> tuple[tuple[dict[str, float], ...], tuple[tuple[str, ...], ...]]:
    """Return the scores of each image's first class, and the status of each of its classes."""
    scores = [
        mask_quality(result, mask=labels == k, beta=config.beta)
        for k, result in enumerate(results, start=1)
    ]
    class_status = tuple(
        tuple(
            image
            if image != ACCEPTED
            else mask_status(result.status[row], of_class[row], config=config)
            for result, of_class in zip(results, scores, strict=True)
        )
        for row, image in enumerate(status)
    )
    return tuple(scores[0]), class_status
