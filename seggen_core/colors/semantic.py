"""Masks as RGB colour maps and back (SegGen 3.2 and A.2, f_mask->color and f_color->mask)."""

from dataclasses import dataclass

import numpy as np

from seggen_core.colors.ambiguity import resolve_colors
from seggen_core.colors.palette import IGNORE_COLOR
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

SEMANTIC_BLOCK_SHARE = 1 / 10_000
"""`block_share` of `resolve_colors`: at 768 pixels, a class needs 59 blocks (about 10x10 pixels).
"""


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
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        ambiguous: bool [H, W], pixels that no colour explains; they are IGNORE_INDEX.
    """

    segmentation_map: np.ndarray
    ambiguous: np.ndarray


def color_to_mask(color_map: np.ndarray, *, palette: np.ndarray) -> DecodedColorMap:
    """Decode a colour map to train ids (SegGen A.2); grey is IGNORE_INDEX.

    `colors.ambiguity.resolve_colors` says which pixels take another colour than the nearest one,
    and which take none.

    Args:
        color_map: uint8 [H, W, 3].
        palette: uint8 [num_classes, 3].
    """
    colors = np.concatenate([palette, np.array([IGNORE_COLOR], np.uint8)])
    void = len(palette)
    ids, ambiguous = resolve_colors(
        color_map, colors=colors, block_share=SEMANTIC_BLOCK_SHARE, never_thin=[void]
    )
    ids[(ids == void) | ambiguous] = IGNORE_INDEX
    return DecodedColorMap(ids, ambiguous)
