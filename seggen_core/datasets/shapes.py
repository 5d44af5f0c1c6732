"""Shapes that people draw in annotation tools, as run lengths of one image.

Polygons are drawn by pycocotools (`rasterize`), so that a shape has the same pixels whichever
tool's file it comes from. Rectangles, also turned ones, and ellipses are polygons of their corners
or of 180 points. Brush strokes are masks of a part of the image.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pycocotools import mask as coco_mask

from seggen_core.datasets.rasterize import (
    RunLengths,
    boundary,
    check_in_pixels,
    encode_segmentation,
)
from seggen_core.errors import DatasetError

MAX_SHAPES = (1 << 16) - 1
"""Most shapes of an image: instance maps number them in 16 bits."""

_MAX_BOUNDARY = 1 << 24
"""Longest boundary of all polygons of an image, in pixels: two seconds of drawing."""

_MAX_DRAWN = 1 << 34
"""Most pixels drawn for an image, over all its shapes: 256 of 8192 x 8192, ten seconds."""

_ELLIPSE_POINTS = 180


class Patch(NamedTuple):
    """A drawn mask at its place in an image."""

    left: int
    """Column of its left edge."""
    top: int
    """Row of its upper edge."""
    mask: np.ndarray
    """bool [h, w]."""


class Shape(NamedTuple):
    """One shape of an image.

    Attributes:
        label: the class, as the file names it.
        outline: corners [x, y, x, y, ...] in pixels, or a mask of a part of the image.
        group: shapes of one label and group are one instance; None is an instance of its own.
        is_box: it is an upright rectangle.
        order: shapes with a larger number lie on top; equal ones in the order of the file.
    """

    label: str
    outline: Sequence[float] | Patch
    group: str | None = None
    is_box: bool = False
    order: int = 0


class ImageShapes(NamedTuple):
    """What an annotation file says of one image.

    Attributes:
        where: the file and the place in it, in messages.
        size: (width, height) of the image that was drawn on; None where the file doesn't say.
        shapes: those that cover an area, in the order of the file.
    """

    where: str
    size: tuple[int, int] | None
    shapes: list[Shape]


def box(left: float, top: float, width: float, height: float, *, turned: float = 0) -> list[float]:
    """Return the corners of a rectangle; `turned` is in degrees, clockwise around (left, top)."""
    cosine, sine = math.cos(math.radians(turned)), math.sin(math.radians(turned))
    corners = ((0, 0), (width, 0), (width, height), (0, height))
    return [
        value
        for x, y in corners
        for value in (left + x * cosine - y * sine, top + x * sine + y * cosine)
    ]


def ellipse(x: float, y: float, radius_x: float, radius_y: float, *, turned: float = 0) -> list:
    """Return the outline of an ellipse around (x, y); `turned` is in degrees, clockwise."""
    cosine, sine = math.cos(math.radians(turned)), math.sin(math.radians(turned))
    outline: list[float] = []
    for i in range(_ELLIPSE_POINTS):
        angle = 2 * math.pi * i / _ELLIPSE_POINTS
        a, b = radius_x * math.cos(angle), radius_y * math.sin(angle)
        outline += [x + a * cosine - b * sine, y + a * sine + b * cosine]
    return outline


def draw_shapes(shapes: Sequence[Shape], *, width: int, height: int) -> list[RunLengths]:
    """Return the mask of each shape in run lengths.

    Raises:
        DatasetError: a shape reaches too far outside of the image or has too few points, or there
            are too many. The message names the shape by its number.
    """
    if len(shapes) > MAX_SHAPES or len(shapes) * width * height > _MAX_DRAWN:
        most = min(MAX_SHAPES, _MAX_DRAWN // (width * height))
        raise DatasetError(
            f"{len(shapes)} shapes of {width}x{height} pixels; expected at most {most} of that size"
        )
    masks = []
    remaining = float(_MAX_BOUNDARY)
    for position, shape in enumerate(shapes, start=1):
        try:
            if isinstance(shape.outline, Patch):
                masks.append(_encode_patch(shape.outline, width=width, height=height))
                continue
            segmentation = [list(shape.outline)]
            masks.append(encode_segmentation(segmentation, height=height, width=width))
            remaining -= boundary(segmentation)
            if remaining < 0:
                raise DatasetError(
                    f"the shapes up to this one have a boundary of more than {_MAX_BOUNDARY} "
                    "pixels; expected fewer or shorter ones"
                )
        except DatasetError as error:
            raise DatasetError(f"shape {position} ({shape.label!r}): {error}") from None
    outlines = [s.outline if isinstance(s.outline, Patch) else [s.outline] for s in shapes]
    check_in_pixels(outlines, height=height, width=width)
    return masks


def check_patch(left: int, top: int, width: int, height: int, *, size: tuple[int, int]) -> None:
    """Raise DatasetError where a part of an image isn't inside it; nothing is allocated before."""
    if min(left, top) < 0 or min(width, height) < 1:
        raise DatasetError(f"a mask of {width}x{height} pixels at ({left}, {top}); expected a part")
    if left + width > size[0] or top + height > size[1]:
        raise DatasetError(
            f"a mask of {width}x{height} pixels at ({left}, {top}) reaches out of the image of "
            f"{size[0]}x{size[1]}; expected it inside"
        )


def _encode_patch(patch: Patch, *, width: int, height: int) -> RunLengths:
    rows, columns = patch.mask.shape
    check_patch(patch.left, patch.top, columns, rows, size=(width, height))
    whole = np.zeros((height, width), np.uint8, order="F")
    whole[patch.top : patch.top + rows, patch.left : patch.left + columns] = patch.mask
    runs: RunLengths = coco_mask.encode(whole)
    return runs
