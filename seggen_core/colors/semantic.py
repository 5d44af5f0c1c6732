"""Masks as RGB colour maps and back (SegGen 3.2 and A.2, f_mask->color and f_color->mask)."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from seggen_core.colors.decoding import nearest_ids, palette_distances
from seggen_core.colors.palette import IGNORE_COLOR, class_palette
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

__all__ = ["DecodedColorMap", "class_palette", "color_to_mask", "mask_to_color"]


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
    table[IGNORE_INDEX] = IGNORE_COLOR
    used = np.flatnonzero(np.bincount(segmentation_map.ravel(), minlength=256))
    unknown = [int(v) for v in used if v >= len(palette) and v != IGNORE_INDEX]
    if unknown:
        raise DatasetError(
            f"mask holds ids {unknown}; expected 0-{len(palette) - 1} or {IGNORE_INDEX}"
        )
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
