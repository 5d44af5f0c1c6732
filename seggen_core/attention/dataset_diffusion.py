"""Dataset Diffusion: cross-attention multiplied by powers of self-attention.

Nguyen, Vu, Tran and Nguyen, NeurIPS 2023:

    A* = rescale((A_sa)^tau A_ca)

with tau = 4, cross-attention at 16x16 brought to self-attention's 32x32. Pixels between two
thresholds are uncertain: the paper's loss leaves them out, and so does ours, as IGNORE_INDEX.
Self-attention is the aggregate of equation 5 of SeeDiff, whose rows all sum to the same; a power of
it is that of the row-stochastic matrix up to a factor, which `rescale` takes out.

Shape legend: B images; s, S sides of cross- and self-attention; N = S * S.
"""

import torch
import torch.nn.functional as F

from seggen_core.attention.masks import ClassMasks, attention_status, rescale, silence, upsample
from seggen_core.attention.pamr import MaskRefiner


def propagate(cross_map: torch.Tensor, self_map: torch.Tensor, *, power: int) -> torch.Tensor:
    """Return (A_sa)^power A_ca: float32 [B, S, S], not rescaled.

    Takes `power` products of a matrix with a vector, never with a matrix.

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
    refiner: MaskRefiner | None = None,
) -> ClassMasks:
    """Turn attention of B images into masks of one class each.

    Args:
        cross_map: float [B, s, s], aggregated cross-attention of the class.
        self_map: float32 [B, N, N], aggregated self-attention.
        image_size: side of the masks in pixels.
        power: tau.
        threshold: at least this is the class.
        uncertainty_threshold: at least this, and less than `threshold`, is uncertain; None: nothing
            is.
        refiner: refines the soft mask before it is thresholded (SeeDiff, supplement S2.4).

    Returns:
        `ClassMasks` whose only expansion is A*; "no_seeds" is a map without any signal.
    """
    finite = cross_map.float().sum((1, 2)).isfinite() & self_map.sum((1, 2)).isfinite()
    cross_attention = rescale(silence(cross_map.float(), finite))
    region = rescale(silence(propagate(cross_attention, self_map, power=power), finite))
    signal = region.flatten(1).any(1)
    soft = upsample(region, image_size)
    soft = soft if refiner is None else refiner.refine(soft)
    binary = soft >= threshold if threshold > 0 else signal[:, None, None].expand_as(soft)
    uncertain = torch.zeros_like(binary)
    if uncertainty_threshold is not None:
        uncertain = (soft >= uncertainty_threshold) & ~binary
    return ClassMasks(
        status=attention_status(finite, signal),
        binary=binary,
        soft=soft,
        cross_attention=cross_attention,
        seeds={cross_attention.shape[-1]: cross_attention >= threshold},
        expansions={region.shape[-1]: region},
        background=torch.zeros_like(region),
        uncertain=uncertain,
    )
