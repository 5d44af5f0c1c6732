"""Boundary IoU (Cheng et al., "Boundary IoU", CVPR 2021), as in boundary-iou-api.

The boundary of a mask are its pixels that are at most `width` pixels away from its contour, by the
distance of a chessboard; the edge of the image is a contour, too. Boundary IoU compares boundaries,
so it sees what the insides of large masks hide.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seggen_core.metrics.semantic import rounded
from seggen_core.taxonomy import IGNORE_INDEX

DILATION = 0.02
"""Width of boundaries, as a share of the image's diagonal; the paper's value."""


def boundary_width(size: tuple[int, ...]) -> int:
    """Return the width of boundaries in an image of `size`, (height, width): at least 1 pixel."""
    return max(1, round(DILATION * (size[0] ** 2 + size[1] ** 2) ** 0.5))


def mask_boundaries(masks: np.ndarray, *, width: int) -> np.ndarray:
    """Return which pixels of masks, bool [..., H, W], are in their boundaries: the same shape."""
    window = 2 * width + 1
    inside = _all_in_window(_all_in_window(masks, window, axis=-1), window, axis=-2)
    boundaries = masks.copy()
    if inside.size:
        centre = slice(width, -width)
        boundaries[..., centre, centre] &= ~inside
    return boundaries


def label_boundaries(ids: np.ndarray, *, width: int) -> np.ndarray:
    """Return which pixels are in the boundary of the segment that they belong to: bool [H, W].

    It is `mask_boundaries` of all segments at once.

    Args:
        ids: integers [H, W]; equal ids are one segment.
        width: of the boundaries, in pixels.
    """
    window = 2 * width + 1
    # A window is of one id where all neighbours in it are equal, across and down.
    across, down = ids[:, 1:] == ids[:, :-1], ids[1:] == ids[:-1]
    across = _all_in_window(_all_in_window(across, window - 1, axis=1), window, axis=0)
    down = _all_in_window(_all_in_window(down, window, axis=1), window - 1, axis=0)
    boundaries = np.ones(ids.shape, bool)
    if across.size:
        boundaries[width:-width, width:-width] = ~(across & down)
    return boundaries


def count_boundaries(
    prediction: np.ndarray, *, truth: np.ndarray, num_classes: int, width: int
) -> np.ndarray:
    """Count the boundary pixels of each class; the counts of several images are added.

    Args:
        prediction, truth: uint8 [H, W], train ids; the truth may hold IGNORE_INDEX: what is
            predicted there isn't counted.
        num_classes: C.
        width: of the boundaries.

    Returns:
        int64 [2, C]: pixels in both boundaries of a class, and in either.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"the prediction is {prediction.shape}, the truth {truth.shape}; expected one shape"
        )
    true = label_boundaries(truth, width=width) & (truth != IGNORE_INDEX)
    predicted = label_boundaries(prediction, width=width) & (truth != IGNORE_INDEX)
    predicted &= prediction != IGNORE_INDEX
    both = true & predicted & (truth == prediction)
    shared, of_truth, of_prediction = (
        np.bincount(ids[flags], minlength=num_classes).astype(np.int64)
        for ids, flags in ((truth, both), (truth, true), (prediction, predicted))
    )
    return np.stack([shared, of_truth + of_prediction - shared])


def boundary_iou(counts: np.ndarray) -> np.ndarray:
    """Return the boundary IoU of every class in percent, float64 [C].

    A class whose boundary is in neither truth nor prediction has none: NaN.

    Args:
        counts: int64 [2, C], sums of `count_boundaries`.
    """
    shared, either = counts.astype(np.float64)
    return np.divide(100.0 * shared, either, out=np.full(len(shared), np.nan), where=either > 0)


def boundary_scores(counts: np.ndarray, *, slugs: Sequence[str]) -> dict[str, Any]:
    """Return the figures of a semantic segmenter in percent, JSON-ready; None without a value.

    Args:
        counts: int64 [2, C], sums of `count_boundaries`.
        slugs: of the classes, in train-id order.

    Returns:
        boundary_miou, the mean over the classes that have a boundary; per_class_boundary_iou.
    """
    iou = boundary_iou(counts)
    known = iou[~np.isnan(iou)]
    return {
        "boundary_miou": rounded(float(known.mean())) if known.size else None,
        "per_class_boundary_iou": {s: rounded(v) for s, v in zip(slugs, iou, strict=True)},
    }


def _all_in_window(flags: np.ndarray, length: int, *, axis: int) -> np.ndarray:
    """Return whether all of each `length` flags in a row hold; the axis gets shorter by length - 1.

    The length doubles, so that few passes are needed.
    """
    flags = np.moveaxis(flags, axis, 0)
    done = 1
    while done < length and len(flags):
        step = min(done, length - done)
        flags = flags[:-step] & flags[step:] if len(flags) > step else flags[:0]
        done += step
    return np.moveaxis(flags, 0, axis)
