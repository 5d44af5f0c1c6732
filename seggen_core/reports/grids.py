"""Pictures of samples: images, colour-coded masks and overlays laid out in rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from seggen_core.colors.palette import class_palette
from seggen_core.taxonomy import IGNORE_INDEX

if TYPE_CHECKING:
    from seggen_core.store.reader import Sample, SampleStore

_IGNORE_GREY = 128
_LABEL_MARGIN = 6
_LARGEST_SIDE = 512
"""Larger pictures are shrunk to this side in a grid."""
_CELL_SIDE = 256
"""Side of the cells that pictures of different sizes are fitted into."""


def colorize(segmentation_map: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """Paint each class in its colour.

    Args:
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        palette: uint8 [num_classes, 3].

    Returns:
        uint8 [H, W, 3]; ignored pixels are mid grey.

    Raises:
        ValueError: the map holds an id that the palette has no colour for.
    """
    known = np.zeros(256, bool)
    known[: len(palette)] = known[IGNORE_INDEX] = True
    foreign = np.unique(segmentation_map[~known[segmentation_map]])
    if foreign.size:
        raise ValueError(
            f"the mask holds {foreign.tolist()}; the palette has colours for 0-{len(palette) - 1}"
        )
    colors = np.full((256, 3), _IGNORE_GREY, np.uint8)
    colors[: len(palette)] = palette
    return colors[segmentation_map]


def picture_scale(rows: Sequence[Sequence[np.ndarray]], *, side: int) -> int:
    """Return the largest whole magnification, at least 1, that fits images into `side` pixels.

    Args:
        rows: as in `image_grid`.
        side: pixels of a magnified image's longer side.
    """
    longest = max((max(image.shape[:2]) for row in rows for image in row), default=side)
    return max(1, side // longest)


def overlay(image: np.ndarray, color: np.ndarray, alpha: float) -> np.ndarray:
    """Return ``(1 - alpha) * image + alpha * color``, rounded: uint8 [H, W, 3], alpha in [0, 1]."""
    if image.shape != color.shape or not 0 <= alpha <= 1:
        raise ValueError(
            f"can't lay {color.shape} over {image.shape} with alpha {alpha}; "
            "expected one shape and alpha in [0, 1]"
        )
    return np.rint(
        (1 - alpha) * image.astype(np.float32) + alpha * color.astype(np.float32)
    ).astype(np.uint8)


def image_grid(
    rows: Sequence[Sequence[np.ndarray]],
    *,
    scale: int = 1,
    gap: int = 2,
    labels: Sequence[str] | None = None,
) -> Image.Image:
    """Lay images out in rows on white.

    Args:
        rows: uint8 [H, W, 3] images; rows may differ in length. Images of different sizes are
            fitted into equal cells, at their aspect.
        scale: magnification of images of one size, a whole number; pixels stay sharp.
        gap: pixels between images, and around the grid.
        labels: one text per row, written at its left.

    Raises:
        ValueError: there is no image, one isn't uint8 [H, W, 3], or there aren't as many labels as
            rows.
    """
    kinds = sorted({(image.dtype.name, image.shape) for row in rows for image in row})
    if not kinds or any(name != "uint8" or shape[2:] != (3,) for name, shape in kinds):
        raise ValueError(f"a grid needs uint8 [H, W, 3] images, got {kinds or 'none'}")
    if labels is not None and len(labels) != len(rows):
        raise ValueError(f"got {len(labels)} labels for {len(rows)} rows")

    font = ImageFont.load_default(size=12)
    left = (
        0
        if labels is None
        else 2 * _LABEL_MARGIN + max(int(np.ceil(font.getlength(label))) for label in labels)
    )
    cells = _cells(rows, scale=scale)
    height = max(image.shape[0] for row in cells for image in row)
    width = max(image.shape[1] for row in cells for image in row)
    num_columns = max(len(row) for row in rows)
    canvas_size = (left + num_columns * (width + gap) + gap, len(rows) * (height + gap) + gap)
    canvas = Image.new("RGB", canvas_size, "white")
    pencil = ImageDraw.Draw(canvas)
    for r, row in enumerate(cells):
        top = gap + r * (height + gap)
        if labels is not None:
            pencil.text(
                (_LABEL_MARGIN, top + height / 2), labels[r], fill="black", font=font, anchor="lm"
            )
        for c, image in enumerate(row):
            free = height - image.shape[0], width - image.shape[1]
            place = left + gap + c * (width + gap) + free[1] // 2, top + free[0] // 2
            canvas.paste(Image.fromarray(image), place)
    return canvas


def _cells(rows: Sequence[Sequence[np.ndarray]], *, scale: int) -> list[list[np.ndarray]]:
    """Return the images as a grid shows them."""
    sizes = {image.shape[:2] for row in rows for image in row}
    if len(sizes) == 1 and max(*sizes.copy().pop()) <= _LARGEST_SIDE:
        return [[i.repeat(scale, axis=0).repeat(scale, axis=1) for i in row] for row in rows]
    side = _LARGEST_SIDE if len(sizes) == 1 else _CELL_SIDE

    def fitted(image: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        factor = side / max(height, width)
        size = max(1, round(width * factor)), max(1, round(height * factor))
        resample = Image.Resampling.BOX if factor < 1 else Image.Resampling.NEAREST
        return np.asarray(Image.fromarray(image).resize(size, resample))

    return [[fitted(image) for image in row] for row in rows]


def pair_grid(
    samples: "Sequence[Sample]", *, palette: np.ndarray, num_columns: int, scale: int = 1
) -> Image.Image:
    """Show samples as three labelled rows: image above mask above overlay.

    Args:
        samples: of any sizes.
        palette: uint8 [num_classes, 3].
        num_columns: samples side by side; more samples follow in three rows below.
        scale: as in `image_grid`.
    """
    rows: list[list[np.ndarray]] = []
    for start in range(0, len(samples), num_columns):
        shown = samples[start : start + num_columns]
        images = [sample.image for sample in shown]
        colors = [colorize(sample.segmentation_map, palette) for sample in shown]
        mixed = [overlay(image, color, 0.5) for image, color in zip(images, colors, strict=True)]
        rows += [images, colors, mixed]
    return image_grid(rows, scale=scale, labels=["image", "mask", "overlay"] * (len(rows) // 3))


def store_grid(
    store: "SampleStore", *, num_classes: int, num_pictures: int, num_columns: int, scale: int = 1
) -> Image.Image:
    """Show samples from all over a store as `pair_grid` does, in the colours of `class_palette`.

    Raises:
        ValueError: the store is empty.
    """
    step = max(1, len(store) // num_pictures)
    samples = [store[k] for k in range(0, len(store), step)][:num_pictures]
    palette = class_palette(num_classes)
    return pair_grid(samples, palette=palette, num_columns=num_columns, scale=scale)
