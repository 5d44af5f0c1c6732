"""Boundaries, against erosions and by hand."""

import numpy as np
import pytest
from scipy import ndimage

from seggen_core.metrics.boundary import (
    boundary_width,
    count_boundaries,
    label_boundaries,
    mask_boundaries,
)
from seggen_core.taxonomy import IGNORE_INDEX


@pytest.mark.parametrize("size", [(1, 1), (3, 9), (12, 7), (40, 31)])
@pytest.mark.parametrize("width", [1, 2, 5])
def test_boundaries_are_what_erosions_take_away(size: tuple[int, int], width: int) -> None:
    rng = np.random.default_rng(width)
    ids = np.kron(rng.integers(0, 3, (3, 3)), np.ones((14, 11), int))[: size[0], : size[1]]
    ids = np.where(rng.random(ids.shape) < 0.02, 7, ids)
    masks = np.stack([ids == k for k in (0, 1, 2, 7)])
    kernel = np.ones((3, 3), bool)
    expected = [m & ~ndimage.binary_erosion(m, kernel, iterations=width) for m in masks]
    np.testing.assert_array_equal(mask_boundaries(masks, width=width), expected)
    np.testing.assert_array_equal(label_boundaries(ids, width=width), np.any(expected, 0))


def test_width_is_two_percent_of_the_diagonal_and_at_least_a_pixel() -> None:
    assert [boundary_width(size) for size in ((480, 640), (30, 40), (4, 4))] == [16, 1, 1]


def test_shared_boundaries_by_hand() -> None:
    truth = np.zeros((7, 7), np.uint8)
    truth[1:6, 1:6] = 1
    moved = np.roll(truth, 1, 1)
    # Rims of 16 pixels in squares of 5x5; those moved by one share 4 + 4 of the rows and, where
    # the columns cross them, nothing more.
    assert count_boundaries(moved, truth=truth, num_classes=3, width=1)[:, 1].tolist() == [8, 24]
    same = count_boundaries(truth, truth=truth, num_classes=3, width=1)
    assert same[0].tolist() == same[1].tolist() and same[0, 1] == 16 and same[0, 2] == 0


def test_what_is_predicted_on_ignored_pixels_does_not_count() -> None:
    truth = np.full((6, 6), IGNORE_INDEX, np.uint8)
    truth[:, :3] = 0
    assert count_boundaries(np.ones_like(truth), truth=truth, num_classes=2, width=1).tolist() == [
        [0, 0],
        [14, 10],
    ]
    with pytest.raises(ValueError, match=r"the prediction is \(2, 2\), the truth \(6, 6\)"):
        count_boundaries(np.zeros((2, 2), np.uint8), truth=truth, num_classes=2, width=1)
