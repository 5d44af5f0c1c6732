"""Images and their masks from one text-to-image pipeline and its own attention (SeeDiff).

The mask knows one class, the one in the prompt. What is outside it may be anything, and is ignored in training unless the
taxonomy has a class of its own for background.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seggen_core.attention.capture import capture_attention, list_attention_layers
from seggen_core.attention.seediff import ACCEPTED, SeeDiffMasks, seediff_masks
from seggen_core.attention.tokens import class_token_positions
from seggen_core.config import SeeDiffConfig
from seggen_core.errors import AttentionError
from seggen_core.generators.foundation import vae_scale_factor
from seggen_core.generators.sampling import autocast, make_scheduler, padded_chunks
from seggen_core.taxonomy import IGNORE_INDEX

NOT_FINITE_IMAGE = "not_finite_image"
FLAGGED_IMAGE = "flagged_by_safety_checker"
MASK_TOO_SMALL = "mask_too_small"
MASK_TOO_LARGE = "mask_too_large"
SECOND_THRESHOLD_STEP = 0.2
"""How far above beta the second threshold lies, under which a confident mask hardly changes."""


@dataclass(frozen=True, eq=False)
class AttentionSamples:
    """B images with masks of the class each was prompted with.

    Attributes:
        images: uint8 [B, H, W, 3].
        masks: bool [B, H, W].
        status: per image "accepted" or why its mask can't be used.
        quality: per image mask_area (share of the image), seed_count (equation 6), contrast (mean soft mask inside less outside)
            and threshold_agreement (IoU of the mask with the one at beta + 0.2).
        maps: float32 [B, s, s] in [0, 1] by name: cross_attention, expansion_<s> for each scale, background, soft_mask.
    """

    images: np.ndarray
    masks: np.ndarray
    status: tuple[str, ...]
    quality: tuple[dict[str, float], ...]
    maps: dict[str, np.ndarray]


def seediff_self_resolutions(unet: Any, *, config: SeeDiffConfig, latent_size: int) -> list[int]:
    """Return the self-attention resolutions that SeeDiff grows on: those of the seeds' and finer.

    Raises:
        AttentionError: the chosen cross-attention layers have no map at `config.cross_attention_resolution`.
    """
    layers = list_attention_layers(unet, latent_size=latent_size)
    chosen = [
        a for a in layers if a.is_cross and (config.cross_attention_layers is None or a.name in config.cross_attention_layers)
    ]
    available = sorted({a.resolution for a in chosen})
    # An empty choice is a misspelt layer, which capture reports with the names that there are.
    if chosen and config.cross_attention_resolution not in available:
        raise AttentionError(
            f"seediff.cross_attention_resolution is {config.cross_attention_resolution}, but with {latent_size}x{latent_size} "
            f"latents the chosen cross-attention layers have {', '.join(map(str, available))}; choose one of these"
        )
    return sorted({a.resolution for a in layers if not a.is_cross and a.resolution >= config.cross_attention_resolution})


@torch.no_grad()
def generate_from_attention(
    pipeline: Any,
    *,
    prompts: Sequence[str],
    class_names: Sequence[str],
    generators: Callable[[int], torch.Generator],
    config: SeeDiffConfig,
    image_size: int,
    dtype: torch.dtype,
) -> AttentionSamples:
    """Generate one image per prompt, and from the attention that made it the mask of its class.

    Args:
        pipeline: a diffusers text-to-image pipeline with a UNet (SD 1.x, 2.x, XL); its scheduler is replaced.
        prompts: B prompts; prompt k is computed in row ``k % micro_batch_size`` of a network call, which rounding may depend on.
        class_names: the class of each, as its prompt writes it.
        generators: returns a fresh generator for the noise of prompt i.
        config: sampler and settings of SeeDiff.
        image_size: side of the images in pixels.
        dtype: precision of network calls; attention maps are float32 always.

    Raises:
        PromptError: a prompt doesn't name its class.
        AttentionError: the network's attention can't be captured, or not at the resolution asked for.
    """
    tokens = [
        [class_token_positions(pipeline.tokenizer, prompt=p, class_name=c)] for p, c in zip(prompts, class_names, strict=True)
    ]
    latent_size = image_size // vae_scale_factor(pipeline)
    self_resolutions = seediff_self_resolutions(pipeline.unet, config=config, latent_size=latent_size)
    pipeline.scheduler = make_scheduler(pipeline, config.sampling)
    device = pipeline.unet.device
    chunks = []
    for indices, real in padded_chunks(range(len(prompts)), config.sampling.micro_batch_size):
        # 1. Images, with their attention recorded beside.
        with (
            capture_attention(
                pipeline.unet,
                class_tokens=[tokens[i] for i in indices],
                cross_layers=config.cross_attention_layers,
                cross_resolutions=[config.cross_attention_resolution],
                self_resolutions=self_resolutions,
            ) as recorder,
            autocast(device, dtype),
        ):
            output = pipeline(
                prompt=[prompts[i] for i in indices],
                generator=[generators(i) for i in indices],
                num_inference_steps=config.sampling.num_inference_steps,
                guidance_scale=config.sampling.guidance_scale,
                height=image_size,
                width=image_size,
                output_type="pt",
            )

        # 2. Masks, from attention and from the very pixels that are kept.
        decoded = output.images.float()
        pixels = decoded.nan_to_num().clamp(0, 1).mul(255).round()
        result = seediff_masks(
            recorder.cross_map(config.cross_attention_resolution)[:, 0],
            {r: recorder.self_map(r) for r in recorder.self_resolutions},
            image_size=image_size,
            alpha=config.alpha,
            beta=config.beta,
            seed_threshold=config.seed_threshold,
            images=pixels / 255 if config.pamr else None,
            pamr_iterations=config.pamr_iterations,
            pamr_dilations=config.pamr_dilations,
        )
        quality = mask_quality(result, beta=config.beta)
        status = [mask_status(result.status[k], quality[k], config=config) for k in range(real)]
        # A safety checker, where the pipeline has one, blacks out what it flags; attention knows nothing of that.
        flagged = getattr(output, "nsfw_content_detected", None) or [False] * real
        for k, finite in enumerate(decoded[:real].isfinite().flatten(1).all(1).tolist()):
            status[k] = FLAGGED_IMAGE if flagged[k] else status[k] if finite else NOT_FINITE_IMAGE
        named = {"cross_attention": result.cross_attention}
        named |= {f"expansion_{r}": m for r, m in result.expansions.items()}
        named |= {"background": result.background, "soft_mask": result.soft}
        chunks.append(
            AttentionSamples(
                images=pixels[:real].permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy(),
                masks=result.binary[:real].cpu().numpy(),
                status=tuple(status),
                quality=tuple(quality[:real]),
                maps={name: m[:real].cpu().numpy() for name, m in named.items()},
            )
        )
    return AttentionSamples(
        images=np.concatenate([c.images for c in chunks]),
        masks=np.concatenate([c.masks for c in chunks]),
        status=sum((c.status for c in chunks), ()),
        quality=sum((c.quality for c in chunks), ()),
        maps={name: np.concatenate([c.maps[name] for c in chunks]) for name in chunks[0].maps},
    )


def mask_quality(result: SeeDiffMasks, *, beta: float) -> list[dict[str, float]]:
    """Return the quality scores of `AttentionSamples` for each image; zero where there is no mask to score."""
    inside = result.binary
    area = inside.float().mean((1, 2))
    mass, pixels = (result.soft * inside).sum((1, 2)), inside.sum((1, 2))
    mean_inside = mass / pixels.clamp_min(1)
    mean_outside = (result.soft.sum((1, 2)) - mass) / (~inside).sum((1, 2)).clamp_min(1)
    # The mask at the higher threshold lies within the other, so their IoU is the ratio of their areas.
    confident = ((result.soft >= beta + SECOND_THRESHOLD_STEP) & inside).sum((1, 2))
    scores = {
        "mask_area": area,
        "seed_count": result.seeds[min(result.seeds)].sum((1, 2)),
        "contrast": (mean_inside - mean_outside) * (pixels > 0),
        "threshold_agreement": confident / pixels.clamp_min(1),
    }
    columns = {name: values.tolist() for name, values in scores.items()}
    return [{name: round(float(values[i]), 6) for name, values in columns.items()} for i in range(len(result.status))]


def mask_status(status: str, quality: dict[str, float], *, config: SeeDiffConfig) -> str:
    """Return `status`, or why a mask that SeeDiff accepted can't be used: its area is outside the configured range."""
    if status != ACCEPTED:
        return status
    if quality["mask_area"] < config.min_mask_area:
        return MASK_TOO_SMALL
    return MASK_TOO_LARGE if quality["mask_area"] > config.max_mask_area else ACCEPTED


def to_segmentation_map(mask: np.ndarray, *, train_id: int, background_id: int = IGNORE_INDEX) -> np.ndarray:
    """Return uint8 [H, W]: `train_id` where bool [H, W] `mask` holds, `background_id` elsewhere."""
    return np.where(mask, train_id, background_id).astype(np.uint8)
