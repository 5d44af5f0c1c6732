"""COCO's polygons and run lengths as masks, drawn by its reference implementation, pycocotools.

pycocotools trusts its input: it allocates 16 bytes for each fifth of a pixel of a polygon's
boundary, reads and writes past the end of a compressed string that is cut, and leaves memory as it
was where run lengths are short. So everything is checked here first.
"""

import re
import reprlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from seggen_core.errors import DatasetError

MAX_POLYGON_BOUNDARY = 1 << 20
"""Longest boundary of one polygon, in pixels: 84 MB in pycocotools."""

_MIN_SIDE = 8
"""Polygons in one pixel of an image with a longer side are no areas that anybody drew."""

_COMPRESSED = re.compile("(?:[P-o]{0,6}[0-O])+")
"""maskApi.c, rleFrString: 5 bits a character from "0" on; from "P" on, more characters follow."""

RunLengths = dict[str, Any]
"""A mask as pycocotools keeps it: {"size": [H, W], "counts": bytes}, a few bytes a column."""


def encode_segmentation(segmentation: object, *, height: int, width: int) -> RunLengths:
    """Return the mask of one annotation, in run lengths.

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], or run lengths {"size": [H, W],
            "counts": list or str}.
        height, width: of the image.

    Raises:
        DatasetError: it is neither, reaches too far outside of the image, or is of another size.
    """
    if isinstance(segmentation, list) and segmentation:
        for polygon in segmentation:
            _check_polygon(polygon, height=height, width=width)
        return coco_mask.merge(coco_mask.frPyObjects(segmentation, height, width))
    if isinstance(segmentation, dict) and "counts" in segmentation:
        if segmentation.get("size") != [height, width]:
            raise DatasetError(
                f"run lengths are for size {_shorten(segmentation.get('size'))}; "
                f"expected [{height}, {width}]"
            )
        runs = {"size": [height, width], "counts": segmentation["counts"]}
        if isinstance(runs["counts"], str):
            _check_compressed(runs)
            return runs
        _check_counts(runs["counts"], height=height, width=width)
        return coco_mask.frPyObjects(runs, height, width)
    hint = "; a box alone is no mask" if segmentation == [] else ""
    raise DatasetError(
        f"segmentation is {_shorten(segmentation)}; expected polygons or run lengths{hint}"
    )


def decode_runs(runs: RunLengths) -> np.ndarray:
    """Return the mask of checked run lengths, bool [H, W]."""
    return coco_mask.decode(runs).view(bool)


def area(runs: RunLengths) -> int:
    """Return the pixels of checked run lengths."""
    return int(coco_mask.area(runs))


def check_in_pixels(segmentations: Sequence[object], *, height: int, width: int) -> None:
    """Raise DatasetError where all polygons of an image are shares of its sides, 0 to 1.

    Args:
        segmentations: those of the image, which `encode_segmentation` took; what is no list of
            polygons is a mask.
        height, width: of the image.
    """
    if not segmentations or max(height, width) < _MIN_SIDE:
        return
    if all(
        isinstance(s, list) and all(0 <= min(p) <= max(p) <= 1 for p in s) for s in segmentations
    ):
        raise DatasetError(
            "all coordinates of its polygons are 0 to 1; expected pixels, since the image is "
            f"{width}x{height}: multiply them by the sides"
        )


def boundary(segmentation: object) -> float:
    """Return the length of the boundary that has to be walked, in pixels; 0 for run lengths."""
    if not isinstance(segmentation, list):
        return 0.0
    return sum(_boundary(np.asarray(polygon, np.float64)) for polygon in segmentation)


def _boundary(polygon: np.ndarray) -> float:
    points = polygon.reshape(-1, 2)
    return float(np.abs(points - np.roll(points, 1, axis=0)).max(axis=1).sum())


def _check_polygon(polygon: object, *, height: int, width: int) -> None:
    if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
        raise DatasetError(
            f"a polygon is {_shorten(polygon)}; expected at least three points as [x, y, x, y, ...]"
        )
    coordinates = _numbers(polygon, kinds="iuf")
    if coordinates is None:
        raise DatasetError(f"a polygon is {_shorten(polygon)}; expected numbers alone")
    coordinates = coordinates.astype(np.float64)
    side = max(height, width)
    outside = ~((coordinates >= -side) & (coordinates <= 2 * side))  # of NaN, too
    if outside.any():
        raise DatasetError(
            f"a polygon has the coordinate {coordinates[outside][0]:g}; expected {-side} to "
            f"{2 * side}, since the image is {width}x{height}"
        )
    length = _boundary(coordinates)
    if length > MAX_POLYGON_BOUNDARY:
        raise DatasetError(
            f"a polygon has a boundary of {length:.0f} pixels; expected at most "
            f"{MAX_POLYGON_BOUNDARY}: write it as run lengths"
        )


def _check_counts(counts: object, *, height: int, width: int) -> None:
    lengths = _numbers(counts, kinds="iu")
    if lengths is None:
        raise DatasetError(f"run lengths are {_shorten(counts)}; expected whole numbers")
    pixels = height * width
    if lengths.min() < 0 or lengths.max() > pixels or lengths.sum() != pixels:
        raise DatasetError(
            f"run lengths from {lengths.min()} to {lengths.max()} add up to {lengths.sum()}; "
            f"expected {pixels} ({width}x{height})"
        )


def _check_compressed(runs: RunLengths) -> None:
    height, width = runs["size"]
    if not _COMPRESSED.fullmatch(runs["counts"]):
        raise DatasetError(
            f"compressed run lengths {_shorten(runs['counts'])} have a character that COCO doesn't "
            "use, or end in the middle of a number"
        )
    # They add up to all pixels if they fit into these and into no fewer.
    if not _fit(runs) or _fit(runs | {"size": [height * width - 1, 1]}):
        raise DatasetError(
            f"compressed run lengths {_shorten(runs['counts'])} don't add up to {height * width} "
            f"pixels ({width}x{height})"
        )


def _fit(runs: RunLengths) -> bool:
    try:
        coco_mask.decode(runs)
    except ValueError:
        return False
    return True


def _numbers(values: object, *, kinds: str) -> np.ndarray | None:
    """Return a list of numbers as an array [N]; None if it is anything else.

    Args:
        values: of JSON.
        kinds: NumPy's kinds of numbers that are allowed, "iu" or "iuf".
    """
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):  # ragged or nested
        return None
    return array if array.ndim == 1 and array.size and array.dtype.kind in kinds else None


def _shorten(value: object) -> str:
    """Write a value of any size and depth in at most about 60 characters."""
    return reprlib.repr(value)[:60]
