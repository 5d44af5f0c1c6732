"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019), counted as panopticapi counts it.

A predicted and a true segment of one class match where their IoU exceeds 0.5; there is at most one
such partner. Ignored true pixels are taken out of the union. A predicted segment without a partner
is no false positive where more than half of it lies on ignored pixels and crowds of its class; a
crowd is never missed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.taxonomy import IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class PanopticCounts:
    """What panoptic quality is computed from; the counts of several images are added.

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
    """Means over the classes that have a true or a predicted segment, in percent; NaN where no class has.

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
) -> PanopticCounts:
    """Match the segments of one image.

    Args:
        prediction: IGNORE_INDEX is allowed and belongs to no segment.
        truth: IGNORE_INDEX is void.
        num_classes: C.
        crowds: (class, instance id) of the true segments that are crowds.

    Raises:
        ValueError: sizes differ, or a class is out of range.
    """
    if prediction.segmentation_map.shape != truth.segmentation_map.shape:
        raise ValueError(
            f"the prediction is {prediction.segmentation_map.shape}, the truth {truth.segmentation_map.shape}; expected one size"
        )
    for name, classes in (
        ("prediction", prediction.segmentation_map),
        ("truth", truth.segmentation_map),
    ):
        foreign = [int(c) for c in np.unique(classes) if num_classes <= c != IGNORE_INDEX]
        if foreign:
            raise ValueError(
                f"the {name} holds ids {foreign}; expected 0 to {num_classes - 1} or {IGNORE_INDEX}"
            )

    # 1. Areas of segments and of their intersections; void is -1.
    void = IGNORE_INDEX << 16
    true_ids, predicted_ids = truth.segment_ids().ravel(), prediction.segment_ids().ravel()
    pairs, overlaps = np.unique(true_ids.astype(np.int64) << 32 | predicted_ids, return_counts=True)
    overlap = {
        (int(p >> 32), int(p & 0xFFFFFFFF)): int(n) for p, n in zip(pairs, overlaps, strict=True)
    }
    true_areas = dict(
        zip(*(a.tolist() for a in np.unique(true_ids, return_counts=True)), strict=True)
    )
    predicted_areas = dict(
        zip(*(a.tolist() for a in np.unique(predicted_ids, return_counts=True)), strict=True)
    )
    crowd_ids = {c << 16 | i for c, i in crowds}

    # 2. Matches.
    iou = np.zeros(num_classes)
    positives, excess, missed = (np.zeros(num_classes, np.int64) for _ in range(3))
    matched: set[tuple[str, int]] = set()
    for (t, p), area in overlap.items():
        if void in (t, p) or t in crowd_ids or t >> 16 != p >> 16:
            continue
        value = area / (true_areas[t] + predicted_areas[p] - area - overlap.get((void, p), 0))
        if value > 0.5:
            positives[t >> 16] += 1
            iou[t >> 16] += value
            matched |= {("true", t), ("predicted", p)}

    # 3. What has no partner.
    for t in true_areas:
        if t != void and t not in crowd_ids and ("true", t) not in matched:
            missed[t >> 16] += 1
    for p, area in predicted_areas.items():
        if p != void and ("predicted", p) not in matched:
            excused = overlap.get((void, p), 0) + sum(
                overlap.get((c, p), 0) for c in crowd_ids if c >> 16 == p >> 16
            )
            excess[p >> 16] += excused / area <= 0.5
    return PanopticCounts(iou, positives, excess, missed)


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
