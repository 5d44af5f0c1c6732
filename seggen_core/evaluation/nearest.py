"""How near samples come to a training set: the nearest training sample, as it is or mirrored.

A generator that repeats what it was trained on makes samples that are nearer to the training set
than new ones can be. How near new samples come is measured on real samples that no generator was
trained on. Mirrored training samples count since training mirrors them.

Images are compared at 32x32 pixels (the size of Carlini et al.'s CIFAR-10 experiments), by three
measures:
- the root mean square of the differences of channel values;
- that of the nearest relative to those of the n nearest (N. Carlini et al., "Extracting Training
  Data from Diffusion Models", USENIX Security 2023, arXiv:2301.13188, the adaptive l2 distance of
  the CIFAR-10 experiments): a flat picture is near to many, a copy to one;
- one minus the correlation of grey pictures, which neither brightness nor contrast changes.

Sums are of whole numbers that float64 holds exactly, so distances are the same on every device, and
0 for a copy. A sample is as far from a mirrored training sample as the
mirrored sample is from the training sample, so it is the samples that are mirrored here.
"""

from collections.abc import Callable
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
"""Share of a mask's labelled pixels that a training mask has to label, too, to be compared."""

_CHUNK = 1024
"""Training samples that are compared at once; memory is that of Q x _CHUNK distances."""

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
    """The nearest training images of each of Q images, by three measures.

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
    """Return what each of `length` pixels in a row adds to the averages.

    float64 [IMAGE_SIDE, length]. Rows sum to `length`; weights are whole numbers, so sums are exact
    in whichever order they are computed.
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


def pack_masks(masks: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Pack masks into bits, 64 pixels a word, for `nearest_masks`.

    Comparing bits takes a ninth of the time of ``torch.cdist(..., p=0)``.

    Args:
        masks: uint8 [N, S, S], train ids below `num_classes` or IGNORE_INDEX.

    Returns:
        uint64 [N, planes, words]. The first plane says which pixels are labelled; the others are
        the bits of their ids, 0 where a pixel is ignored.
    """
    pixels = masks.reshape(len(masks), -1)
    pixels = np.pad(pixels, ((0, 0), (0, -pixels.shape[1] % 64)), constant_values=IGNORE_INDEX)
    labelled = pixels != IGNORE_INDEX
    bits = [pixels >> bit & 1 & labelled for bit in range(max((num_classes - 1).bit_length(), 1))]
    return np.packbits(np.stack([labelled, *bits], axis=1), axis=2).view(np.uint64)


def nearest_masks(
    masks: np.ndarray,
    *,
    mirrored: np.ndarray,
    training: np.ndarray,
    same: np.ndarray | None = None,
) -> Nearest:
    """Find for each mask the training mask that differs in the smallest share of pixels.

    Distances are percent. Pixels that are ignored in either mask are left out; training masks that
    share fewer than MIN_SHARED of a mask's labelled pixels aren't compared with it.

    Args:
        masks: Q masks of `pack_masks`.
        mirrored: the same masks, horizontally flipped before they were reduced and packed.
        training: N masks of `pack_masks`.
        same: bool [Q, N], pairs that aren't compared since they are one sample.
    """
    views = np.stack([masks, mirrored])

    def differing_shares(chunk: np.ndarray) -> torch.Tensor:
        shares = np.empty((2, len(masks), len(chunk)))
        for place in np.ndindex(shares.shape[:2]):
            mask = views[place]
            shared, differs = chunk[:, 0] & mask[0], chunk[:, 1] ^ mask[1]
            for plane in range(2, len(mask)):
                differs |= chunk[:, plane] ^ mask[plane]
            differs &= shared
            num_shared = np.bitwise_count(shared).sum(1, dtype=np.int64)
            num_different = np.bitwise_count(differs).sum(1, dtype=np.int64)
            enough = num_shared >= max(MIN_SHARED * int(np.bitwise_count(mask[0]).sum()), 1)
            shares[place] = np.where(
                enough, 100 * num_different / np.maximum(num_shared, 1), np.inf
            )
        return torch.from_numpy(shares)

    return _search(differing_shares, training=training, same=same)[0]


def nearest_images(
    images: np.ndarray,
    *,
    training: np.ndarray,
    neighbors: int,
    device: torch.device,
    same: np.ndarray | None = None,
) -> NearestImages:
    """Find for each of Q images the nearest training images.

    Args:
        images: uint8 [Q, S, S, 3], as `reduce_image` gives them.
        training: uint8 [N, S, S, 3].
        neighbors: n of Carlini's relative distance; fewer where the training set has fewer.
        device: where the distances are computed.
        same: bool [Q, N], pairs that aren't compared since they are one sample.
    """
    views = torch.from_numpy(np.stack([images, images[:, :, ::-1]])).to(device, torch.float64)
    values, grey = views.flatten(2), _centred_grey(views)
    num_values = values.shape[-1]

    def squared_distances(chunk: np.ndarray) -> torch.Tensor:
        other = torch.from_numpy(chunk).to(device, torch.float64).flatten(1)
        squares = values.square().sum(-1)[..., None] + other.square().sum(-1)
        return squares.sub_(values @ other.T, alpha=2)

    def unlikeness(chunk: np.ndarray) -> torch.Tensor:
        other = _centred_grey(torch.from_numpy(chunk).to(device, torch.float64))
        variances = grey.square().sum(-1)[..., None] * other.square().sum(-1)
        # sqrt(v * v) is exactly v, so that a copy has correlation 1.
        return 1 - (grey @ other.T) / variances.sqrt_().clamp_min_(1)

    by_square, nearest = _search(
        squared_distances, training=training, same=same, neighbors=neighbors
    )
    structure, _ = _search(unlikeness, training=training, same=same)
    distances = np.sqrt(nearest / num_values)
    usable = np.isfinite(distances)
    mean = distances.sum(1, where=usable) / np.maximum(usable.sum(1), 1)
    rms = Nearest(by_square.index, np.sqrt(by_square.distance / num_values), by_square.mirrored)
    is_copy = rms.distance == 0
    relative = np.where(is_copy, 0.0, rms.distance / np.where(is_copy, 1, ALPHA * mean))
    return NearestImages(rms, relative, structure)


def _centred_grey(pictures: torch.Tensor) -> torch.Tensor:
    """Return grey pictures less their mean, times the number of pixels: whole numbers [..., P]."""
    grey = pictures.sum(-1).flatten(-2)
    return grey * grey.shape[-1] - grey.sum(-1, keepdim=True)


def _search(
    measure: Callable[[np.ndarray], torch.Tensor],
    *,
    training: np.ndarray,
    same: np.ndarray | None,
    neighbors: int = 1,
) -> tuple[Nearest, np.ndarray]:
    """Find the nearest of N training samples, and the distances to the `neighbors` nearest.

    Args:
        measure: distances of the Q samples, as they are and mirrored, to the training samples of a
            chunk: float64 [2, Q, chunk], infinite where two aren't compared.
        training: [N, ...].
        same: bool [Q, N], pairs that aren't compared.
        neighbors: of each sample.

    Returns:
        The nearest, and float64 [Q, neighbors], ascending; fewer where N is smaller.
    """
    values, flips, index = [], [], []
    nearest: list[torch.Tensor] = []
    for start in range(0, len(training), _CHUNK):
        distances, flipped = measure(training[start : start + _CHUNK]).clamp_min_(0).min(0)
        if same is not None:
            excluded = torch.from_numpy(same[:, start : start + _CHUNK])
            distances.masked_fill_(excluded.to(distances.device), torch.inf)
        closest, columns = distances.min(1)
        values.append(closest)
        index.append(columns + start)
        flips.append(flipped.gather(1, columns[:, None])[:, 0])
        nearest.append(distances.topk(min(neighbors, distances.shape[1]), largest=False).values)
    distance, chunks = torch.stack(values, 1).min(1)
    position, mirrored = (
        torch.stack(parts, 1).gather(1, chunks[:, None])[:, 0].cpu().numpy()
        for parts in (index, flips)
    )
    known = distance.isfinite().cpu().numpy()
    closest_of_all = Nearest(
        np.where(known, position, _NONE),
        np.where(known, distance.cpu().numpy(), np.nan),
        known & mirrored.astype(bool),
    )
    candidates = torch.cat(nearest, 1)
    nearest_values = candidates.topk(min(neighbors, candidates.shape[1]), largest=False).values
    return closest_of_all, nearest_values.cpu().numpy()
