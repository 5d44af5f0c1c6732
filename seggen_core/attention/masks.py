"""What all ways from attention to a mask share: their result, and the scale of their maps.

Shape legend: B images; s side of a map; H, W of the image.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

ACCEPTED = "accepted"
NOT_FINITE = "not_finite_attention"
NO_SEEDS = "no_seeds"


@dataclass(frozen=True)
class ClassMasks:
    """Masks of one class in B images, with everything on the way to them."""

    status: tuple[str, ...]
    """Per image "accepted", "not_finite_attention" or "no_seeds"; masks of images not accepted are
    empty."""
    binary: torch.Tensor
    """bool [B, H, W]."""
    soft: torch.Tensor
    """float32 [B, H, W] in [0, 1], refined where a refiner was given."""
    cross_attention: torch.Tensor
    """float32 [B, s, s] in [0, 1], rescaled."""
    seeds: dict[int, torch.Tensor]
    """bool [B, s_k, s_k] per self-attention resolution, S_k of SeeDiff's equations 6 and 9."""
    expansions: dict[int, torch.Tensor]
    """float32 [B, s_k, s_k] in [0, 1] per self-attention resolution, M'_k of SeeDiff's equation 7,
    or A* of Dataset Diffusion."""
    background: torch.Tensor
    """float32 [B, s_K, s_K] in [0, 1], M'_bg of SeeDiff; zero for the others."""
    uncertain: torch.Tensor
    """bool [B, H, W], pixels to be ignored; none for SeeDiff."""


def silence(maps: torch.Tensor, finite: torch.Tensor) -> torch.Tensor:
    """Return maps, float [B, s, s], with zeros for the images that aren't `finite`, bool [B]."""
    return torch.where(finite[:, None, None], maps, 0.0)


def attention_status(finite: torch.Tensor, has_seeds: torch.Tensor) -> tuple[str, ...]:
    """Return what becomes of each image, from bool [B]: it needs finite attention and seeds."""
    return tuple(
        NOT_FINITE if not is_finite else ACCEPTED if seeded else NO_SEEDS
        for is_finite, seeded in zip(finite.tolist(), has_seeds.tolist(), strict=True)
    )


def mask_iou(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the IoU of masks bool [B, H, W], pair by pair: float32 [B], 0 where both are empty."""
    both, either = (first & second).sum((1, 2)), (first | second).sum((1, 2))
    return both / either.clamp_min(1)


def rescale(maps: torch.Tensor) -> torch.Tensor:
    """Stretch each map of float [B, s, s] to span [0, 1]; a flat one becomes zero."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    # A flat map isn't flat to the last bit once it has been averaged or interpolated.
    flat = span <= 1e-5 * high.abs().clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.where(flat, 0.0, (maps - low) / span.masked_fill(flat, 1.0))


def upsample(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Enlarge maps bilinearly, SeeDiff's equation 8: float [B, size, size] from [B, s, s]."""
    enlarged = F.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)
    return enlarged[:, 0]
