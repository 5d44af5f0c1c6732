"""Average precision of instance segmentation, as COCO defines it.

pycocotools encodes masks and computes their IoU. What it does after that, matching and averaging,
is done here, because it keeps the masks and matches of all images in memory until the end, as
faster-coco-eval does. A score here keeps 24 bytes of each prediction. The figures are those of
pycocotools to the last digit.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from seggen_core.metrics.boundary import boundary_width, mask_boundaries

MAX_DETECTIONS = 100
"""Predictions of a class in an image that count: those with the highest scores."""

THRESHOLDS = np.linspace(0.5, 0.95, 10)
"""IoU from which on a prediction matches."""

_RECALLS = np.linspace(0, 1, 101)
_AREAS = np.array([[0, 1e10], [0, 32**2], [32**2, 96**2], [96**2, 1e10]])
"""Smallest and largest area of instances: all, small, medium and large ones; pixels."""


@dataclass(frozen=True, eq=False)
class Instances:
    """The N instances of one image.

    Attributes:
        masks: bool [N, H, W]; [0, H, W] without an instance.
        class_ids: int [N], 0 to num_classes - 1.
        scores: float [N], confidence of predicted instances; None for true ones.
        crowds: bool [N], which true instances are crowds; None for none.
    """

    masks: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray | None = None
    crowds: np.ndarray | None = None


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's figures in percent; NaN for those without a true instance."""

    ap: float
    """Mean over classes and over the IoU thresholds 0.50, 0.55, ..., 0.95 ("AP")."""
    ap50: float
    """Mean over classes at IoU 0.50."""
    ap75: float
    """Likewise at IoU 0.75."""
    ap_small: float
    """`ap` of instances of at most 32^2 pixels ("APs")."""
    ap_medium: float
    """`ap` of instances of 32^2 to 96^2 pixels ("APm")."""
    ap_large: float
    """`ap` of instances of at least 96^2 pixels ("APl")."""
    per_class: tuple[float, ...]
    """`ap` of each class, by class id."""


def average_precision(
    images: Iterable[tuple[Instances, Instances]], *, num_classes: int, boundary: bool = False
) -> AveragePrecision:
    """Score the (predicted, true) instances of each image; see `PrecisionCounter`."""
    counter = PrecisionCounter(num_classes, boundary=boundary)
    for predicted, true in images:
        counter.add(predicted, true=true)
    return counter.result()


class PrecisionCounter:
    """Average precision of a stream of images.

    As in COCO, the 100 predictions of a class with the highest scores in each image count, and
    precision is interpolated at 101 recalls. A prediction inside a true crowd is ignored, and a
    crowd is never missed. A prediction without a pixel is a wrong one.
    """

    def __init__(self, num_classes: int, *, boundary: bool = False) -> None:
        """Begin with no image.

        Args:
            num_classes: C.
            boundary: a pair's IoU is the smaller one of mask IoU and boundary IoU ("Boundary AP").
        """
        self._boundary = boundary
        self._matches: list[list[_Matches]] = [[] for _ in range(num_classes)]
        self._num_true = np.zeros((num_classes, len(_AREAS)), np.int64)

    def add(self, predicted: Instances, *, true: Instances) -> None:
        """Match the instances of an image.

        Raises:
            ValueError: predictions lack scores, or a class or a mask's size is wrong.
        """
        _check(predicted, true, num_classes=len(self._matches))
        predicted_rows, true_rows = (
            _Rows.of(predicted, self._boundary),
            _Rows.of(true, self._boundary),
        )
        for class_id in np.union1d(predicted.class_ids, true.class_ids).astype(int).tolist():
            detections = predicted_rows.of_class(class_id).best(MAX_DETECTIONS)
            truth = true_rows.of_class(class_id)
            is_other = _outside(truth.areas) | truth.crowds
            self._num_true[class_id] += (~is_other).sum(1)
            if len(detections.areas):
                matches = _match(detections, truth, is_other=is_other, boundary=self._boundary)
                self._matches[class_id].append(matches)

    def result(self) -> AveragePrecision:
        """Return the figures of all images so far."""
        # Axes: range of areas, IoU threshold, recall; -1 is no value.
        precision = np.stack(
            [
                _precision(matches, num_true=num_true)
                for matches, num_true in zip(self._matches, self._num_true, strict=True)
            ],
            -1,
        )
        everything = precision[0]
        at = np.round(THRESHOLDS, 2)
        return AveragePrecision(
            ap=_mean(everything),
            ap50=_mean(everything[at == 0.5]),
            ap75=_mean(everything[at == 0.75]),
            ap_small=_mean(precision[1]),
            ap_medium=_mean(precision[2]),
            ap_large=_mean(precision[3]),
            per_class=tuple(_mean(everything[..., c]) for c in range(precision.shape[-1])),
        )


@dataclass(frozen=True, eq=False)
class _Rows:
    """N instances as run lengths."""

    masks: list[dict[str, Any]]
    """Run lengths of pycocotools."""
    boundaries: list[dict[str, Any]]
    """Run lengths of their boundaries; empty if those aren't compared."""
    class_ids: np.ndarray
    """int64 [N]."""
    areas: np.ndarray
    """int64 [N], pixels."""
    scores: np.ndarray
    """float64 [N]."""
    crowds: np.ndarray
    """bool [N]."""

    @classmethod
    def of(cls, instances: Instances, boundary: bool) -> "_Rows":
        """Encode the instances; true ones without a pixel are left out."""
        num_masks = len(instances.masks)
        areas = instances.masks.sum((1, 2), dtype=np.int64)
        places = np.arange(num_masks) if instances.scores is not None else np.flatnonzero(areas)
        masks = instances.masks[places]
        edges = masks[:0]
        if boundary:
            edges = mask_boundaries(masks, width=boundary_width(masks.shape[1:]))
        scores, crowds = instances.scores, instances.crowds
        return cls(
            encode_masks(masks),
            encode_masks(edges),
            np.asarray(instances.class_ids)[places],
            areas[places],
            np.zeros(len(places)) if scores is None else np.asarray(scores, np.float64)[places],
            np.zeros(len(places), bool) if crowds is None else np.asarray(crowds, bool)[places],
        )

    def of_class(self, class_id: int) -> "_Rows":
        return self._at(np.flatnonzero(self.class_ids == class_id))

    def best(self, count: int) -> "_Rows":
        """Return the rows by descending score, `count` at most; equal ones stay in their order."""
        return self._at(np.argsort(-self.scores, kind="stable")[:count])

    def _at(self, places: np.ndarray) -> "_Rows":
        return _Rows(
            [self.masks[place] for place in places],
            [self.boundaries[place] for place in places] if self.boundaries else [],
            self.class_ids[places],
            self.areas[places],
            self.scores[places],
            self.crowds[places],
        )


@dataclass(frozen=True, eq=False)
class _Matches:
    """What becomes of the D predictions of a class in an image, by descending score.

    Bit ``area * 10 + threshold`` of a mask says whether it is so in that range of areas, at that
    IoU.
    """

    scores: np.ndarray
    """float64 [D]."""
    matched: np.ndarray
    """uint64 [D], bit masks."""
    ignored: np.ndarray
    """uint64 [D], bit masks."""


def encode_masks(masks: np.ndarray) -> list[dict[str, Any]]:
    """Return masks, bool [N, H, W], as pycocotools' run lengths, whose counts are bytes."""
    from pycocotools import mask as coco_mask

    if not len(masks):
        return []
    return coco_mask.encode(np.asfortranarray(masks.transpose(1, 2, 0), np.uint8))


def _match(detections: _Rows, truth: _Rows, *, is_other: np.ndarray, boundary: bool) -> _Matches:
    """Match predictions, the best first, to the true instance with the highest IoU that is left.

    Args:
        detections: D predictions by descending score.
        truth: G true instances.
        is_other: bool [A, G], which true ones are crowds or of another area: a prediction takes one
            of them only where no other fits, and is ignored then.
        boundary: of `PrecisionCounter`.
    """
    shape = len(_AREAS), len(THRESHOLDS)
    iou = _iou(detections, truth, boundary=boundary)
    bits = np.uint64(1) << np.arange(shape[0] * shape[1], dtype=np.uint64).reshape(shape)
    matched, ignored = np.zeros((2, len(detections.areas)), np.uint64)
    outside = _outside(detections.areas)
    left = np.ones((*shape, len(truth.areas)), bool)
    enough = np.minimum(THRESHOLDS, 1 - 1e-10)
    rows, columns = np.indices(shape)
    is_other = is_other[:, None]
    for place in range(len(detections.areas)):
        taken, free = np.zeros(shape, bool), np.repeat(outside[:, place, None], shape[1], 1)
        reachable = np.flatnonzero(iou[place] >= enough[0])
        if len(reachable):
            values = iou[place, reachable]
            fits = left[..., reachable] & (values >= enough[:, None])
            wished = fits & ~is_other[..., reachable]
            fits = np.where(wished.any(-1, keepdims=True), wished, fits)
            # Of equal ones the last, as in pycocotools.
            order = np.where(fits, values, -1.0)[..., ::-1].argmax(-1)
            best = reachable[len(reachable) - 1 - order]
            taken = fits.any(-1)
            free = np.where(taken, is_other[rows, 0, best], free)
            used = taken & ~truth.crowds[best]
            left[rows[used], columns[used], best[used]] = False
        matched[place], ignored[place] = bits[taken].sum(), bits[free].sum()
    return _Matches(detections.scores, matched, ignored)


def _iou(detections: _Rows, truth: _Rows, *, boundary: bool) -> np.ndarray:
    """Return the IoU of each pair, float64 [D, G]; with a crowd, the share that lies in it."""
    from pycocotools import mask as coco_mask

    if not len(truth.areas):
        return np.zeros((len(detections.areas), 0))
    crowds = truth.crowds.astype(np.uint8).tolist()
    iou = np.asarray(coco_mask.iou(detections.masks, truth.masks, crowds))
    if not boundary:
        return iou
    of_boundaries = np.asarray(coco_mask.iou(detections.boundaries, truth.boundaries, crowds))
    return np.where(truth.crowds, iou, np.minimum(iou, of_boundaries))


def _precision(matches: list[_Matches], *, num_true: np.ndarray) -> np.ndarray:
    """Return the precision of a class: float64 [A, T, recalls], -1 without a true instance."""
    precision = np.full((len(_AREAS), len(THRESHOLDS), len(_RECALLS)), -1.0)
    scores = np.concatenate([m.scores for m in matches] or [np.zeros(0)])
    order = np.argsort(-scores, kind="stable")
    matched, ignored = (
        np.concatenate([getattr(m, name) for m in matches] or [np.zeros(0, np.uint64)])[order]
        for name in ("matched", "ignored")
    )
    for place in np.ndindex(precision.shape[:2]):
        num_instances = num_true[place[0]]
        if not num_instances:
            continue
        bit = np.uint64(place[0] * len(THRESHOLDS) + place[1])
        counts = (ignored >> bit & np.uint64(1)) == 0
        right = (matched >> bit & np.uint64(1)) == 1
        hits = np.cumsum(right & counts).astype(float)
        mistakes = np.cumsum(~right & counts).astype(float)
        # Precision at a recall is the highest one from there on.
        exact = hits / (mistakes + hits + np.spacing(1))
        envelope = np.append(np.maximum.accumulate(exact[::-1])[::-1], 0.0)
        precision[place] = envelope[np.searchsorted(hits / num_instances, _RECALLS, side="left")]
    return precision


def _outside(areas: np.ndarray) -> np.ndarray:
    """Return which areas are outside of each range: bool [A, N]."""
    return (areas < _AREAS[:, :1]) | (areas > _AREAS[:, 1:])


def _check(predicted: Instances, true: Instances, *, num_classes: int) -> None:
    if predicted.scores is None:
        raise ValueError("predicted instances have no scores")
    sizes = predicted.masks.shape[1:], true.masks.shape[1:]
    if sizes[0] != sizes[1]:
        raise ValueError(f"predicted masks are {sizes[0]}, true ones {sizes[1]}; expected one size")
    for name, instances in (("predicted", predicted), ("true", true)):
        foreign = sorted({int(c) for c in instances.class_ids} - set(range(num_classes)))
        if foreign:
            raise ValueError(f"{name} classes are {foreign}; expected 0 to {num_classes - 1}")


def _mean(precision: np.ndarray) -> float:
    """Return the mean, in percent, of the precisions that have a value."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else float("nan")
