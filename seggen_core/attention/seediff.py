"""SeeDiff: masks by seeded region growing on attention maps (Park, Jo and Baik, AAAI 2025), equations 6 to 12.

Cross-attention gives the first seeds; self-attention, coarse to fine, grows them into a region; the
region's complement grows into a background, which is taken out of it.

What the paper leaves open, and what is done here (docs/attention.md has the measurements):
  - The paper's thresholds (alpha 0.5, beta 0.3) suppose maps that span [0, 1], but averages of
    equations 5 and 7 don't: a mean of self-attention rows peaks far below 0.5 and never reaches
    zero. Every soft map is therefore rescaled to span exactly [0, 1] per image (minimum to 0,
    maximum to 1), as the authors' code does, before it is thresholded or inverted: the
    cross-attention map, each M'_k, M'_bg and M'_final. `normalize` alone decides this; "max" only
    divides by the maximum.
  - Equation 7 indexes A[i, j, :, :] by the seed: read literally it averages the seeds' rows, what
    the seeds look at. "columns" averages A[:, :, i, j] instead, who looks at the seeds; the
    authors' code takes the cosine of rows, who looks where the seeds look. All three are
    `affinity`.
  - A flat map carries no signal: it becomes zero, not one.
  - Equation 7 of no seeds is zero. Without foreground seeds the image is rejected; without
    background seeds nothing is taken out.
  - Equation 12 writes the mask as soft values above beta; the annotation is where they are.

Shape legend: B images; s side of a map; N = s * s, row-major.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F

from seggen_core.attention.pamr import pamr
from seggen_core.errors import AttentionError

SeedThreshold = Literal["fixed", "otsu"]
Affinity = Literal["rows", "columns", "cosine"]
Normalization = Literal["min_max", "max"]
Expansion = Literal["none", "once", "iterative"]

ACCEPTED = "accepted"
NOT_FINITE = "not_finite_attention"
NO_SEEDS = "no_seeds"
_EPSILON = 1e-12


@dataclass(frozen=True)
class SeeDiffMasks:
    """Masks of B images, with everything on the way to them.

    Attributes:
        status: per image "accepted", "not_finite_attention" or "no_seeds"; masks of images not
            accepted are empty.
        binary: bool [B, H, W], equation 12.
        soft: float32 [B, H, W] in [0, 1], M_final, refined where images were given.
        cross_attention: float32 [B, s, s] in [0, 1], rescaled.
        seeds: bool [B, s_k, s_k] per self-attention resolution, S_k of equations 6 and 9.
        expansions: float32 [B, s_k, s_k] in [0, 1] per self-attention resolution, M'_k of equation
            7.
        background: float32 [B, s_K, s_K] in [0, 1], M'_bg.
        uncertain: bool [B, H, W], pixels to be ignored; none for SeeDiff.
    """

    status: tuple[str, ...]
    binary: torch.Tensor
    soft: torch.Tensor
    cross_attention: torch.Tensor
    seeds: dict[int, torch.Tensor]
    expansions: dict[int, torch.Tensor]
    background: torch.Tensor
    uncertain: torch.Tensor


def rescale(maps: torch.Tensor) -> torch.Tensor:
    """Stretch each map of float [B, s, s] to span [0, 1]; a flat one becomes zero."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    span = high - low
    # A flat map isn't flat to the last bit once it has been averaged or interpolated.
    flat = span <= 1e-5 * high.abs().clamp_min(torch.finfo(maps.dtype).tiny)
    return torch.where(flat, 0.0, (maps - low) / span.masked_fill(flat, 1.0))


def normalize(maps: torch.Tensor, normalization: Normalization = "min_max") -> torch.Tensor:
    """Bring each map of float [B, s, s], no value below zero, to [0, 1]: "min_max" is `rescale`, "max" keeps zero where it is."""
    if normalization == "min_max":
        return rescale(maps)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def otsu_threshold(maps: torch.Tensor) -> torch.Tensor:
    """Return Otsu's threshold (1979) of each 8-bit map: the grey value that best splits it in two, values up to it below.

    Args:
        maps: integer [B, s, s] in 0..255.

    Returns:
        int64 [B].
    """
    counts = torch.zeros(maps.shape[0], 256, dtype=torch.float64, device=maps.device)
    values = maps.flatten(1).long()
    counts.scatter_add_(1, values, torch.ones_like(values, dtype=torch.float64))
    share = counts / values.shape[1]
    below = share.cumsum(1)
    moment = (share * torch.arange(256, device=maps.device)).cumsum(1)
    mean = moment[:, -1:]
    # Between-class variance w0 w1 (m0 - m1)^2 = (mean * w0 - moment)^2 / (w0 w1); nothing to split
    # where a side is empty.
    weight = below * (1 - below)
    split = weight > _EPSILON
    variance = torch.where(
        split, (mean * below - moment).square() / weight.masked_fill(~split, 1), 0.0
    )
    return variance.argmax(dim=1)


def select_seeds(
    maps: torch.Tensor, *, alpha: float, seed_threshold: SeedThreshold = "fixed"
) -> torch.Tensor:
    """Return where a map is at least alpha, equations 6 and 9: bool [B, s, s] from float [B, s, s] in [0, 1].

    "otsu" replaces alpha by Otsu's threshold of the squared map in 8 bits, as the authors' code
    does.
    """
    if seed_threshold == "fixed":
        return maps >= alpha
    grey = (maps.square() * 255).long()
    return grey > otsu_threshold(grey)[:, None, None]


def expand_region(
    self_map: torch.Tensor, seeds: torch.Tensor, *, affinity: Affinity = "rows"
) -> torch.Tensor:
    """Return how much each position belongs with the seeds, M'_k of equation 7: float32 [B, s, s]; zero without a seed.

    Costs O(N^2) for each affinity: the cosines of a position with all seeds add up to one product
    with the seeds' mean direction, so no [N, N] matrix of cosines is made.

    Args:
        self_map: float32 [B, N, N], row i * s + j is A[i, j, :, :].
        seeds: bool [B, s, s].
        affinity: what is averaged over the seeds (i, j): "rows" A[i, j, :, :], "columns" A[:, :, i,
            j], or "cosine", the cosine of row (i, j) with the row of each position.
    """
    chosen = seeds.flatten(1).to(self_map.dtype)
    if affinity == "cosine":
        length = self_map.norm(dim=2).clamp_min(_EPSILON)
        direction = torch.bmm((chosen / length)[:, None], self_map)
        total = torch.bmm(self_map, direction.transpose(1, 2))[..., 0] / length
    elif affinity == "columns":
        total = torch.bmm(self_map, chosen[..., None])[..., 0]
    else:
        total = torch.bmm(chosen[:, None], self_map)[:, 0]
    return (total / chosen.sum(1, keepdim=True).clamp_min(1)).view(seeds.shape)


def upsample(maps: torch.Tensor, size: int) -> torch.Tensor:
    """Bilinear upsampling to `size` x `size`, equation 8: float [B, size, size] from float [B, s, s]."""
    return F.interpolate(maps[:, None], size=(size, size), mode="bilinear", align_corners=False)[
        :, 0
    ]


def remove_background(region: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Return M'_final = (1 - M'_bg) * M'_K, equation 11, for float [B, s, s] in [0, 1]."""
    return (1 - background) * region


def seediff_masks(
    cross_map: torch.Tensor,
    self_maps: dict[int, torch.Tensor],
    *,
    image_size: int,
    alpha: float,
    beta: float,
    seed_threshold: SeedThreshold = "fixed",
    affinity: Affinity = "rows",
    normalization: Normalization = "min_max",
    expansion: Expansion = "iterative",
    background_expansion: bool = True,
    images: torch.Tensor | None = None,
    pamr_iterations: int = 10,
    pamr_dilations: Sequence[int] = (1, 2, 4, 8),
) -> SeeDiffMasks:
    """Turn attention of B images into masks of one class each. An image's mask depends on no other image.

    The rows of the paper's Table 2 are expansion "none" without background (CAA), "once" (CRE),
    "iterative" (IRE) and the same with background expansion (BE).

    Args:
        cross_map: float [B, s, s], aggregated cross-attention of the class (equation 5).
        self_maps: float32 [B, N, N] per resolution, aggregated self-attention; those coarser than
            `cross_map` aren't used. The paper takes s = 16 and self-attention at 16, 32 and 64; a
            model that has other resolutions is used as it is.
        image_size: side of the masks in pixels.
        alpha: seed threshold, equations 6 and 9.
        beta: threshold of the annotation, equation 12.
        seed_threshold: "fixed" compares with alpha; "otsu" is the authors' code's choice.
        affinity: how self-attention is read, see `expand_region`.
        normalization: how soft maps are brought to [0, 1].
        expansion: "iterative" over all resolutions, "once" at the coarsest, or "none": the mask is
            the cross-attention map.
        background_expansion: grow the background too and take it out, equations 10 and 11.
        images: float [B, 3, H, W]: refine the soft mask by PAMR on these before it is binarised
            (supplement S2.4).
        pamr_iterations: updates of PAMR.
        pamr_dilations: distances of PAMR's neighbours in pixels.

    Raises:
        AttentionError: regions are to grow, and there is no self-attention at the resolution of
            `cross_map` or finer.
    """
    resolutions = sorted(r for r in self_maps if r >= cross_map.shape[-1])
    growing = expansion != "none" or background_expansion
    if growing and not resolutions:
        raise AttentionError(
            f"regions grow on self-attention at {cross_map.shape[-1]}x{cross_map.shape[-1]} or finer, but only "
            f"{sorted(self_maps)} was captured; choose a coarser cross-attention resolution"
        )
    finest = resolutions[-1:] if background_expansion else []
    used = {"none": finest, "once": resolutions[:1], "iterative": resolutions}[expansion]
    status = [ACCEPTED] * cross_map.shape[0]

    def reject(bad: torch.Tensor, reason: str) -> None:
        for image in bad.nonzero().flatten().tolist():
            status[image] = reason if status[image] == ACCEPTED else status[image]

    # 1. An image with a NaN or an infinity anywhere is out, and must not spread.
    finite = cross_map.float().sum((1, 2)).isfinite()
    for resolution in used:
        finite &= self_maps[resolution].sum((1, 2)).isfinite()
    reject(~finite, NOT_FINITE)

    def expand(resolution: int, chosen: torch.Tensor) -> torch.Tensor:
        region = expand_region(self_maps[resolution], chosen, affinity=affinity)
        return normalize(torch.where(finite[:, None, None], region, 0.0), normalization)

    # 2. Seeds from cross-attention; then grow, upsample, take seeds again: equations 6 to 9.
    cross_attention = soft = normalize(
        torch.where(finite[:, None, None], cross_map.float(), 0.0), normalization
    )
    seeds, expansions = {}, {}
    for resolution in used if expansion != "none" else []:
        soft = soft if soft.shape[-1] == resolution else upsample(soft, resolution)
        seeds[resolution] = select_seeds(soft, alpha=alpha, seed_threshold=seed_threshold)
        reject(~seeds[resolution].flatten(1).any(1), NO_SEEDS)
        soft = expansions[resolution] = expand(resolution, seeds[resolution])
    if not seeds:
        seeds[soft.shape[-1]] = select_seeds(soft, alpha=alpha, seed_threshold=seed_threshold)
        reject(~seeds[soft.shape[-1]].flatten(1).any(1), NO_SEEDS)

    # 3. Grow the background from the inverted mask and take it out: equations 10 and 11.
    background = torch.zeros_like(soft)
    if background_expansion:
        soft = soft if soft.shape[-1] == used[-1] else upsample(soft, used[-1])
        background = expand(
            used[-1], select_seeds(1 - soft, alpha=alpha, seed_threshold=seed_threshold)
        )
        soft = normalize(remove_background(soft, background), normalization)

    # 4. Full resolution, refinement, annotation: equation 12.
    soft = upsample(soft, image_size)
    if images is not None:
        soft = pamr(
            images, soft[:, None], num_iterations=pamr_iterations, dilations=pamr_dilations
        )[:, 0]
    accepted = torch.tensor([s == ACCEPTED for s in status], device=soft.device)
    soft = torch.where(accepted[:, None, None], soft, 0.0)
    binary = (soft >= beta) & accepted[:, None, None]
    uncertain = torch.zeros_like(binary)
    return SeeDiffMasks(
        tuple(status), binary, soft, cross_attention, seeds, expansions, background, uncertain
    )
