"""SeeDiff: masks by seeded region growing on attention maps, equations 6 to 12.

Park, Jo and Baik, AAAI 2025.

Cross-attention gives the first seeds; self-attention, coarse to fine, grows them into a region; the
region's complement grows into a background, which is taken out of it.

What the paper leaves open, and what is done here (docs/attention.md has the measurements):
  - The paper's thresholds (alpha 0.5, beta 0.3) suppose maps that span [0, 1], but averages of
    equations 5 and 7 don't: a mean of self-attention rows peaks far below 0.5 and never reaches
    zero. Every soft map is therefore rescaled to span exactly [0, 1] per image (minimum to 0,
    maximum to 1), as the authors' code does, before it is thresholded or inverted: the
    cross-attention map, each M'_k, M'_bg and M'_final. `normalize` alone decides this; "max" only
    divides by the maximum.
  - Equation 7 indexes A[i, j, :, :] by the seed: read literally it averages the seeds' rows: the
    pixels that the seeds attend to. "columns" averages A[:, :, i, j] instead: the pixels that
    attend to the seeds. The authors' code takes the cosine of rows: the pixels that attend as the
    seeds do. `affinity` chooses among the three.
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

from seggen_core.attention.masks import (
    ACCEPTED,
    ClassMasks,
    attention_status,
    rescale,
    silence,
    upsample,
)
from seggen_core.attention.pamr import MaskRefiner
from seggen_core.errors import AttentionError

SeedThreshold = Literal["fixed", "otsu"]
Affinity = Literal["rows", "columns", "cosine"]
Normalization = Literal["min_max", "max"]
Expansion = Literal["none", "once", "each", "iterative"]

_EPSILON = 1e-12


@dataclass(frozen=True)
class SeeDiffSettings:
    """How regions grow from seeds.

    The rows of the paper's Table 2 are expansion "none" without background (CAA), "each" (CRE),
    "iterative" (IRE) and the same with background expansion (BE).
    """

    alpha: float
    """Seed threshold, equations 6 and 9."""
    beta: float
    """Threshold of the annotation, equation 12."""
    seed_threshold: SeedThreshold = "fixed"
    """"fixed" compares with alpha; "otsu" is the authors' code's choice."""
    affinity: Affinity = "rows"
    """How self-attention is read, see `expand_region`."""
    normalization: Normalization = "min_max"
    """How soft maps are brought to [0, 1]."""
    expansion: Expansion = "iterative"
    """"iterative" over all resolutions; "each" grows the cross-attention map's seeds at each
    resolution and averages the regions; "once" does so at the coarsest alone; with "none" the mask
    is the cross-attention map."""
    background_expansion: bool = True
    """Grow the background too and take it out, equations 10 and 11."""


def normalize(maps: torch.Tensor, normalization: Normalization = "min_max") -> torch.Tensor:
    """Bring each map of float [B, s, s], no value below zero, to [0, 1].

    "min_max" is `rescale`; "max" divides by the maximum, which keeps zero where it is.
    """
    if normalization == "min_max":
        return rescale(maps)
    return maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)


def otsu_threshold(maps: torch.Tensor) -> torch.Tensor:
    """Return Otsu's threshold (1979) of each 8-bit map.

    It is the grey value that best splits the map in two: values up to it, and values above it.

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
    """Return where a map is at least alpha, equations 6 and 9.

    Takes float [B, s, s] in [0, 1], returns bool [B, s, s].

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
    """Return how much each position belongs with the seeds, M'_k of equation 7.

    The result is float32 [B, s, s], zero without a seed.

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


def remove_background(region: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Return M'_final = (1 - M'_bg) * M'_K, equation 11, for float [B, s, s] in [0, 1]."""
    return (1 - background) * region


@dataclass(frozen=True, eq=False)
class _Growth:
    """Region growing on the self-attention of B images; images that aren't `finite` stay empty."""

    self_maps: dict[int, torch.Tensor]
    finite: torch.Tensor
    settings: SeeDiffSettings

    def normalize(self, maps: torch.Tensor) -> torch.Tensor:
        return normalize(silence(maps, self.finite), self.settings.normalization)

    def seeds(self, soft: torch.Tensor) -> torch.Tensor:
        settings = self.settings
        return select_seeds(soft, alpha=settings.alpha, seed_threshold=settings.seed_threshold)

    def expand(self, seeds: torch.Tensor) -> torch.Tensor:
        region = expand_region(
            self.self_maps[seeds.shape[-1]], seeds, affinity=self.settings.affinity
        )
        return self.normalize(region)

    def grow(
        self, cross_attention: torch.Tensor, resolutions: Sequence[int]
    ) -> tuple[torch.Tensor, dict[int, torch.Tensor], dict[int, torch.Tensor]]:
        """Return the soft mask, and the seeds and regions by resolution, equations 6 to 9."""
        each = self.settings.expansion == "each"
        soft, seeds, expansions = cross_attention, {}, {}
        for resolution in resolutions:
            source = cross_attention if each else soft
            source = source if source.shape[-1] == resolution else upsample(source, resolution)
            seeds[resolution] = self.seeds(source)
            soft = expansions[resolution] = self.expand(seeds[resolution])
        if each:
            regions = [upsample(region, soft.shape[-1]) for region in expansions.values()]
            soft = self.normalize(torch.stack(regions).mean(0))
        return soft, seeds, expansions


def seediff_masks(
    cross_map: torch.Tensor,
    self_maps: dict[int, torch.Tensor],
    *,
    image_size: int,
    settings: SeeDiffSettings,
    refiner: MaskRefiner | None = None,
) -> ClassMasks:
    """Turn attention of B images into masks of one class each.

    An image's mask depends on no other image.

    Args:
        cross_map: float [B, s, s], aggregated cross-attention of the class (equation 5).
        self_maps: float32 [B, N, N] per resolution, aggregated self-attention; those coarser than
            `cross_map` aren't used. The paper takes s = 16 and self-attention at 16, 32 and 64; a
            model that has other resolutions is used as it is.
        image_size: side of the masks in pixels.
        settings: thresholds and modules.
        refiner: refines the soft mask before it is binarised (supplement S2.4).

    Raises:
        AttentionError: regions are to grow, and there is no self-attention at the resolution of
            `cross_map` or finer.
    """
    growing, grounded = _resolutions(cross_map.shape[-1], self_maps, settings=settings)
    # 1. An image with a NaN or an infinity anywhere is out, and must not spread.
    finite = cross_map.float().sum((1, 2)).isfinite()
    for resolution in growing if grounded is None else {*growing, grounded}:
        finite &= self_maps[resolution].sum((1, 2)).isfinite()
    growth = _Growth(self_maps, finite, settings)

    # 2. Seeds from cross-attention; then grow, upsample, take seeds again: equations 6 to 9.
    cross_attention = growth.normalize(cross_map.float())
    soft, seeds, expansions = growth.grow(cross_attention, growing)
    if not seeds:
        seeds[soft.shape[-1]] = growth.seeds(soft)

    # 3. Grow the background from the inverted mask and take it out: equations 10 and 11.
    background = torch.zeros_like(soft)
    if grounded is not None:
        soft = soft if soft.shape[-1] == grounded else upsample(soft, grounded)
        background = growth.expand(growth.seeds(1 - soft))
        soft = growth.normalize(remove_background(soft, background))

    # 4. Full resolution, refinement, annotation: equation 12.
    soft = upsample(soft, image_size)
    soft = soft if refiner is None else refiner.refine(soft)
    status = attention_status(finite, _has_seeds(seeds))
    accepted = torch.tensor([s == ACCEPTED for s in status], device=soft.device)[:, None, None]
    soft = torch.where(accepted, soft, 0.0)
    binary = (soft >= settings.beta) & accepted
    uncertain = torch.zeros_like(binary)
    return ClassMasks(
        status, binary, soft, cross_attention, seeds, expansions, background, uncertain
    )


def _resolutions(
    side: int, self_maps: dict[int, torch.Tensor], *, settings: SeeDiffSettings
) -> tuple[list[int], int | None]:
    """Return the resolutions that regions grow at, and the one that the background does."""
    usable = sorted(r for r in self_maps if r >= side)
    if not usable and (settings.expansion != "none" or settings.background_expansion):
        raise AttentionError(
            f"regions grow on self-attention at {side}x{side} or finer, but only "
            f"{sorted(self_maps)} was captured; choose a coarser cross-attention resolution"
        )
    some = {"none": [], "once": usable[:1]}
    growing = some.get(settings.expansion, usable)
    if not settings.background_expansion:
        return growing, None
    # The background grows where the last region did.
    return growing, growing[-1] if growing else usable[-1]


def _has_seeds(seeds: dict[int, torch.Tensor]) -> torch.Tensor:
    """Return which images have seeds at every resolution: bool [B]."""
    return torch.stack([s.flatten(1).any(1) for s in seeds.values()]).all(0)
