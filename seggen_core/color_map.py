"""Masks as RGB colour maps and back (SegGen 3.2 and A.2, f_mask->color and f_color->mask).

The first eight colours are the corners of the RGB cube, the largest set at mutual distance 255: an anti-aliased or blurred
edge between two of them passes near no third colour until it is half of each.
"""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np

from seggen_core.color_decoding import nearest_ids, palette_distances
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

_CORNERS = [(0, 0, 255), (0, 255, 0), (0, 0, 0), (255, 0, 0), (255, 255, 0), (0, 255, 255), (255, 0, 255), (255, 255, 255)]
_IGNORE_COLOUR = (128, 128, 128)


@cache
def _palette(num_classes: int) -> tuple[tuple[int, int, int], ...]:
    axis = np.round(np.linspace(0, 255, 18)).astype(np.int64)
    candidates = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    chosen = [np.array(c) for c in _CORNERS[:num_classes]]
    # Grey stays free: it shows ignored pixels, and half-blends of opposite corners fall there.
    nearest = np.min([((candidates - c) ** 2).sum(1) for c in [*_CORNERS, _IGNORE_COLOUR]], axis=0)
    while len(chosen) < num_classes:
        best = int(nearest.argmax())
        chosen.append(candidates[best])
        nearest = np.minimum(nearest, ((candidates - candidates[best]) ** 2).sum(1))
    return tuple((int(r), int(g), int(b)) for r, g, b in chosen)


def class_palette(num_classes: int) -> np.ndarray:
    """Return the colours of train ids 0..num_classes-1, uint8 [num_classes, 3].

    The cube's corners first, then greedily the colour furthest from all chosen ones (farthest-point sampling, at most a factor
    of two from the best possible smallest distance).
    """
    if not 1 <= num_classes <= IGNORE_INDEX:
        raise ValueError(f"num_classes must be 1 to {IGNORE_INDEX}, got {num_classes}")
    return np.array(_palette(num_classes), np.uint8)


def mask_to_color(segmentation_map: np.ndarray, *, palette: np.ndarray) -> np.ndarray:
    """Encode train ids as colours; ignored pixels become mid grey.

    Args:
        segmentation_map: uint8 [..., H, W], train ids or IGNORE_INDEX.
        palette: uint8 [num_classes, 3].

    Returns:
        uint8 [..., H, W, 3].

    Raises:
        DatasetError: an id is neither in the palette nor IGNORE_INDEX.
    """
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = palette
    table[IGNORE_INDEX] = _IGNORE_COLOUR
    used = np.flatnonzero(np.bincount(segmentation_map.ravel(), minlength=256))
    unknown = [int(v) for v in used if v >= len(palette) and v != IGNORE_INDEX]
    if unknown:
        raise DatasetError(f"mask holds ids {unknown}; expected 0-{len(palette) - 1} or {IGNORE_INDEX}")
    return table[segmentation_map]


@dataclass(frozen=True, eq=False)
class DecodedColorMap:
    """A colour map turned back into train ids.

    Attributes:
        segmentation_map: uint8 [..., H, W].
        color_map: uint8 [..., H, W, 3], what it was decoded from.
        palette: uint8 [num_classes, 3].
    """

    segmentation_map: np.ndarray
    color_map: np.ndarray
    palette: np.ndarray

    @cached_property
    def distance(self) -> np.ndarray:
        """Euclidean distance in RGB to the chosen colour, float32 [..., H, W]; computed at first use."""
        return palette_distances(self.color_map, palette=self.palette, ids=self.segmentation_map)


def color_to_mask(color_map: np.ndarray, *, palette: np.ndarray) -> DecodedColorMap:
    """Decode each pixel to the class of the nearest colour (SegGen A.2); ties go to the smaller train id.

    Args:
        color_map: uint8 [..., H, W, 3].
        palette: uint8 [num_classes, 3].
    """
    return DecodedColorMap(nearest_ids(color_map, palette=palette), color_map, palette)
