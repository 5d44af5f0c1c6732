"""Dataset Diffusion: cross-attention multiplied by powers of self-attention (Nguyen, Vu, Tran and Nguyen, NeurIPS 2023).

    A* = rescale((A_sa)^tau A_ca)

with tau = 4, cross-attention at 16x16 brought to self-attention's 32x32. Pixels between two
thresholds are uncertain: the paper's loss leaves them out, and so does ours, as IGNORE_INDEX.
Self-attention is the aggregate of equation 5 of SeeDiff, whose rows all sum to the same; a power of
it is that of the row-stochastic matrix up to a factor, which `rescale` takes out.

Shape legend: B images; s, S sides of cross- and self-attention; N = S * S.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from seggen_core.attention.pamr import pamr
from seggen_core.attention.seediff import (
    ACCEPTED,
    NO_SEEDS,
    NOT_FINITE,
    SeeDiffMasks,
    rescale,
    upsample,
)


def propagate(cross_map: torch.Tensor, self_map: torch.Tensor, *, power: int) -> torch.Tensor:
    """Return (A_sa)^power A_ca: float32 [B, S, S], not rescaled; `power` products with a vector, never with a matrix.

    Args:
        cross_map: float32 [B, s, s]; enlarged bicubically, as the authors' code does.
        self_map: float32 [B, N, N], row-major.
        power: tau, 0 for cross-attention alone.
    """
    side = round(self_map.shape[1] ** 0.5)
    resized = cross_map
    if cross_map.shape[-1] != side:
        resized = F.interpolate(
            cross_map[:, None], size=(side, side), mode="bicubic", align_corners=False
        )[:, 0]
    vector = resized.flatten(1)[..., None]
    for _ in range(power):
        vector = torch.bmm(self_map, vector)
    return vector[..., 0].view(-1, side, side)


def dataset_diffusion_masks(
    cross_map: torch.Tensor,
    self_map: torch.Tensor,
    *,
    image_size: int,
    power: int,
    threshold: float,
    uncertainty_threshold: float | None,
    images: torch.Tensor | None = None,
    pamr_iterations: int = 10,
    pamr_dilations: Sequence[int] = (1, 2, 4, 8),
) -> SeeDiffMasks:
    """Turn attention of B images into masks of one class each.

    Args:
        cross_map: float [B, s, s], aggregated cross-attention of the class.
        self_map: float32 [B, N, N], aggregated self-attention.
        image_size: side of the masks in pixels.
        power: tau.
        threshold: at least this is the class.
        uncertainty_threshold: at least this, and less than `threshold`, is uncertain; None: nothing
            is.
        images: float [B, 3, H, W]: refine the soft mask by PAMR before it is thresholded (SeeDiff,
            supplement S2.4).
        pamr_iterations: updates of PAMR.
        pamr_dilations: distances of PAMR's neighbours in pixels.

    Returns:
        `SeeDiffMasks` whose only expansion is A*; "no_seeds" is a map without any signal.
    """
    finite = cross_map.float().sum((1, 2)).isfinite() & self_map.sum((1, 2)).isfinite()

    def silence(maps: torch.Tensor) -> torch.Tensor:
        return torch.where(finite[:, None, None], maps, 0.0)

    cross_attention = rescale(silence(cross_map.float()))
    region = rescale(silence(propagate(cross_attention, self_map, power=power)))
    found = region.flatten(1).any(1)
    soft = upsample(region, image_size)
    if images is not None:
        soft = pamr(
            images, soft[:, None], num_iterations=pamr_iterations, dilations=pamr_dilations
        )[:, 0]
    binary = soft >= threshold if threshold > 0 else found[:, None, None].expand_as(soft)
    uncertain = (
        torch.zeros_like(binary)
        if uncertainty_threshold is None
        else (soft >= uncertainty_threshold) & ~binary
    )
    flags = zip(finite.tolist(), found.tolist(), strict=True)
    status = tuple(ACCEPTED if f else (NO_SEEDS if ok else NOT_FINITE) for ok, f in flags)
    seeds = {cross_attention.shape[-1]: cross_attention >= threshold}
    return SeeDiffMasks(
        status,
        binary,
        soft,
        cross_attention,
        seeds,
        {region.shape[-1]: region},
        torch.zeros_like(region),
        uncertain,
    )
