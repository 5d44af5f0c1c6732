"""Pixel-adaptive mask refinement (PAMR).

Araslanov and Roth, Single-Stage Semantic Segmentation from Image Labels, CVPR 2020, section 3.3.

Each pixel's mask value becomes a convex combination of its neighbours' values, weighted by how
alike their colours are:

    m_i <- sum_j a_ij m_j,    a_ij = softmax_j( mean_c -|x_ic - x_jc| / (0.1 s_ic) )

over the eight neighbours j at each of several dilations; s_ic is the standard deviation of channel
c over the pixel and those neighbours. The paper writes s^2 for the kernel's scale; this is the
kernel of its reference code (visinf/1-stage-wseg), which SeeDiff uses and which, unlike s^2, is the
same whatever the unit of the colours. Borders repeat the edge pixel.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)]
_SHARPNESS = 0.1
_EPSILON = 1e-8


def _shifted(maps: torch.Tensor, dilations: Sequence[int]) -> Iterator[torch.Tensor]:
    """Yield `maps` [B, C, H, W] as seen by each neighbour, dilation by dilation."""
    height, width = maps.shape[-2:]
    margin = max(dilations)
    padded = F.pad(maps, (margin,) * 4, mode="replicate")
    for dilation in dilations:
        for dy, dx in _NEIGHBOURS:
            top, left = margin + dy * dilation, margin + dx * dilation
            yield padded[..., top : top + height, left : left + width]


def pamr_affinity(images: torch.Tensor, *, dilations: Sequence[int]) -> torch.Tensor:
    """Return the weights a_ij: float32 [B, 8 * len(dilations), H, W], summing to 1 over neighbours.

    Args:
        images: float [B, 3, H, W] in any range.
        dilations: distances of the neighbours in pixels.
    """
    images = images.float()
    # Deviations from the centre: their spread is that of the values, without cancellation. The
    # centre itself is counted once per dilation, as the reference code does.
    total, squares = torch.zeros_like(images), torch.zeros_like(images)
    for neighbour in _shifted(images, dilations):
        difference = neighbour - images
        total += difference
        squares.addcmul_(difference, difference)
    count = 9 * len(dilations)
    deviation = ((squares - total.square() / count) / (count - 1)).clamp_min(0).sqrt()
    scale = 1 / (_EPSILON + _SHARPNESS * deviation)
    logits = [
        -((neighbour - images).abs() * scale).mean(dim=1)
        for neighbour in _shifted(images, dilations)
    ]
    return torch.stack(logits, dim=1).softmax(dim=1)


def pamr(
    images: torch.Tensor, masks: torch.Tensor, *, num_iterations: int, dilations: Sequence[int]
) -> torch.Tensor:
    """Refine soft masks so that alike neighbouring pixels get alike values.

    Args:
        images: float [B, 3, H, W] in any range.
        masks: float [B, C, H, W]; values stay within their range.
        num_iterations: repetitions of the update.
        dilations: distances of the neighbours in pixels.

    Returns:
        float32 [B, C, H, W].
    """
    assert images.shape[-2:] == masks.shape[-2:], (
        f"images {tuple(images.shape)} and masks {tuple(masks.shape)} differ in size"
    )
    affinity = pamr_affinity(images, dilations=dilations)
    masks = masks.float()
    for _ in range(num_iterations):
        refined = torch.zeros_like(masks)
        for index, neighbour in enumerate(_shifted(masks, dilations)):
            refined.addcmul_(neighbour, affinity[:, index : index + 1])
        masks = refined
    return masks


@dataclass(frozen=True, eq=False)
class MaskRefiner:
    """PAMR of soft masks on the images that they are masks of.

    Attributes:
        images: float [B, 3, H, W] in any range.
        num_iterations: repetitions of the update.
        dilations: distances of the neighbours in pixels.
    """

    images: torch.Tensor
    num_iterations: int = 10
    dilations: Sequence[int] = (1, 2, 4, 8)

    def refine(self, soft: torch.Tensor) -> torch.Tensor:
        """Return soft masks float32 [B, H, W], refined."""
        refined = pamr(
            self.images,
            soft[:, None],
            num_iterations=self.num_iterations,
            dilations=self.dilations,
        )
        return refined[:, 0]
