from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import SegmenterConfig
from seggen_core.segmentation.geometry import (
    PADDING,
    Crop,
    RandomCrop,
    resize_nearest,
    short_side_size,
)
from seggen_core.taxonomy import IGNORE_INDEX


def config(**changes: Any) -> SegmenterConfig:
    tree = {"resize": "short_side", "short_side": 32, "crop_size": 24, "random_flip": False}
    return SegmenterConfig.model_validate(tree | {"random_scale": (0.5, 2.0)} | changes)


def gradient(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """An image whose red says the row and whose green says the column; a map of the quarters."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * y / height, 255 * x / width, 0 * x], axis=-1).astype(np.uint8)
    return image, ((y >= height // 2) * 2 + (x >= width // 2)).astype(np.uint8)


def crops(count: int = 20, size: tuple[int, int] = (40, 60), **changes: Any) -> list[Crop]:
    crop = RandomCrop(config(**changes))
    return [crop(*gradient(*size), rng=np.random.default_rng(k)) for k in range(count)]


@pytest.mark.parametrize(
    "size, short_side, max_side, expected",
    [
        ((480, 640), 512, None, (512, 683)),  # 682.67
        ((640, 480), 512, 2048, (683, 512)),
        ((100, 1000), 512, 2048, (205, 2048)),  # 5120 would be too long
        ((333, 500), 512, 2048, (512, 769)),  # 768.77
        ((512, 512), 512, None, (512, 512)),
        ((1, 4000), 512, 2048, (1, 2048)),
    ],
)
def test_the_short_side_decides_unless_the_long_one_gets_too_long(
    size: tuple[int, int], short_side: int, max_side: int | None, expected: tuple[int, int]
) -> None:
    assert short_side_size(size, short_side=short_side, max_side=max_side) == expected


@pytest.mark.parametrize("base", [512, 640, 1024])
def test_sixteen_scales_are_those_that_mask2former_publishes(base: int) -> None:
    crop = RandomCrop(config(short_side=base, num_scales=16))
    rng = np.random.default_rng(0)
    sides = {min(crop._draw_size((50, 70), rng)) for _ in range(600)}
    assert sorted(sides) == [int(x * 0.1 * base) for x in range(5, 21)]


def test_a_window_has_the_pixels_of_the_image_resized_as_a_whole() -> None:
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    mask = image[..., 0] // 64
    for short_side in (25, 37, 90):
        crop = RandomCrop(config(short_side=short_side, random_scale=(1, 1)))
        size = short_side_size((37, 50), short_side=short_side)
        whole = np.asarray(Image.fromarray(image).resize(size[::-1], Image.Resampling.BILINEAR))
        for k in range(4):
            cropped = crop(image, mask, rng=np.random.default_rng(k))
            windows = np.lib.stride_tricks.sliding_window_view(resize_nearest(mask, size), (24, 24))
            places = np.argwhere((windows == cropped.mask).all((2, 3)))
            assert len(places) == 1, "the mask is a window of the resized mask"
            top, left = places[0]
            expected = whole[top : top + 24, left : left + 24].astype(int)
            # Rounding in Pillow's two passes apart.
            assert np.abs(cropped.image - expected).max() <= 2
            assert (cropped.image != expected).mean() < 0.02


def test_image_and_mask_stay_aligned_and_keep_their_aspect() -> None:
    for cropped in crops(random_flip=True):
        height, width = cropped.filled
        image, mask = cropped.image[:height, :width], cropped.mask[:height, :width]
        lower, right = image[..., 0] >= 127, image[..., 1] >= 127
        agree = mask == lower * 2 + right
        assert agree.mean() > 0.9  # up to a line of pixels at each border
        slopes = [np.abs(np.diff(image[..., c].astype(int), axis=c)).mean() for c in (0, 1)]
        # 255 levels over 40 rows and over 60 columns.
        assert slopes[0] / slopes[1] == pytest.approx(60 / 40, rel=0.05)
    flips = [
        np.diff(cropped.image[0, : cropped.filled[1], 1].astype(int)).mean() < 0
        for cropped in crops(40, random_flip=True)
    ]
    assert 10 < sum(flips) < 30


def test_what_a_small_sample_leaves_free_is_grey_and_ignored() -> None:
    for cropped in crops(random_scale=(0.5, 0.5)):  # 16 x 24
        assert cropped.filled == (16, 24) and cropped.image.shape == (24, 24, 3)
        assert (cropped.image[16:] == PADDING).all() and (cropped.mask[16:] == IGNORE_INDEX).all()
        assert (cropped.mask[:16] != IGNORE_INDEX).all()


def test_crops_may_be_rectangular_and_lie_anywhere() -> None:
    anywhere = crops(60, crop_size=(16, 40), random_scale=(1, 1))
    assert {c.image.shape for c in anywhere} == {(16, 40, 3)}
    corners = {(int(c.image[0, 0, 0]) // 32, int(c.image[0, 0, 1]) // 16) for c in anywhere}
    assert len(corners) > 10


def test_scale_jitter_fits_the_sample_into_the_scaled_crop() -> None:
    for cropped in crops(resize="scale_jitter", random_scale=(0.5, 0.5)):  # a box of 12 x 12
        assert cropped.filled == (8, 12)
    for cropped in crops(resize="scale_jitter", random_scale=(3, 3)):  # 48 x 72
        assert cropped.filled == (24, 24)
    tall = crops(resize="scale_jitter", random_scale=(1, 1), size=(60, 40), crop_size=(24, 48))
    assert {cropped.filled for cropped in tall} == {(24, 16)}


def test_one_class_may_not_fill_a_crop() -> None:
    def largest(limit: float) -> list[float]:
        filled = crops(40, random_scale=(2, 2), max_category_share=limit)
        return [np.bincount(c.mask.ravel()).max() / c.mask.size for c in filled]

    assert np.mean(np.array(largest(1.0)) == 1) > 0.2
    assert np.mean(np.array(largest(0.75)) < 0.75) > 0.9


def test_a_resize_needs_its_sizes() -> None:
    for changes, message in (
        ({"crop_size": None}, "needs 'crop_size'"),
        ({"short_side": None}, "needs 'short_side'"),
        ({"resize": "zoom", "crop_size": (8, 16)}, "crops squares"),
        ({"patience": 2}, "validate_every"),
        ({"batch_size": 16, "micro_batch_size": 5}, "divisor of batch_size 16"),
    ):
        with pytest.raises(ValueError, match=message):
            config(**changes)
