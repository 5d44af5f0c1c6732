"""How near samples come to a training set: distances to the nearest training sample, as it is or mirrored.

A generator that repeats what it was trained on makes samples that are nearer to the training set
than new ones can be. How near those come is measured on real samples that nobody was trained on.
Mirrored training samples count since training mirrors them.

Images are compared at 32x32 pixels (the size of Carlini et al.'s CIFAR-10 experiments), by three
measures:
- the root mean square of the differences of channel values;
- that of the nearest relative to those of the n nearest (N. Carlini et al., "Extracting Training
  Data from Diffusion Models", USENIX Security 2023, arXiv:2301.13188, the adaptive l2 distance of
  the CIFAR-10 experiments): a flat picture is near to many, a copy to one;
- one minus the correlation of grey pictures, which neither brightness nor contrast changes.

Distances of images are computed in whole numbers as far as the root, so that they are the same on
every device and 0 for a copy.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from seggen_core.taxonomy import IGNORE_INDEX

IMAGE_SIDE = 32
MASK_SIDE = 64
"""Masks are compared at this side at most."""

ALPHA = 0.5
"""Carlini et al.'s factor on the mean distance of the n nearest; theirs is n = 50."""

MIN_SHARED = 0.5
"""Share of a mask's labelled pixels that has to be labelled in a training mask as well for the two to be compared."""

_CHUNK = 2048
_NONE = -1


@dataclass(frozen=True)
class Nearest:
    """The nearest training sample of each of Q samples.

    Attributes:
        index: int64 [Q], position in the training set; of equally near ones the first; -1 where
            there is none to compare with.
        distance: float64 [Q]; NaN where there is none.
        mirrored: bool [Q], whether it is the horizontally flipped training sample that is near.
    """

    index: np.ndarray
    distance: np.ndarray
    mirrored: np.ndarray


@dataclass(frozen=True)
class NearestImages:
    """What `nearest_images` found for each of Q images.

    Attributes:
        rms: by root mean square difference per channel value, in grey levels (0 to 255).
        relative: float64 [Q], from 0 for a copy to 1 / ALPHA; the root mean square of the nearest,
            over ALPHA times the mean of the n nearest. NaN where there is none.
        structure: by 1 - r, with the correlation r of the grey pictures: 0 for a copy, 1 for
            unrelated ones; a picture of one grey is unrelated to all.
    """

    rms: Nearest
    relative: np.ndarray
    structure: Nearest


@dataclass(frozen=True)
class PackedMasks:
    """N masks as bits, 64 pixels a word, so that two are compared in a few operations.

    Attributes:
        planes: uint64 [bits of a train id, N, words]; 0 where a pixel is ignored.
        labelled: uint64 [N, words], the pixels that aren't ignored.
    """

    planes: np.ndarray
    labelled: np.ndarray

    def __len__(self) -> int:
        return len(self.labelled)


def reduce_image(image: np.ndarray) -> np.ndarray:
    """Return an image, uint8 [H, W, 3], averaged over areas to uint8 [IMAGE_SIDE, IMAGE_SIDE, 3].

    Areas may cut through pixels. Pillow's box filter takes whole ones instead, and not those of the
    mirrored image.
    """
    rows, columns = (_area_weights(length) for length in image.shape[:2])
    sums = np.einsum("yxc,sx->ysc", np.tensordot(rows, image, 1), columns, optimize=True)
    return np.rint(sums / (image.shape[0] * image.shape[1])).astype(np.uint8)


@lru_cache
def _area_weights(length: int) -> np.ndarray:
    """Return what each of `length` pixels in a row adds to IMAGE_SIDE averages, float64 [IMAGE_SIDE, length].

    Rows sum to `length`; weights are whole numbers, so that sums are exact, in whichever order they
    are made.
    """
    cells, pixels = np.arange(IMAGE_SIDE + 1)[:, None] * length, np.arange(length) * IMAGE_SIDE
    covered = np.minimum(cells[1:], pixels + IMAGE_SIDE) - np.maximum(cells[:-1], pixels)
    return np.maximum(covered, 0).astype(np.float64)


def reduce_mask(segmentation_map: np.ndarray, *, side: int) -> np.ndarray:
    """Return a mask, uint8 [H, W], sampled at the middles of side x side cells: uint8 [side, side].

    The middle of a cell of even size lies between pixels, so mirror a mask before it is reduced,
    not after.
    """
    rows, columns = (
        (2 * np.arange(side) + 1) * length // (2 * side) for length in segmentation_map.shape
    )
    return segmentation_map[rows[:, None], columns]


def pack_masks(masks: np.ndarray, *, num_classes: int) -> PackedMasks:
    """Pack masks, uint8 [N, H, W] with train ids below `num_classes` or IGNORE_INDEX."""
    pixels = masks.reshape(len(masks), -1)
    labelled = pixels != IGNORE_INDEX
    planes = [
        _pack_bits((pixels >> bit & 1).astype(bool) & labelled)
        for bit in range(max((num_classes - 1).bit_length(), 1))
    ]
    return PackedMasks(np.stack(planes), _pack_bits(labelled))


def _pack_bits(bits: np.ndarray) -> np.ndarray:
    """Return bool [N, P] as uint64 [N, ceil(P / 64)], the rest of the last word 0."""
    padded = np.pad(bits, ((0, 0), (0, -bits.shape[1] % 64)))
    return np.packbits(padded, axis=1).view(np.uint64)


def nearest_masks(
    masks: PackedMasks,
    *,
    mirrored: PackedMasks,
    training: PackedMasks,
    same: np.ndarray | None = None,
) -> Nearest:
    """Find for each of Q masks the training mask that differs from it in the smallest share of pixels, in percent.

    Pixels that are ignored in either mask are left out; training masks that share fewer than
    MIN_SHARED of a mask's labelled pixels aren't compared with it.

    Args:
        masks: the Q masks.
        mirrored: the same masks, horizontally flipped. A mask is as far from a flipped training
            mask as the flipped mask is from the training mask.
        training: N training masks.
        same: bool [Q, N], pairs that aren't compared since they are one sample.
    """
    index = np.full(len(masks), _NONE, np.int64)
    distance, flips = np.full(len(masks), np.nan), np.zeros(len(masks), bool)
    for q in range(len(masks)):
        for flip, own in ((False, masks), (True, mirrored)):
            shares = _differing_shares(own, position=q, training=training)
            if same is not None:
                shares[same[q]] = np.inf
            best = int(shares.argmin())
            if shares[best] < (np.inf if np.isnan(distance[q]) else distance[q]):
                index[q], distance[q], flips[q] = best, shares[best], flip
    return Nearest(index, distance, flips)


def _differing_shares(masks: PackedMasks, *, position: int, training: PackedMasks) -> np.ndarray:
    """Return the share of pixels, in percent, in which a mask differs from each of N: float64 [N], inf for too few shared."""
    shares = np.empty(len(training))
    labelled = masks.labelled[position]
    wanted = MIN_SHARED * int(np.bitwise_count(labelled).sum())
    for rows in _chunks(len(training)):
        shared = training.labelled[rows] & labelled
        differs = training.planes[0, rows] ^ masks.planes[0, position]
        for plane, own in zip(training.planes[1:], masks.planes[1:, position], strict=True):
            differs |= plane[rows] ^ own
        differs &= shared
        num_shared = np.bitwise_count(shared).sum(1, dtype=np.int64)
        num_different = np.bitwise_count(differs).sum(1, dtype=np.int64)
        enough = (num_shared >= wanted) & (num_shared > 0)
        shares[rows] = np.where(enough, 100 * num_different / np.maximum(num_shared, 1), np.inf)
    return shares


def nearest_images(
    images: np.ndarray,
    *,
    training: np.ndarray,
    neighbors: int,
    device: torch.device,
    same: np.ndarray | None = None,
) -> NearestImages:
    """Find for each of Q images the nearest training images. Memory is that of Q rows of 2048 distances, whatever N is.

    Args:
        images: uint8 [Q, S, S, 3], S even, as `reduce_image` gives them.
        training: uint8 [N, S, S, 3].
        neighbors: n of Carlini's relative distance; fewer where the training set has fewer.
        device: where the distances are computed.
        same: bool [Q, N], pairs that aren't compared since they are one sample.
    """
    own = _Features.of(images, device=device)
    num_values = images[0].size
    rms, structure = _Search(len(images), device=device), _Search(len(images), device=device)
    nearest = torch.full((len(images), 0), torch.inf, dtype=torch.float64, device=device)
    for rows in _chunks(len(training)):
        other = _Features.of(training[rows], device=device)
        excluded = None if same is None else torch.from_numpy(same[:, rows]).to(device)
        even, odd = own.even @ other.even.T, own.odd @ other.odd.T
        squared = own.squared[:, None] + other.squared - (even + odd.abs())
        if excluded is not None:
            squared.masked_fill_(excluded, torch.inf)
        rms.update(squared, mirrored=odd < 0, start=rows.start)
        candidates = torch.cat([nearest, squared], 1)
        nearest = candidates.topk(min(neighbors, candidates.shape[1]), dim=1, largest=False).values

        even, odd = own.grey_even @ other.grey_even.T, own.grey_odd @ other.grey_odd.T
        unlike = (1 - even - odd.abs()).clamp_min_(0)
        if excluded is not None:
            unlike.masked_fill_(excluded, torch.inf)
        structure.update(unlike, mirrored=odd < 0, start=rows.start)

    distances = (nearest / num_values).sqrt_()
    usable = distances.isfinite()
    mean = distances.where(usable, 0).sum(1) / usable.sum(1)
    closest = distances.amin(1)
    relative = torch.where(closest == 0, 0.0, closest / (ALPHA * mean)).where(
        closest.isfinite(), torch.nan
    )
    found = rms.finish()
    by_rms = Nearest(found.index, np.sqrt(found.distance / num_values), found.mirrored)
    return NearestImages(by_rms, relative.cpu().numpy(), structure.finish())


@dataclass(frozen=True)
class _Features:
    """N pictures, split into what flipping keeps (even) and what it negates (odd), float64 [N, values / 2].

    Products of pictures, as they are and mirrored, are even + odd and even - odd: one search finds
    both.

    Attributes:
        even, odd: whole numbers, sums and differences of mirrored values. Their products are twice
            those of the pictures, as squared distances want them.
        squared: float64 [N], sums of squares.
        grey_even, grey_odd: of grey pictures with mean 0 and norm 1, or all 0.
    """

    even: torch.Tensor
    odd: torch.Tensor
    squared: torch.Tensor
    grey_even: torch.Tensor
    grey_odd: torch.Tensor

    @classmethod
    def of(cls, images: np.ndarray, *, device: torch.device) -> "_Features":
        values = torch.from_numpy(images).to(device, torch.float64)
        grey = values.sum(3)
        grey = grey - grey.mean((1, 2), keepdim=True)
        norm = grey.flatten(1).norm(dim=1)
        grey = grey / norm.clamp_min(1e-6)[:, None, None] * (0.5**0.5)
        return cls(*_halves(values), values.square().sum((1, 2, 3)), *_halves(grey))


def _halves(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return sums and differences of the left and the mirrored right half of pictures [N, H, W, ...], each [N, values / 2]."""
    half = pictures.shape[2] // 2
    left, right = pictures[:, :, :half], pictures[:, :, half:].flip(2)
    return (left + right).flatten(1), (left - right).flatten(1)


class _Search:
    """The smallest distance of each of Q rows, over chunks of columns."""

    def __init__(self, num_rows: int, *, device: torch.device) -> None:
        self._distance = torch.full((num_rows,), torch.inf, dtype=torch.float64, device=device)
        self._index = torch.full((num_rows,), _NONE, dtype=torch.int64, device=device)
        self._mirrored = torch.zeros(num_rows, dtype=torch.bool, device=device)

    def update(self, distances: torch.Tensor, *, mirrored: torch.Tensor, start: int) -> None:
        """Look at distances, and whether they are to the mirrored one, float64 and bool [Q, chunk]."""
        values, columns = distances.min(1)
        better = values < self._distance
        self._distance = torch.where(better, values, self._distance)
        self._index = torch.where(better, columns + start, self._index)
        self._mirrored = torch.where(
            better, mirrored.gather(1, columns[:, None])[:, 0], self._mirrored
        )

    def finish(self) -> Nearest:
        distance = self._distance.where(self._distance.isfinite(), torch.nan)
        return Nearest(
            self._index.cpu().numpy(), distance.cpu().numpy(), self._mirrored.cpu().numpy()
        )


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + _CHUNK, length)) for start in range(0, length, _CHUNK))
