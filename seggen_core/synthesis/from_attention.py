"""Images and their masks from one text-to-image pipeline and its own attention (SeeDiff, Dataset Diffusion, DiffuMask).

A mask knows the classes that its prompt names. What is outside them may be anything, and is ignored
in training unless the taxonomy has a class of its own for background.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seggen_core.attention.capture import (
    AttentionRecorder,
    capture_attention,
    list_attention_layers,
)
from seggen_core.attention.dataset_diffusion import dataset_diffusion_masks
from seggen_core.attention.seediff import SeeDiffMasks, seediff_masks
from seggen_core.config import SamplingConfig, SeeDiffConfig
from seggen_core.errors import AttentionError
from seggen_core.generators.foundation import vae_scale_factor
from seggen_core.generators.sampling import make_scheduler
from seggen_core.project.chunks import padded_chunks
from seggen_core.synthesis.mask_quality import (
    FLAGGED_IMAGE,
    NOT_FINITE_IMAGE,
    mask_quality,
    mask_status,
)
from seggen_core.synthesis.prompts import ClassPrompt
from seggen_core.taxonomy import IGNORE_INDEX
from seggen_core.training.precision import autocast


@dataclass(frozen=True, eq=False)
class AttentionSamples:
    """B images with masks of the classes each was prompted with.

    Attributes:
        images: uint8 [B, H, W, 3].
        labels: uint8 [B, H, W]: k where class k (from 1) of the image's prompt is, 0 outside,
            IGNORE_INDEX where uncertain.
        status: per image "accepted" or why its mask can't be used.
        quality: per image the scores of `mask_quality`, of its prompt's first class.
        maps: float32 [B, s, s] in [0, 1] by name: cross_attention, expansion_<s> for each scale,
            background, soft_mask; of the first class.
    """

    images: np.ndarray
    labels: np.ndarray
    status: tuple[str, ...]
    quality: tuple[dict[str, float], ...]
    maps: dict[str, np.ndarray]

    @property
    def masks(self) -> np.ndarray:
        """Where the first class is: bool [B, H, W]."""
        return self.labels == 1


def seediff_self_resolutions(unet: Any, *, config: SeeDiffConfig, latent_size: int) -> list[int]:
    """Return the self-attention resolutions that `config.strategy` needs: those of the seeds' and finer, for "ca" none.

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
            f"seediff.cross_attention_resolution is {config.cross_attention_resolution}, but with {latent_size}x{latent_size} "
            f"latents the chosen cross-attention layers have {', '.join(map(str, available))}; choose one of these"
        )
    existing = {a.resolution for a in layers if not a.is_cross}
    if missing := sorted(set(config.self_attention_resolutions or ()) - existing):
        raise AttentionError(
            f"seediff.self_attention_resolutions has {', '.join(map(str, missing))}, but with {latent_size}x{latent_size} "
            f"latents this network has self-attention at {', '.join(map(str, sorted(existing)))}"
        )
    if config.strategy == "ca":
        return []
    wanted = (
        existing
        if config.self_attention_resolutions is None
        else set(config.self_attention_resolutions)
    )
    return sorted(r for r in wanted if r >= config.cross_attention_resolution)


def class_masks(
    cross_map: torch.Tensor,
    self_maps: dict[int, torch.Tensor],
    *,
    config: SeeDiffConfig,
    images: torch.Tensor,
) -> SeeDiffMasks:
    """Return the masks of one class an image by `config.strategy`.

    Args:
        cross_map: float32 [B, s, s].
        self_maps: float32 [B, N, N] by resolution.
        config: strategy and its settings.
        images: float32 [B, 3, H, W] in [0, 1], for PAMR; square.

    Raises:
        AttentionError: self-attention isn't there at the resolution that the strategy needs.
    """
    shared: dict[str, Any] = {
        "image_size": images.shape[-1],
        "images": images if config.pamr else None,
        "pamr_iterations": config.pamr_iterations,
        "pamr_dilations": config.pamr_dilations,
    }
    if config.strategy == "ca_sa":
        # The paper takes 32x32 of 8, 16, 32 and 64: the coarsest that is finer than
        # cross-attention.
        finer = sorted(r for r in self_maps if r > cross_map.shape[-1]) or sorted(self_maps)
        if not finer:
            raise AttentionError(
                "strategy ca_sa needs self-attention, but none was captured; name a resolution that there is"
            )
        return dataset_diffusion_masks(
            cross_map,
            self_maps[finer[0]],
            power=config.power,
            threshold=config.beta,
            uncertainty_threshold=config.uncertainty_threshold,
            **shared,
        )
    return seediff_masks(
        cross_map,
        self_maps,
        alpha=config.alpha,
        beta=config.beta,
        seed_threshold=config.seed_threshold,
        affinity=config.affinity,
        normalization=config.normalization,
        expansion="none" if config.strategy == "ca" else config.expansion,
        background_expansion=config.background_expansion and config.strategy == "seediff",
        **shared,
    )


def combine_classes(results: Sequence[SeeDiffMasks]) -> torch.Tensor:
    """Return the label maps of several classes, uint8 [B, H, W] as in `AttentionSamples`.

    A pixel that several classes claim goes to the one with the largest soft mask, the first of
    equals; one that none claims is uncertain where some class is, else background.
    """
    claims = torch.stack([torch.where(r.binary, r.soft, -1.0) for r in results])
    largest, winner = claims.max(dim=0)
    uncertain = torch.stack([r.uncertain for r in results]).any(0)
    outside = torch.where(uncertain, IGNORE_INDEX, 0)
    return torch.where(largest >= 0, winner + 1, outside).to(torch.uint8)


def run_with_capture(
    pipeline: Any,
    *,
    prompts: Sequence[ClassPrompt],
    generators: Sequence[torch.Generator],
    sampling: SamplingConfig,
    image_size: int,
    dtype: torch.dtype,
    **capture: Any,
) -> tuple[torch.Tensor, list[bool], AttentionRecorder]:
    """Make one image per prompt, all in one call of the networks, and record attention.

    The autoencoder decodes in float32 outside of autocast, as `generators.sampling` does.

    Args:
        pipeline: a diffusers text-to-image pipeline with a UNet; with the scheduler to sample by.
        prompts: B prompts.
        generators: of the noise of each.
        sampling: steps and guidance.
        image_size: side of the images in pixels.
        dtype: precision of network calls.
        capture: further arguments of `capture_attention`.

    Returns:
        images float32 [B, 3, H, W] in [0, 1], NaN where decoding failed; for each whether the
        pipeline's safety checker, if it has one, flags it; what was recorded.
    """
    device = pipeline.unet.device
    class_tokens = [list(p.tokens) for p in prompts]
    with (
        capture_attention(pipeline.unet, class_tokens=class_tokens, **capture) as recorder,
        autocast(device, dtype),
    ):
        latents = pipeline(
            prompt=[p.text for p in prompts],
            generator=list(generators),
            num_inference_steps=sampling.num_inference_steps,
            guidance_scale=sampling.guidance_scale,
            height=image_size,
            width=image_size,
            output_type="latent",
        ).images
    decoded = (
        pipeline.vae.decode(latents.float() / pipeline.vae.config.scaling_factor)
        .sample.mul(0.5)
        .add(0.5)
        .clamp(0, 1)
    )
    flagged = [False] * len(prompts)
    if getattr(pipeline, "safety_checker", None) is not None:
        _, flags = pipeline.run_safety_checker(decoded.nan_to_num(), device, torch.float32)
        flagged = flagged if flags is None else [bool(f) for f in flags]
    return decoded, flagged, recorder


@torch.no_grad()
def generate_from_attention(
    pipeline: Any,
    *,
    prompts: Sequence[ClassPrompt],
    generators: Callable[[int], torch.Generator],
    config: SeeDiffConfig,
    image_size: int,
    dtype: torch.dtype,
) -> AttentionSamples:
    """Generate one image per prompt, and from the attention that made it the masks of its classes.

    Args:
        pipeline: a diffusers text-to-image pipeline with a UNet (SD 1.x, 2.x, XL).
        prompts: B prompts; prompt k is computed in row ``k % micro_batch_size`` of a network call,
            which rounding may depend on.
        generators: returns a fresh generator for the noise of prompt i.
        config: sampler and settings of the method.
        image_size: side of the images in pixels.
        dtype: precision of network calls; attention maps are float32 always.

    Raises:
        AttentionError: the network's attention can't be captured, or not at the resolution asked
            for.
    """
    latent_size = image_size // vae_scale_factor(pipeline)
    self_resolutions = seediff_self_resolutions(
        pipeline.unet, config=config, latent_size=latent_size
    )
    chunks = []
    own_scheduler = pipeline.scheduler
    pipeline.scheduler = make_scheduler(pipeline, config.sampling)
    try:
        for indices, real in padded_chunks(range(len(prompts)), config.sampling.micro_batch_size):
            # 1. Images, with their attention recorded beside.
            decoded, flagged, recorder = run_with_capture(
                pipeline,
                prompts=[prompts[i] for i in indices],
                generators=[generators(i) for i in indices],
                sampling=config.sampling,
                image_size=image_size,
                dtype=dtype,
                cross_layers=config.cross_attention_layers,
                cross_resolutions=[config.cross_attention_resolution],
                self_resolutions=self_resolutions,
            )

            # 2. Masks, from attention and from the very pixels that are kept.
            pixels = decoded.nan_to_num().mul(255).round()
            cross_maps = recorder.cross_map(config.cross_attention_resolution)
            self_maps = {r: recorder.self_map(r) for r in recorder.self_resolutions}
            results = [
                class_masks(cross_maps[:, k], self_maps, config=config, images=pixels / 255)
                for k in range(cross_maps.shape[1])
            ]
            labels = combine_classes(results)
            quality = mask_quality(results[0], mask=labels == 1, beta=config.beta)
            status = [
                mask_status(results[0].status[k], quality[k], config=config) for k in range(real)
            ]
            for k, finite in enumerate(decoded[:real].isfinite().flatten(1).all(1).tolist()):
                status[k] = (
                    FLAGGED_IMAGE if flagged[k] else status[k] if finite else NOT_FINITE_IMAGE
                )
            named = {"cross_attention": results[0].cross_attention}
            named |= {f"expansion_{r}": m for r, m in results[0].expansions.items()}
            named |= {"background": results[0].background, "soft_mask": results[0].soft}
            chunks.append(
                AttentionSamples(
                    images=pixels[:real].permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy(),
                    labels=labels[:real].cpu().numpy(),
                    status=tuple(status),
                    quality=tuple(quality[:real]),
                    maps={name: m[:real].cpu().numpy() for name, m in named.items()},
                )
            )
    finally:
        pipeline.scheduler = own_scheduler
    return AttentionSamples(
        images=np.concatenate([c.images for c in chunks]),
        labels=np.concatenate([c.labels for c in chunks]),
        status=sum((c.status for c in chunks), ()),
        quality=sum((c.quality for c in chunks), ()),
        maps={name: np.concatenate([c.maps[name] for c in chunks]) for name in chunks[0].maps},
    )


def to_segmentation_map(
    labels: np.ndarray, *, train_ids: Sequence[int], background_id: int = IGNORE_INDEX
) -> np.ndarray:
    """Return uint8 [H, W]: the train id of each label of `AttentionSamples.labels` [H, W], `background_id` outside."""
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[0] = background_id
    table[1 : len(train_ids) + 1] = train_ids
    return table[labels]
