"""Boundaries, against erosions and by hand."""

import numpy as np
import pytest
from scipy import ndimage

from seggen_core.metrics.boundary import (
    boundary_iou,
    boundary_scores,
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


def reference_iou(pairs: list[tuple[np.ndarray, np.ndarray]], *, num_classes: int) -> np.ndarray:
    """Boundary IoU by its definition: each class of each picture is eroded by itself.

    `mask_to_boundary` of boundary-iou-api erodes by a square of 3 x 3 as often as the boundary is
    wide, beyond the picture there is nothing, and what is predicted on void is removed.
    """
    shared, either = np.zeros(num_classes, np.int64), np.zeros(num_classes, np.int64)
    for prediction, truth in pairs:
        width = max(1, round(0.02 * np.hypot(*truth.shape)))
        for k in range(num_classes):
            rims = []
            for mask in (truth == k, prediction == k):
                inside = ndimage.binary_erosion(mask, np.ones((3, 3), bool), iterations=width)
                rims.append(mask & ~inside & (truth != IGNORE_INDEX))
            shared[k] += (rims[0] & rims[1]).sum()
            either[k] += (rims[0] | rims[1]).sum()
    with np.errstate(invalid="ignore"):
        return 100 * shared / either


@pytest.mark.parametrize("seed", range(4))
def test_boundary_iou_of_a_split_is_that_of_eroded_classes(seed: int) -> None:
    rng, pairs = np.random.default_rng(seed), []
    for size in ((37, 52), (120, 90), (5, 8), (1, 3)):
        blocks = rng.integers(0, 5, (2, size[0] // 7 + 1, size[1] // 9 + 1))
        maps = np.kron(blocks, np.ones((1, 7, 9), int))[:, : size[0], : size[1]].astype(np.uint8)
        prediction, truth = maps
        agrees = rng.random(size) < 0.7
        prediction[agrees] = np.minimum(truth, 4)[agrees]
        truth[np.kron(blocks[0] == 3, np.ones((7, 9), bool))[: size[0], : size[1]]] = IGNORE_INDEX
        pairs.append((prediction, truth))
    counts = np.sum(
        [
            count_boundaries(p, truth=t, num_classes=7, width=boundary_width(t.shape))
            for p, t in pairs
        ],
        axis=0,
    )
    expected = reference_iou(pairs, num_classes=7)
    np.testing.assert_array_equal(boundary_iou(counts), expected)
    assert np.isnan(expected[5:]).all() and np.nanmax(expected) > 0
    scores = boundary_scores(counts, slugs=[*"abcdefg"])
    assert scores["boundary_miou"] == round(float(np.nanmean(expected)), 4)
    assert scores["per_class_boundary_iou"]["g"] is None


def test_a_split_without_a_boundary_has_no_score() -> None:
    scores = boundary_scores(np.zeros((2, 1), np.int64), slugs=["a"])
    assert scores == {"boundary_miou": None, "per_class_boundary_iou": {"a": None}}
