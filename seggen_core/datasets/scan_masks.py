"""Which ids or colours masks hold, for data without a class list."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.datasets.decode import open_picture
from seggen_core.datasets.ids import sorted_unique
from seggen_core.datasets.sample import CHECK
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

MAX_SCANNED = 2000
"""Masks that are looked at, spread over all."""

_MODES = ("L", "P", "I;16", "RGB", "1")


def scan_classes(masks: Sequence[Path]) -> list[dict[str, Any]]:
    """Return rows of a class list, `dataset.class_list`, for the values that masks hold.

    The names are "background" for id 0 or black, "object" for 255 in masks of 0 and 255, and
    "class 7" for others. 255 among other ids is taken for unlabelled and gets no row.

    Args:
        masks: their files; `MAX_SCANNED` of them are read.

    Raises:
        DatasetError: one can't be read, or they hold too many values to be classes.
    """
    step = max(1, len(masks) // MAX_SCANNED)
    ids: set[int] = set()
    colors: set[tuple[int, int, int]] = set()
    for path in masks[::step]:
        with open_picture(path, modes=_MODES) as picture:
            pixels = np.asarray(picture)
        if pixels.ndim == 3:
            packed = pixels.astype(np.int32) @ [1 << 16, 1 << 8, 1]
            colors |= {(v >> 16, v >> 8 & 255, v & 255) for v in sorted_unique(packed).tolist()}
        else:
            ids |= set(sorted_unique(pixels.astype(np.int32)).tolist())
        if len(ids) > IGNORE_INDEX or len(colors) > IGNORE_INDEX:
            raise DatasetError(
                f"the masks up to {path} hold more than {IGNORE_INDEX} values; expected one value "
                f"a class: masks saved as JPEG or resized smoothly hold mixtures {CHECK}"
            )
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
    if len(ids) > 2:
        ids.discard(IGNORE_INDEX)
    names = {0: "background", IGNORE_INDEX: "object"}
    return [{"id": i, "name": names.get(i, f"class {i}")} for i in sorted(ids)]
