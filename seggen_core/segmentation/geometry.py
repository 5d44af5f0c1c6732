"""Resizing, cropping, padding and mirroring of one sample of any size, as published recipes do it.

Two ways to resize: the short side to a random length (detectron2's ResizeShortestEdge, as
Mask2Former uses it on ADE20K and Cityscapes), and large-scale jitter (Ghiasi et al., "Simple
Copy-Paste", CVPR 2021; Mask2Former on COCO). Both keep the aspect. Images are resized by Pillow's
bilinear filter, which is anti-aliased, masks by nearest neighbour at the same pixel centres.

Only the part of an image that is left by the crop is resized: the values are those of resizing the
whole image first, in a fraction of the time.

Shape legend: image uint8 [H, W, 3]; mask [H, W], uint8 train ids or int32 segment ids
(`segmentation.segment_labels`).
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from seggen_core.config import SegmenterConfig
from seggen_core.segmentation.segment_labels import class_ids, ignored_value
from seggen_core.taxonomy import IGNORE_INDEX

PADDING = 128
"""Grey level of the pixels beside a sample that is smaller than the crop."""

_MAX_TRIES = 10
"""Crops that are drawn at most until none of the classes is too large."""

Size = tuple[int, int]
"""(height, width) in pixels."""


@dataclass(frozen=True, eq=False)
class Crop:
    """A sample as it is trained on.

    Attributes:
        image: uint8 [h, w, 3], PADDING beside the sample.
        mask: [h, w], ignored beside the sample.
        filled: (height, width) of the sample in it, at the top left.
    """

    image: np.ndarray
    mask: np.ndarray
    filled: Size


def short_side_size(size: Size, *, short_side: int, max_side: int | None = None) -> Size:
    """Return the size at which the shorter side is `short_side`, at the same aspect.

    Where the longer side would exceed `max_side`, it gets that length instead. Halves are rounded
    up, as in detectron2.
    """
    scale = short_side / min(size)
    if max_side is not None and scale * max(size) > max_side:
        scale = max_side / max(size)
    height, width = (max(1, int(side * scale + 0.5)) for side in size)
    return height, width


def resize_bilinear(image: np.ndarray, size: Size) -> np.ndarray:
    """Return an image at `size` by Pillow's anti-aliased bilinear filter."""
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_nearest(mask: np.ndarray, size: Size) -> np.ndarray:
    """Return a mask at `size` by nearest neighbour."""
    if mask.shape == size:
        return mask
    return np.array(Image.fromarray(mask).resize(size[::-1], Image.Resampling.NEAREST))


class RandomCrop:
    """Draws a crop of a sample; the draws come from the generator alone."""

    def __init__(self, config: SegmenterConfig) -> None:
        """Take over what `config` says on resizing and cropping; its `resize` is not "zoom"."""
        assert config.resize != "zoom"
        assert config.crop_shape is not None
        self._config, self._crop = config, config.crop_shape

    def __call__(
        self, image: np.ndarray | Image.Image, mask: np.ndarray, *, rng: np.random.Generator
    ) -> Crop:
        """Resize, crop, mirror and pad a sample."""
        mirrored = rng.random() < 0.5 and self._config.random_flip
        size = self._draw_size(mask.shape, rng)
        filled = min(size[0], self._crop[0]), min(size[1], self._crop[1])
        corner = self._draw_window(mask, size, filled, rng)
        picture = _resized_window(image, size=size, corner=corner, window=filled)
        ids = _nearest_window(mask, size=size, corner=corner, window=filled)
        if mirrored:
            picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            ids = ids[:, ::-1]
        if filled == self._crop:
            return Crop(np.asarray(picture), ids, filled)
        canvas = np.full((*self._crop, 3), PADDING, np.uint8)
        canvas[: filled[0], : filled[1]] = np.asarray(picture)
        labels = np.full(self._crop, ignored_value(mask), mask.dtype)
        labels[: filled[0], : filled[1]] = ids
        return Crop(canvas, labels, filled)

    def _draw_size(self, size: Size, rng: np.random.Generator) -> Size:
        """Return the size that a sample of `size` is brought to."""
        config, (low, high) = self._config, self._config.random_scale
        if config.resize == "scale_jitter":
            # The sample fits into a box of the crop's size times the factor.
            factor = rng.uniform(low, high)
            scale = min(factor * box / side for box, side in zip(self._crop, size, strict=True))
            height, width = (max(1, round(side * scale)) for side in size)
            return height, width
        assert config.short_side is not None
        factor = rng.random()
        if config.num_scales is not None:
            factor = int(factor * config.num_scales) / max(config.num_scales - 1, 1)
        # Rounded down, as published; a factor like 0.6 mustn't fall below its whole pixel.
        short_side = max(1, int(config.short_side * (low + (high - low) * factor) + 1e-6))
        return short_side_size(size, short_side=short_side, max_side=config.max_side)

    def _draw_window(
        self, mask: np.ndarray, size: Size, window: Size, rng: np.random.Generator
    ) -> Size:
        """Return the top left corner of a window of a mask that is resized to `size`."""
        free = size[0] - window[0], size[1] - window[1]
        limit = self._config.max_category_share
        if self._config.resize == "scale_jitter":
            # One number for both directions, as in large-scale jitter.
            place = rng.random()
            return round(free[0] * place), round(free[1] * place)
        for _ in range(_MAX_TRIES if limit < 1 else 1):
            corner = int(rng.integers(free[0] + 1)), int(rng.integers(free[1] + 1))
            if limit == 1:
                break
            ids = _nearest_window(mask, size=size, corner=corner, window=window)
            counts = np.bincount(class_ids(ids).ravel(), minlength=256)
            counts[IGNORE_INDEX] = 0
            if np.count_nonzero(counts) > 1 and counts.max() < limit * counts.sum():
                break
        return corner


def _resized_window(
    image: np.ndarray | Image.Image, *, size: Size, corner: Size, window: Size
) -> Image.Image:
    """Return a window of an image that is resized to `size`, without resizing the rest."""
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    if (picture.height, picture.width) == size:
        return picture.crop((corner[1], corner[0], corner[1] + window[1], corner[0] + window[0]))
    down, across = picture.height / size[0], picture.width / size[1]
    box = (
        corner[1] * across,
        corner[0] * down,
        min((corner[1] + window[1]) * across, picture.width),
        min((corner[0] + window[0]) * down, picture.height),
    )
    # Pillow's filter reaches over the edges of the box, so the window has the pixels of the whole.
    return picture.resize(window[::-1], Image.Resampling.BILINEAR, box=box)


def _nearest_window(mask: np.ndarray, *, size: Size, corner: Size, window: Size) -> np.ndarray:
    """Return a window of a mask that is resized to `size` by nearest neighbour.

    It is that of `resize_nearest`, but where the middle of a pixel lies between two source pixels:
    Pillow's rounding decides there, and whole numbers here.
    """
    rows, columns = (
        # The source pixel below the middle of each pixel, in whole numbers.
        (2 * np.arange(corner[k], corner[k] + window[k]) + 1) * mask.shape[k] // (2 * size[k])
        for k in (0, 1)
    )
    return mask[rows][:, columns]
