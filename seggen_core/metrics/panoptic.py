"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019), as in panopticapi.

A predicted and a true segment of one class match if their IoU exceeds 0.5; a segment has at most
one match. Ignored true pixels are not part of the union. An unmatched predicted segment is no false
positive if more than half of it lies on ignored pixels and crowds of its class. A crowd is never
missed. Boundary PQ (Cheng et al., CVPR 2021) takes the smaller one of mask and boundary IoU.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.metrics.boundary import label_boundaries
from seggen_core.taxonomy import IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class PanopticCounts:
    """Counts that panoptic quality is computed from; the counts of several images are added.

    Attributes:
        iou: float64 [C], sum of the IoUs of matched segments.
        true_positives, false_positives, false_negatives: int64 [C], segments.
    """

    iou: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray
    false_negatives: np.ndarray

    def __add__(self, other: "PanopticCounts") -> "PanopticCounts":
        return PanopticCounts(
            self.iou + other.iou,
            self.true_positives + other.true_positives,
            self.false_positives + other.false_positives,
            self.false_negatives + other.false_negatives,
        )


@dataclass(frozen=True)
class PanopticQuality:
    """Means over the classes that have a true or a predicted segment, in percent; NaN without any.

    Attributes:
        pq: sum of IoUs / (TP + FP/2 + FN/2), which is SQ times RQ for one class.
        sq: mean IoU of matched segments; 0 for a class without any, as in panopticapi.
        rq: TP / (TP + FP/2 + FN/2).
        num_classes: how many classes entered the means.
    """

    pq: float
    sq: float
    rq: float
    num_classes: int


def count_panoptic(
    prediction: PanopticMap,
    *,
    truth: PanopticMap,
    num_classes: int,
    crowds: Collection[tuple[int, int]] = (),
    boundary: int | None = None,
) -> PanopticCounts:
    """Match the segments of one image.

    Args:
        prediction: IGNORE_INDEX is allowed and belongs to no segment.
        truth: IGNORE_INDEX is void.
        num_classes: C.
        crowds: (class, instance id) of the true segments that are crowds. COCO has at most one
            crowd of a class in an image. If there are several, all of them count here (in
            panopticapi: the last one in its file).
        boundary: width of boundaries in pixels, for boundary PQ (`metrics.boundary`); None compares
            whole segments.

    Raises:
        ValueError: sizes differ, or a class is out of range.
    """
    shapes = prediction.segmentation_map.shape, truth.segmentation_map.shape
    if shapes[0] != shapes[1]:
        raise ValueError(f"the prediction is {shapes[0]}, the truth {shapes[1]}; expected one size")
    pairs = _overlaps(truth, prediction, boundary=boundary)
    true, predicted = _Segments.of(pairs.true_ids, pairs), _Segments.of(pairs.predicted_ids, pairs)
    for name, segments in (("prediction", predicted), ("truth", true)):
        foreign = (segments.classes >= num_classes) & (segments.classes != IGNORE_INDEX)
        if foreign.any():
            raise ValueError(
                f"the {name} holds ids {sorted(set(segments.classes[foreign].tolist()))}; "
                f"expected 0 to {num_classes - 1} or {IGNORE_INDEX}"
            )

    # 1. Matches: pairs of one class, neither void nor a crowd, with more than half of their union.
    is_crowd = np.isin(true.ids, [class_id << 16 | instance for class_id, instance in crowds])
    pair_classes = true.classes[true.of_pair]
    one_class = pair_classes == predicted.classes[predicted.of_pair]
    is_void = pair_classes == IGNORE_INDEX
    in_void = predicted.sum(pairs.areas * is_void)
    union = true.areas[true.of_pair] + (predicted.areas - in_void)[predicted.of_pair] - pairs.areas
    candidates = one_class & ~is_void & ~is_crowd[true.of_pair]
    iou = np.divide(pairs.areas, union, out=np.zeros(len(union)), where=candidates)
    if boundary is not None:
        iou = np.minimum(iou, _boundary_iou(pairs, true, predicted, where=candidates))
    matched = iou > 0.5

    # 2. Unmatched segments. A prediction is excused if more than half of it is in void and crowds.
    excused = in_void + predicted.sum(pairs.areas * (one_class & is_crowd[true.of_pair]))
    missed = (true.classes != IGNORE_INDEX) & ~is_crowd & ~true.any(matched)
    excess = (predicted.classes != IGNORE_INDEX) & ~predicted.any(matched)
    excess &= excused / predicted.areas <= 0.5
    counts = [
        np.bincount(classes, minlength=num_classes)
        for classes in (pair_classes[matched], predicted.classes[excess], true.classes[missed])
    ]
    return PanopticCounts(np.bincount(pair_classes[matched], iou[matched], num_classes), *counts)


@dataclass(frozen=True, eq=False)
class _Overlaps:
    """The pairs of a true and a predicted segment that share pixels: int64 [P] each.

    Attributes:
        true_ids, predicted_ids: class * 65536 + instance; one id for all ignored pixels.
        areas: pixels that they share.
        true_boundary, predicted_boundary, both_boundaries: those of them in the boundary of the
            true segment, of the predicted one, and of both; 0 if boundaries aren't compared.
    """

    true_ids: np.ndarray
    predicted_ids: np.ndarray
    areas: np.ndarray
    true_boundary: np.ndarray
    predicted_boundary: np.ndarray
    both_boundaries: np.ndarray


def _overlaps(truth: PanopticMap, prediction: PanopticMap, *, boundary: int | None) -> _Overlaps:
    """Count the pixels of every pair of segments.

    It reads the first pixel of each run of equal pixels and weights it by the run's length, because
    pictures have far fewer runs than pixels.
    """
    planes = [
        plane.ravel()
        for panoptic in (truth, prediction)
        for plane in (panoptic.segmentation_map, panoptic.instance_map)
    ]
    edges = np.zeros((2, 0), bool)
    if boundary is not None:
        edges = np.stack(
            [label_boundaries(m.segment_ids(), width=boundary).ravel() for m in (truth, prediction)]
        )
    starts_run = np.ones(len(planes[0]), bool)
    np.not_equal(planes[0][1:], planes[0][:-1], out=starts_run[1:])
    for plane in (*planes[1:], *(edges if boundary is not None else ())):
        starts_run[1:] |= plane[1:] != plane[:-1]
    starts = np.flatnonzero(starts_run)
    lengths = np.diff(starts, append=len(starts_run))
    runs = np.zeros(len(starts), np.int64)
    for plane in planes:
        runs = runs << 16 | plane[starts]
    # A hash table: three times as fast as the sort of np.unique.
    pair_of_run, pairs = pd.factorize(runs)

    def pixels(flags: np.ndarray) -> np.ndarray:
        return np.bincount(pair_of_run, lengths * flags, len(pairs)).astype(np.int64)

    none = np.zeros(len(pairs), np.int64)
    flagged = [none] * 3
    if boundary is not None:
        true, predicted = edges[:, starts]
        flagged = [pixels(true), pixels(predicted), pixels(true & predicted)]
    areas = np.bincount(pair_of_run, lengths).astype(np.int64)
    ids = _segment_ids(pairs >> 32), _segment_ids(pairs & 0xFFFFFFFF)
    return _Overlaps(*ids, areas, *flagged)


def _segment_ids(ids: np.ndarray) -> np.ndarray:
    """Return ids, class * 65536 + instance, with one id for all ignored pixels."""
    void = IGNORE_INDEX << 16
    return np.where(ids >> 16 == IGNORE_INDEX, void, ids)


@dataclass(frozen=True, eq=False)
class _Segments:
    """The S true or predicted segments of an image.

    Attributes:
        ids, classes, areas: int64 [S].
        of_pair: int64 [P], the segment that each pair of `_Overlaps` belongs to.
    """

    ids: np.ndarray
    classes: np.ndarray
    areas: np.ndarray
    of_pair: np.ndarray

    @classmethod
    def of(cls, pair_ids: np.ndarray, pairs: _Overlaps) -> "_Segments":
        ids, of_pair = np.unique(pair_ids, return_inverse=True)
        return cls(ids, ids >> 16, np.bincount(of_pair, pairs.areas).astype(np.int64), of_pair)

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over each segment's pairs, int64 [S]."""
        return np.bincount(self.of_pair, values, len(self.ids)).astype(np.int64)

    def any(self, flags: np.ndarray) -> np.ndarray:
        """Return whether one of each segment's pairs is flagged, bool [S]."""
        return self.sum(flags) > 0


def _boundary_iou(
    pairs: _Overlaps, true: _Segments, predicted: _Segments, *, where: np.ndarray
) -> np.ndarray:
    """Return the boundary IoU of each pair, float64 [P]; 0 where `where` doesn't hold."""
    is_void = true.classes[true.of_pair] == IGNORE_INDEX
    of_true = true.sum(pairs.true_boundary)[true.of_pair]
    of_predicted = predicted.sum(pairs.predicted_boundary * ~is_void)[predicted.of_pair]
    union = of_true + of_predicted - pairs.both_boundaries
    none = np.zeros(len(union))
    return np.divide(pairs.both_boundaries, union, out=none, where=where & (union > 0))


def panoptic_quality(
    counts: PanopticCounts, *, classes: Sequence[bool] | np.ndarray | None = None
) -> PanopticQuality:
    """Return PQ, SQ and RQ.

    Args:
        counts: of all images.
        classes: bool [C], the classes to average over (things, stuff); None is all.
    """
    segments = counts.true_positives + 0.5 * counts.false_positives + 0.5 * counts.false_negatives
    present = (segments > 0) if classes is None else (segments > 0) & np.asarray(classes, bool)
    if not present.any():
        return PanopticQuality(float("nan"), float("nan"), float("nan"), 0)
    iou, positives, segments = (
        counts.iou[present],
        counts.true_positives[present],
        segments[present],
    )
    pq, sq, rq = (
        float(100 * values.mean())
        for values in (iou / segments, iou / np.maximum(positives, 1), positives / segments)
    )
    return PanopticQuality(pq, sq, rq, int(present.sum()))
