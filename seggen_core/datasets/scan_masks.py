"""Which ids or colours masks hold, for data without a class list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.datasets.decode import open_picture, palette_of
from seggen_core.datasets.ids import check_not_inverted, colors_in_file, sorted_unique
from seggen_core.datasets.sample import CHECK
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

MAX_SCANNED = 2000
"""Masks that are looked at, spread over all."""

_MODES = ("L", "P", "I;16", "RGB", "1")

_LEVELS = 4
"""Ids whose largest is more than that for each of them are levels of grey, 0 to 255."""

_LEAST_SIDE = 16
"""Masks with a shorter side say nothing about mixtures: areas are as small as outlines in them."""


def scan_classes(masks: Sequence[Path]) -> list[dict[str, Any]]:
    """Return rows of a class list, `dataset.class_list`, for the values that masks hold.

    The names are "background" for id 0 or black, "object" for 255 in masks of 0 and 255, and
    "class 7" for others. 255 among ids that lie close together is taken for unlabelled and gets no
    row; among levels of grey (0, 128, 255) it is a class.

    Args:
        masks: their files; `MAX_SCANNED` of them are read.

    Raises:
        DatasetError: one can't be read, they hold too many values to be classes, or mixtures, or
            their palettes give an id different colours.
    """
    step = max(1, len(masks) // MAX_SCANNED)
    ids: set[int] = set()
    colors: set[int] = set()
    areas = _Areas()
    palettes: dict[int, tuple[tuple[int, int, int], Path]] = {}
    for path in masks[::step]:
        with open_picture(path, modes=_MODES) as picture:
            pixels = np.asarray(picture).astype(np.int32)
            stated = colors_in_file(pixels, palette_of(picture))
        check_not_inverted(stated, path=path)
        for file_id, color in stated.items():
            first, other = palettes.setdefault(file_id, (color, path))
            if first != color:
                raise DatasetError(
                    f"{file_id} is {first} in the palette of {other}, but {color} in that of "
                    f"{path}; expected one colour an id: convert the masks to RGB if the colours "
                    f"are right, or to 8-bit grey if the ids are {CHECK}"
                )
        values = colors if pixels.ndim == 3 else ids
        if pixels.ndim == 3:
            pixels = pixels @ np.array([1 << 16, 1 << 8, 1], np.int32)
        values |= set(sorted_unique(pixels).tolist())
        areas.add(pixels)
        if len(ids) > IGNORE_INDEX or len(colors) > IGNORE_INDEX:
            raise DatasetError(
                f"the masks up to {path} hold more than {IGNORE_INDEX} values; expected one value "
                f"a class: masks saved as JPEG or resized smoothly hold mixtures {CHECK}"
            )
    areas.refuse_mixtures()
    return _rows(ids, {(v >> 16, v >> 8 & 255, v & 255) for v in colors})


class _Areas:
    """Tells classes, which cover areas, from mixtures, which stand on the outlines of areas.

    Smooth resizing, anti-aliasing and JPEG put values between two classes on their common outline:
    next to one another, but hardly ever in a square of 2x2.
    """

    def __init__(self) -> None:
        self._present: set[int] = set()
        self._in_squares: set[int] = set()

    def add(self, pixels: np.ndarray) -> None:
        """Take the values of a mask, int32 [H, W]."""
        if min(pixels.shape) < _LEAST_SIDE:
            return
        self._present |= set(sorted_unique(pixels).tolist())
        corner = pixels[:-1, :-1]
        is_square = (
            (corner == pixels[1:, :-1]) & (corner == pixels[:-1, 1:]) & (corner == pixels[1:, 1:])
        )
        self._in_squares |= set(sorted_unique(corner[is_square]).tolist())

    def refuse_mixtures(self) -> None:
        """Raise DatasetError if at least half of the values, and two, are on outlines alone."""
        num_values, num_thin = len(self._present), len(self._present - self._in_squares)
        if num_thin >= 2 and 2 * num_thin >= num_values:
            raise DatasetError(
                f"the masks hold {num_values} values, and {num_thin} of them fill no square of 2x2 "
                "pixels in any mask; expected one value a class: masks that were resized smoothly, "
                "drawn with soft edges or saved as JPEG hold mixtures. Make them again by nearest "
                "neighbour; if all of these are classes, write a class list (docs/datasets.md)"
            )


def _rows(ids: set[int], colors: set[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """Return the rows of the class list for ids or colours."""
    if ids and colors:
        grey = [c for c in colors if c[0] == c[1] == c[2]]
        if len(grey) < len(colors):
            raise DatasetError(
                "some masks hold colours and others ids; expected one of the two: convert them, or "
                "write a class list (docs/datasets.md)"
            )
        ids |= {c[0] for c in colors}
        colors = set()
    if colors and all(r == g == b for r, g, b in colors):
        ids, colors = {r for r, _, _ in colors}, set()
    if colors:
        return [
            {"id": i, "name": "background" if not any(c) else f"class {i}", "color": list(c)}
            for i, c in enumerate(sorted(colors))
        ]
    others = ids - {IGNORE_INDEX}
    if len(ids) > 2 and max(others) < _LEVELS * len(others):
        ids = others
    names = {0: "background", IGNORE_INDEX: "object"}
    return [{"id": i, "name": names.get(i, f"class {i}")} for i in sorted(ids)]
