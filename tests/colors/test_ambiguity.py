"""Decoding of colour maps with noise, of an autoencoder, and with colours of no class."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seggen_core.colors.ambiguity import resolve_colors
from seggen_core.colors.decoding import nearest_ids
from seggen_core.colors.palette import IGNORE_COLOR, class_palette
from seggen_core.colors.panoptic import color_to_panoptic, panoptic_palette
from seggen_core.colors.semantic import color_to_mask, mask_to_color
from seggen_core.taxonomy import IGNORE_INDEX

Send = Callable[[np.ndarray], np.ndarray]
COUNTS = [8, 11, 19, 21, 80, 133, 150, 171]
"""Class counts of the profiles, and of COCO-Stuff."""


def blocks(
    num_classes: int, *, num_blocks: int = 12, side: int = 12, present: int = 6, seed: int = 0
) -> np.ndarray:
    """A mask of square blocks, a seventh of them ignored, with at most `present` classes."""
    rng = np.random.default_rng(seed)
    classes = rng.permutation(num_classes)[:present]
    ids = np.append(classes, IGNORE_INDEX)[
        rng.integers(0, len(classes) + 1, (num_blocks, num_blocks))
    ]
    return np.kron(ids, np.ones((side, side), np.int64)).astype(np.uint8)


def noisy(color_map: np.ndarray, *, sigma: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(0, sigma, color_map.shape)
    return np.clip(np.round(color_map + noise), 0, 255).astype(np.uint8)


def recalls(predicted: np.ndarray, *, truth: np.ndarray) -> tuple[float, float]:
    """Return the share of ignored pixels that are ignored, and the mean share of a class."""
    shares = {c: float((predicted[truth == c] == c).mean()) for c in np.unique(truth)}
    return shares.pop(IGNORE_INDEX), float(np.mean(list(shares.values())))


@pytest.fixture(scope="module")
def embedded() -> Send:
    from benchmarks.color_map_round_trip import autoencoder_round_trip

    torch.set_num_threads(1)
    return autoencoder_round_trip(Path("profiles/scenes/foundation/vae"))


@pytest.mark.parametrize("num_classes", COUNTS)
def test_void_stays_void_through_noise_as_a_class_does(num_classes: int) -> None:
    truth = blocks(num_classes, seed=num_classes)
    palette = class_palette(num_classes)
    predicted = color_to_mask(
        noisy(mask_to_color(truth, palette=palette), sigma=8), palette=palette
    ).segmentation_map
    void, classes = recalls(predicted, truth=truth)
    assert classes > 0.99 and void > classes - 0.01


@pytest.mark.parametrize("noise", [0, 8])
@pytest.mark.parametrize("num_classes", [8, 11, 21, 150])
def test_void_stays_void_through_the_embedded_autoencoder(
    num_classes: int, noise: float, embedded: Send
) -> None:
    truth = blocks(num_classes, seed=num_classes)
    palette = class_palette(num_classes)
    sent = noisy(embedded(mask_to_color(truth, palette=palette)), sigma=noise)
    decoded = color_to_mask(sent, palette=palette)
    void, classes = recalls(decoded.segmentation_map, truth=truth)
    assert classes > 0.95 and void > classes - 0.03
    assert decoded.ambiguous.mean() < 0.005


@pytest.mark.parametrize("num_classes", [80, 150])
def test_an_autoencoder_adds_no_class(num_classes: int, embedded: Send) -> None:
    truth = blocks(num_classes)
    palette = class_palette(num_classes)
    sent = embedded(mask_to_color(truth, palette=palette))
    nearest = set(np.unique(nearest_ids(sent, palette=palette)))
    assert len(nearest) > 2 * len(np.unique(truth)), (
        "blends show other classes, or this test shows nothing"
    )
    assert set(np.unique(color_to_mask(sent, palette=palette).segmentation_map)) == set(
        np.unique(truth)
    )
    things = np.zeros(num_classes, bool)
    palette = panoptic_palette(num_classes)
    sent = embedded(mask_to_color(truth, palette=palette))
    decoded = color_to_panoptic(sent, palette=palette, things=things)
    assert set(np.unique(decoded.segmentation_map)) == set(np.unique(truth))


def test_a_pole_of_one_pixel_survives_blur_and_noise() -> None:
    from scipy import ndimage

    palette = class_palette(11)  # CamVid's
    truth = np.zeros((96, 96), np.uint8)
    truth[60:], truth[20:60, 30], truth[30:60, 70] = 3, 2, 2
    smooth = ndimage.gaussian_filter(
        mask_to_color(truth, palette=palette).astype(float), (0.4, 0.4, 0)
    )
    decoded = color_to_mask(noisy(np.round(smooth), sigma=4), palette=palette).segmentation_map
    assert (decoded[truth == 2] == 2).mean() > 0.95
    assert (decoded == truth).mean() > 0.995


@pytest.mark.parametrize("num_classes", [11, 150])
def test_an_area_in_a_colour_far_from_all_others_is_ignored(num_classes: int) -> None:
    """With 150 classes, too: every colour is near to one of them."""
    palette = class_palette(num_classes)
    colors = np.concatenate([palette, np.array([IGNORE_COLOR], np.uint8)]).astype(int)
    cube = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    foreign = cube[np.min([((cube - color) ** 2).sum(-1) for color in colors], axis=0).argmax()]
    color_map = np.tile(palette[0], (40, 40, 1))
    color_map[:, 20:] = palette[1]
    color_map[10:30, 10:30] = foreign
    decoded = color_to_mask(color_map, palette=palette)
    wanted = np.zeros((40, 40), bool)
    wanted[12:28, 12:28] = True  # the rim takes the nearer of the two colours around it
    assert (decoded.ambiguous == wanted).all()
    assert (decoded.segmentation_map[wanted] == IGNORE_INDEX).all() and set(
        decoded.segmentation_map[~wanted]
    ) == {0, 1}
    # A line of that colour along the outline is no area.
    color_map[10:30, 10:19], color_map[10:30, 20:30] = palette[0], palette[1]
    decoded = color_to_mask(color_map, palette=palette)
    assert not decoded.ambiguous.any() and set(np.unique(decoded.segmentation_map)) == {0, 1}


def test_an_area_that_is_moved_as_a_whole_keeps_its_class() -> None:
    """An autoencoder may move a colour by almost half the distance to the next one."""
    palette = class_palette(150)
    color_map = mask_to_color(np.full((40, 40), 9, np.uint8), palette=palette)
    color_map[10:20, 10:20] = palette[57]
    apart = palette.astype(int) - palette[57].astype(int)
    distances = np.sqrt((apart**2).sum(-1))
    distances[57] = np.inf
    color_map[10:20, 10:20] += (
        np.round(0.45 * apart[distances.argmin()]).astype(np.int8).astype(np.uint8)
    )
    decoded = color_to_mask(color_map, palette=palette)
    assert (decoded.segmentation_map[10:20, 10:20] == 57).all() and not decoded.ambiguous.any()


def test_noise_alone_shows_no_class_of_many() -> None:
    color_map = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    decoded = color_to_mask(color_map, palette=class_palette(150))
    assert decoded.ambiguous.all() and (decoded.segmentation_map == IGNORE_INDEX).all()


@pytest.mark.parametrize("shape", [(1, 1), (2, 9), (3, 3), (5, 40)])
def test_maps_of_any_size_are_decoded(shape: tuple[int, int]) -> None:
    color_map = noisy(np.full((*shape, 3), 255), sigma=3)
    color_map[0, 0] = 250
    decoded = color_to_mask(color_map, palette=class_palette(8))
    assert decoded.segmentation_map.shape == decoded.ambiguous.shape == shape
    assert (decoded.segmentation_map == 7).all()


def test_ambiguous_pixels_take_the_nearest_colour_around_them() -> None:
    """Against a literal loop over pixels."""
    colors = np.concatenate([class_palette(40), np.array([IGNORE_COLOR], np.uint8)])
    rng = np.random.default_rng(1)
    truth = np.kron(rng.integers(0, 5, (6, 6)), np.ones((6, 6), np.int64)).astype(np.uint8)
    color_map = noisy(colors[truth], sigma=28)
    ids, unexplained = resolve_colors(
        color_map, colors=colors, block_share=1 / 10_000, never_thin=[40]
    )

    apart = np.sqrt(((colors[:, None].astype(int) - colors[None]) ** 2).sum(-1)) + np.diag(
        [np.inf] * len(colors)
    )
    spacing = apart.min(1)
    distances = np.sqrt(((color_map[:, :, None].astype(int) - colors) ** 2).sum(-1))
    nearest = distances.argmin(-1)
    margin = spacing[nearest] - 2 * distances.min(-1)
    side = len(truth)
    present: set[Any] = set()
    for c in range(len(colors)):
        has_block = False
        for block, share in ((3, 0.35), (5, 0.5)):
            close = (nearest == c) & (distances.min(-1) <= share * spacing[c])
            corners = range(side - block + 1)
            has_block |= any(
                close[y : y + block, x : x + block].all() for y in corners for x in corners
            )
        is_wide = ((nearest == c) & (margin >= 96)).sum() >= max(1, side / 20) and c != 40
        present |= {c} if has_block or is_wide else set()
    certain = (margin >= 0) & np.isin(nearest, sorted(present))
    assert 0.3 < certain.mean() < 0.9
    for y in range(side):
        for x in range(side):
            window = np.s_[max(0, y - 2) : y + 3, max(0, x - 2) : x + 3]
            around = sorted(set(nearest[window][certain[window]]))
            assert unexplained[y, x] == (not certain[y, x] and not around)
            if certain[y, x] or not around:
                assert ids[y, x] == nearest[y, x]
            else:
                squared = ((color_map[y, x].astype(int) - colors[around].astype(int)) ** 2).sum(-1)
                assert ids[y, x] == around[int(squared.argmin())]
