"""DiffuMask's augmentations of synthetic pairs: splicing, noise, perspective and occlusion.

They narrow the gap to real images: generated ones show one object in the middle, whole, from the
front and free of noise. Each function takes a batch of pairs and a generator and returns new pairs;
what is drawn doesn't depend on what the pictures show.

Shape legend: images uint8 [B, H, W, 3]; masks [B, H, W], uint8 train ids or int32
segment ids (`segmentation.segment_labels`). Instances of pairs that are joined get other ids.
"""

from collections.abc import Sequence

import numpy as np

from seggen_core.config import SyntheticAugmentConfig
from seggen_core.segmentation.geometry import resize_bilinear, resize_nearest
from seggen_core.segmentation.segment_labels import ignored_value, renumbered

Pairs = tuple[np.ndarray, np.ndarray]


def splice(images: np.ndarray, masks: np.ndarray, *, grid: tuple[int, int]) -> Pairs:
    """Lay pairs out in a grid and shrink it to one pair: image [H, W, 3] and mask [H, W].

    A pixel of the result is the mean of the image pixels that it covers, and the middle one of the
    mask's.

    Args:
        images, masks: rows * columns of them; pair k stands in row ``k // columns``.
        grid: (rows, columns).
    """
    rows, columns = grid
    height, width = masks.shape[1:]
    assert len(images) == rows * columns, f"{len(images)} pairs for a grid of {rows} x {columns}"
    tall = [
        np.concatenate(list(images[r * columns : (r + 1) * columns]), axis=1) for r in range(rows)
    ]
    wide = np.concatenate(tall, axis=0)
    ids = np.concatenate(
        [np.concatenate(list(masks[r * columns : (r + 1) * columns]), axis=1) for r in range(rows)],
        axis=0,
    )
    y = ((np.arange(height) + 0.5) * rows).astype(int)
    x = ((np.arange(width) + 0.5) * columns).astype(int)
    blurred = wide.reshape(height, rows, width, columns, 3).astype(np.float32).mean((1, 3))
    return np.rint(blurred).astype(np.uint8), ids[y][:, x]


def add_noise(images: np.ndarray, *, sigma: float, rng: np.random.Generator) -> np.ndarray:
    """Return images with Gaussian noise of standard deviation `sigma` grey levels (of 255)."""
    return np.rint(images + rng.normal(0, sigma, images.shape)).clip(0, 255).astype(np.uint8)


def perspective_coefficients(corners: np.ndarray, *, size: tuple[int, int]) -> np.ndarray:
    """Return the projective map that moves the corners of a picture: float64 [3, 3].

    It takes pixel centres of the result to those of the picture.

    Args:
        corners: float [4, 2], (x, y) that top left, top right, bottom right and bottom left of the
            result show.
        size: (H, W).
    """
    height, width = size
    square = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)
    equations, values = [], []
    for (x, y), (u, v) in zip(square, corners, strict=True):
        equations += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    return np.append(np.linalg.solve(np.array(equations), np.array(values)), 1.0).reshape(3, 3)


def warp_perspective(image: np.ndarray, mask: np.ndarray, *, corners: np.ndarray) -> Pairs:
    """Return image [H, W, 3] and mask [H, W] with their corners moved, by nearest pixels.

    What lies outside of the picture is grey and ignored.
    """
    height, width = mask.shape
    y, x = np.mgrid[:height, :width]
    source = perspective_coefficients(corners, size=(height, width)) @ np.stack(
        [x.ravel(), y.ravel(), np.ones(x.size)]
    )
    u, v = (np.rint(source[k] / source[2]).astype(int).reshape(height, width) for k in (0, 1))
    inside = (u >= 0) & (u < width) & (v >= 0) & (v < height)
    u, v = u.clip(0, width - 1), v.clip(0, height - 1)
    warped = np.where(inside[..., None], image[v, u], 128).astype(np.uint8)
    return warped, np.where(inside, mask[v, u], ignored_value(mask)).astype(mask.dtype)


def occlude(
    image: np.ndarray, mask: np.ndarray, *, other: Pairs, box: tuple[int, int, int, int]
) -> Pairs:
    """Return the pair with a rectangle of another pair's image and mask pasted over it.

    Args:
        image, mask: the pair.
        other: the other pair, of the same size.
        box: (top, left, bottom, right) of the rectangle, in pixels.
    """
    top, left, bottom, right = box
    covered, ids = image.copy(), mask.copy()
    covered[top:bottom, left:right] = other[0][top:bottom, left:right]
    ids[top:bottom, left:right] = renumbered(other[1], beside=mask)[top:bottom, left:right]
    return covered, ids


def augment_synthetic(
    pairs: Sequence[Pairs],
    *,
    pool: Sequence[Pairs],
    config: SyntheticAugmentConfig,
    rng: np.random.Generator,
) -> list[Pairs]:
    """Augment a batch of synthetic pairs, each by each transformation with its probability.

    Args:
        pairs: the batch, image and mask of each; sizes may differ.
        pool: pairs to splice and to occlude with, at least one. They take the size of the pair.
        config: probabilities and ranges.
        rng: takes the same number of draws per pair whatever the probabilities.
    """
    return [_augment(pair, pool=pool, config=config, rng=rng) for pair in pairs]


def _augment(
    pair: Pairs,
    *,
    pool: Sequence[Pairs],
    config: SyntheticAugmentConfig,
    rng: np.random.Generator,
) -> Pairs:
    """Augment one pair."""
    height, width = size = pair[1].shape
    coins = rng.random(4)
    grid = config.splice_grids[int(rng.integers(len(config.splice_grids)))]
    partners = rng.integers(len(pool), size=max(r * c for r, c in config.splice_grids))
    offsets = rng.random((4, 2)) * config.max_perspective
    extent, place = rng.uniform(*config.occlusion_extent, 2), rng.random(2)
    if coins[0] < config.splice:
        chosen = partners[1 : grid[0] * grid[1]].tolist()
        mates = [pair, *(_at_size(pool[position], size) for position in chosen)]
        pictures, labels = zip(*mates, strict=True)
        pair = splice(np.stack(pictures), _apart(labels), grid=grid)
    if coins[1] < config.perspective:
        inward = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * offsets * (width, height)
        square = np.array([[0, 0], [width - 1, 0], [width - 1, height - 1], [0, height - 1]], float)
        pair = warp_perspective(*pair, corners=square + inward)
    if coins[2] < config.occlusion:
        sides = np.maximum(1, np.rint(extent * (height, width))).astype(int)
        top, left = (place * (np.array([height, width]) - sides + 1)).astype(int)
        box = (int(top), int(left), int(top + sides[0]), int(left + sides[1]))
        pair = occlude(*pair, other=_at_size(pool[int(partners[-1])], size), box=box)
    noisy = add_noise(pair[0], sigma=config.noise_sigma, rng=rng)
    return (noisy if coins[3] < config.noise else pair[0]), pair[1]


def _apart(labels: Sequence[np.ndarray]) -> np.ndarray:
    """Stack labels, [N, H, W], whose instances get other ids than those before them."""
    stacked = [labels[0]]
    for label_map in labels[1:]:
        stacked.append(renumbered(label_map, beside=np.stack(stacked)))
    return np.stack(stacked)


def _at_size(pair: Pairs, size: tuple[int, int]) -> Pairs:
    image, mask = pair
    return resize_bilinear(image, size), resize_nearest(mask, size)
