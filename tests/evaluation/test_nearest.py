"""Distances to the nearest training sample, against literal NumPy and planted copies."""

import numpy as np
import pytest
import torch

from seggen_core.evaluation import nearest
from seggen_core.evaluation.nearest import (
    ALPHA,
    IMAGE_SIDE,
    Nearest,
    NearestImages,
    nearest_images,
    nearest_masks,
    pack_masks,
    reduce_image,
    reduce_mask,
)
from seggen_core.taxonomy import IGNORE_INDEX

CPU = torch.device("cpu")
CLASSES = 6


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "_CHUNK", 4)


def pictures(count: int, *, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(
        0, 256, (count, IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8
    )


def masks(count: int, *, seed: int, side: int = 12, ignored: float = 0.1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, CLASSES, (count, side, side)).astype(np.uint8)
    drawn[rng.random(drawn.shape) < ignored] = IGNORE_INDEX
    return drawn


def pack(maps: np.ndarray) -> np.ndarray:
    return pack_masks(maps, num_classes=CLASSES)


def search(maps: np.ndarray, training: np.ndarray, *, same: np.ndarray | None = None) -> Nearest:
    return nearest_masks(
        pack(maps), mirrored=pack(maps[:, :, ::-1]), training=pack(training), same=same
    )


def find(
    images: np.ndarray, training: np.ndarray, *, neighbors: int = 5, same: np.ndarray | None = None
) -> NearestImages:
    return nearest_images(images, training=training, neighbors=neighbors, device=CPU, same=same)


def test_image_distances_are_those_of_literal_numpy() -> None:
    images, training = pictures(5, seed=0), pictures(11, seed=1)
    neighbors = find(images, training)
    for q, image in enumerate(images.astype(float)):
        rms, unlike = np.empty((2, 11)), np.empty((2, 11))
        for n, other in enumerate(training.astype(float)):
            for flip, near in enumerate((other, other[:, ::-1])):
                rms[flip, n] = np.sqrt(((image - near) ** 2).mean())
                unlike[flip, n] = 1 - np.corrcoef(image.mean(2).ravel(), near.mean(2).ravel())[0, 1]
        assert neighbors.rms.index[q] == rms.min(0).argmin() and neighbors.rms.distance[
            q
        ] == pytest.approx(rms.min(), rel=1e-12)
        assert neighbors.rms.mirrored[q] == (rms[1].min() < rms[0].min())
        assert neighbors.relative[q] == pytest.approx(
            rms.min() / (ALPHA * np.sort(rms.min(0))[:5].mean()), rel=1e-12
        )
        assert neighbors.structure.index[q] == unlike.min(0).argmin()
        assert neighbors.structure.distance[q] == pytest.approx(unlike.min(), abs=1e-12)
        assert neighbors.structure.mirrored[q] == (unlike[1].min() < unlike[0].min())


def test_planted_copies_are_found_as_they_are_mirrored_and_brightened() -> None:
    training = pictures(11, seed=2)
    training[4] //= 2
    images = np.stack([training[7], training[9][:, ::-1], training[4] + np.uint8(100)])
    neighbors = find(images, training)
    assert neighbors.rms.index[:2].tolist() == [7, 9] and neighbors.rms.distance[:2].tolist() == [
        0,
        0,
    ]
    assert neighbors.rms.mirrored[:2].tolist() == [False, True] and neighbors.relative[
        :2
    ].tolist() == [
        0,
        0,
    ]
    assert neighbors.structure.index.tolist() == [
        7,
        9,
        4,
    ] and neighbors.structure.mirrored.tolist() == [
        False,
        True,
        False,
    ]
    assert neighbors.structure.distance.tolist() == [0, 0, 0]
    assert neighbors.rms.distance[2] > 50, "only the structure is that of the copy"


def test_a_sample_is_not_compared_with_itself_and_duplicates_come_first() -> None:
    training = pictures(11, seed=3)
    training[10] = training[2]
    assert find(training[[2]], training).rms.index.tolist() == [2]
    same = np.zeros((1, 11), bool)
    same[0, 2] = True
    assert find(training[[2]], training, same=same).rms.index.tolist() == [10]
    others = masks(3, seed=9)
    assert search(others[:1], others).index.tolist() == [0]
    assert search(others[:1], others, same=np.array([[True, False, False]])).index.tolist() != [0]
    nothing = find(training[[2]], training, same=np.ones((1, 11), bool))
    assert nothing.rms.index.tolist() == nothing.structure.index.tolist() == [-1]
    assert np.isnan(
        [nothing.rms.distance[0], nothing.relative[0], nothing.structure.distance[0]]
    ).all()


def test_a_picture_of_one_grey_is_unrelated_to_all() -> None:
    grey = np.full((1, IMAGE_SIDE, IMAGE_SIDE, 3), 77, np.uint8)
    result = find(grey, pictures(3, seed=4))
    assert result.structure.distance[0] == pytest.approx(1, abs=1e-6)
    assert (
        result.relative[0] < 1 / ALPHA
        and find(grey, pictures(3, seed=4), neighbors=50).relative[0] == result.relative[0]
    )


def test_mask_distances_are_those_of_literal_numpy() -> None:
    queries, training = masks(6, seed=5), masks(11, seed=6)
    neighbors = search(queries, training)
    for q, mask in enumerate(queries):
        shares = np.empty((2, 11))
        for n, other in enumerate(training):
            for flip, near in enumerate((other, other[:, ::-1])):
                shared = (mask != IGNORE_INDEX) & (near != IGNORE_INDEX)
                shares[flip, n] = 100 * (mask != near)[shared].mean()
        assert neighbors.index[q] in np.flatnonzero(shares.min(0) == shares.min())
        assert neighbors.distance[q] == pytest.approx(shares.min(), rel=1e-12)
        assert neighbors.mirrored[q] == (shares[1].min() < shares[0].min())


def test_planted_masks_are_found_as_they_are_and_mirrored() -> None:
    training = masks(11, seed=7)
    neighbors = search(np.stack([training[3], training[8][:, ::-1]]), training)
    assert (
        neighbors.index.tolist() == [3, 8]
        and neighbors.distance.tolist() == [0, 0]
        and neighbors.mirrored.tolist() == [False, True]
    )


def test_ignored_pixels_are_no_agreement() -> None:
    queries = masks(1, seed=8, ignored=0)
    training = masks(2, seed=9, ignored=0)
    training[1] = queries[0]
    training[1, :, 5:] = (
        IGNORE_INDEX  # agrees where it is labelled, in less than half of the pixels
    )
    assert search(queries, training).index.tolist() == [0]
    training[1, :, 5:7] = queries[0, :, 5:7]  # now in more
    assert search(queries, training).index.tolist() == [1]
    nothing = search(queries, np.full_like(training, IGNORE_INDEX))
    assert nothing.index.tolist() == [-1] and np.isnan(nothing.distance[0])


def test_reduced_pictures_are_averages_and_reduced_masks_samples() -> None:
    image = np.random.default_rng(10).integers(0, 256, (96, 64, 3), np.uint8)
    expected = image.reshape(IMAGE_SIDE, 3, IMAGE_SIDE, 2, 3).mean((1, 3))
    assert np.array_equal(reduce_image(image), np.rint(expected))
    odd = np.random.default_rng(11).integers(0, 256, (40, 45, 3), np.uint8)
    assert np.array_equal(reduce_image(odd)[:, ::-1], reduce_image(odd[:, ::-1]))
    assert (
        reduce_image(np.full((20, 45, 3), 201, np.uint8)).tolist()
        == np.full((IMAGE_SIDE, IMAGE_SIDE, 3), 201).tolist()
    )
    assert np.array_equal(reduce_image(odd[:16, :16]), odd[:16, :16].repeat(2, 0).repeat(2, 1))
    mask = np.arange(24, dtype=np.uint8).reshape(4, 6)
    assert reduce_mask(mask, side=2).tolist() == [[7, 10], [19, 22]]
    assert (reduce_mask(masks(1, seed=11)[0], side=12) == masks(1, seed=11)[0]).all()
