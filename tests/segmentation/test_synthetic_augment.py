import numpy as np
import pytest

from seggen_core.config import SyntheticAugmentConfig
from seggen_core.segmentation.synthetic_augment import (
    add_noise,
    augment_synthetic,
    occlude,
    perspective_coefficients,
    splice,
    warp_perspective,
)

NEVER = {"splice": 0, "perspective": 0, "occlusion": 0, "noise": 0}


def pairs(count, size=12, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, size, size, 3), np.uint8), rng.integers(
        0, 5, (count, size, size), np.uint8
    )


@pytest.mark.parametrize("grid", [(1, 2), (2, 1), (2, 2), (3, 3), (5, 5)])
def test_a_splice_is_the_grid_shrunk_to_one_picture(grid):
    rows, columns = grid
    images, masks = pairs(rows * columns)
    image, mask = splice(images, masks, grid=grid)
    assert image.shape == (12, 12, 3) and mask.shape == (12, 12)
    for y in range(12):
        for x in range(12):
            covered = [
                images[(yy // 12) * columns + xx // 12, yy % 12, xx % 12]
                for yy in range(y * rows, (y + 1) * rows)
                for xx in range(x * columns, (x + 1) * columns)
            ]
            np.testing.assert_allclose(image[y, x], np.mean(covered, axis=0), atol=0.51)
            yy, xx = int((y + 0.5) * rows), int((x + 0.5) * columns)
            assert mask[y, x] == masks[(yy // 12) * columns + xx // 12, yy % 12, xx % 12]


def test_perspective_maps_corners_to_corners():
    corners = np.array([[1.0, 2.0], [9.0, 1.0], [10.0, 10.0], [0.5, 8.0]])
    matrix = perspective_coefficients(corners, size=(12, 12))
    for (x, y), (u, v) in zip([(0, 0), (11, 0), (11, 11), (0, 11)], corners, strict=True):
        moved = matrix @ [x, y, 1]
        np.testing.assert_allclose(moved[:2] / moved[2], (u, v), atol=1e-9)


def test_a_warp_moves_image_and_mask_together():
    images, masks = pairs(1)
    image, mask = images[0], masks[0]
    image[..., 0] = mask * 40
    square = np.array([[0, 0], [11, 0], [11, 11], [0, 11]], float)
    same = warp_perspective(image, mask, corners=square)
    assert np.array_equal(same[0], image) and np.array_equal(same[1], mask)
    shifted = warp_perspective(image, mask, corners=np.add(square, (3, 0)))
    assert np.array_equal(shifted[1][:, :9], mask[:, 3:]) and (shifted[1][:, 9:] == 255).all()
    assert (shifted[0][:, 9:] == 128).all()
    tilted = warp_perspective(
        image, mask, corners=np.add(square, [[2, 1], [0, 0], [-1, -2], [0, 0]])
    )
    assert np.array_equal(tilted[0][..., 0], tilted[1] * 40) and not np.array_equal(tilted[1], mask)


def test_an_occluder_brings_its_mask():
    images, masks = pairs(2)
    before = images[0].copy()
    image, mask = occlude(images[0], masks[0], other=(images[1], masks[1]), box=(2, 3, 7, 9))
    inside = np.zeros((12, 12), bool)
    inside[2:7, 3:9] = True
    assert np.array_equal(image[inside], images[1][inside]) and np.array_equal(
        mask[inside], masks[1][inside]
    )
    assert np.array_equal(image[~inside], images[0][~inside]) and np.array_equal(
        mask[~inside], masks[0][~inside]
    )
    assert np.array_equal(images[0], before)


def test_noise_has_the_deviation_asked_for():
    grey = np.full((4, 32, 32, 3), 128, np.uint8)
    noisy = add_noise(grey, sigma=10, rng=np.random.default_rng(0))
    assert (
        noisy.dtype == np.uint8
        and noisy.std() == pytest.approx(10, rel=0.05)
        and noisy.mean() == pytest.approx(128, abs=0.5)
    )


@pytest.mark.parametrize("what", ["splice", "perspective", "occlusion", "noise"])
def test_each_transformation_is_done_with_its_probability(what):
    images, masks = pairs(20)
    batch = list(zip(images, masks, strict=True))
    pool = list(zip(*pairs(16, seed=1), strict=True))

    def augment(seed, **probabilities):
        config = SyntheticAugmentConfig(**NEVER | probabilities)
        augmented = augment_synthetic(
            batch, pool=pool, config=config, rng=np.random.default_rng(seed)
        )
        return tuple(np.stack(part) for part in zip(*augmented, strict=True))

    untouched = augment(0)
    assert np.array_equal(untouched[0], images) and np.array_equal(untouched[1], masks)
    augmented, again = augment(0, **{what: 1}), augment(0, **{what: 1})
    assert np.array_equal(augmented[0], again[0]) and np.array_equal(augmented[1], again[1])
    for k in range(20):
        assert not np.array_equal(augmented[0][k], images[k])
        assert np.array_equal(augmented[1][k], masks[k]) == (what == "noise")
    half = augment(3, **{what: 0.5})
    changed = [not np.array_equal(half[0][k], images[k]) for k in range(20)]
    assert any(changed) and not all(changed)
    # Whether a pair is changed doesn't change how.
    whole = augment(3, **{what: 1})
    for k in np.flatnonzero(changed):
        assert np.array_equal(half[0][k], whole[0][k])


def test_ranges_that_make_no_sense_are_named():
    with pytest.raises(ValueError, match="occlusion_extent"):
        SyntheticAugmentConfig(occlusion_extent=(0.6, 0.5))
