"""Panoptic quality (Kirillov et al., "Panoptic Segmentation", CVPR 2019), as in panopticapi.

A predicted and a true segment of one class match if their IoU exceeds 0.5; a segment has at most
one match. Ignored true pixels are not part of the union. An unmatched predicted segment is no false
positive if more than half of it lies on ignored pixels and crowds of its class. A crowd is never
missed. Boundary PQ (Cheng et al., CVPR 2021) takes the smaller one of mask and boundary IoU.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.metrics.boundary import boundary_width
from seggen_core.metrics.overlaps import PICTURE, Memory, Overlaps, Picture, find_overlaps
from seggen_core.taxonomy import IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class PanopticCounts:
    """Counts that panoptic quality is computed from; the counts of several images are added."""

    iou: np.ndarray
    """float64 [C], sum of the IoUs of matched segments."""
    true_positives: np.ndarray
    """int64 [C], predicted segments that match a true one."""
    false_positives: np.ndarray
    """int64 [C], predicted segments that match none."""
    false_negatives: np.ndarray
    """int64 [C], true segments that no prediction matches."""

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


BATCH_PIXELS = 1 << 19
"""Pictures are counted together, up to so many pixels: numpy's calls cost more than they do their
work on a picture of 64 x 64.
"""


class PanopticCounter:
    """Counts the segments of many images.

    Memory doesn't grow with their number.
    """

    def __init__(self, num_classes: int, *, boundaries: bool = False) -> None:
        """Begin with no image.

        Args:
            num_classes: C.
            boundaries: count for boundary PQ, with the width that `boundary_width` gives.
        """
        self._num_classes, self._boundaries = num_classes, boundaries
        self._waiting: list[Picture] = []
        self._num_pixels = 0
        self._memory = Memory()
        self._total = _no_counts(num_classes)

    def add(
        self,
        prediction: PanopticMap,
        *,
        truth: PanopticMap,
        crowds: Collection[tuple[int, int]] = (),
    ) -> None:
        """Take in an image; see `count_panoptic`."""
        shape = truth.segmentation_map.shape
        width = boundary_width(shape) if self._boundaries else None
        self._waiting.append(Picture.of(prediction, truth=truth, crowds=crowds, boundary=width))
        self._num_pixels += truth.segmentation_map.size
        if self._num_pixels >= BATCH_PIXELS:
            self._count()

    def counts(self) -> PanopticCounts:
        """Return the counts of all images."""
        self._count()
        return self._total

    def _count(self) -> None:
        if self._waiting:
            self._total = _total(self._waiting, onto=self._total, memory=self._memory)
        self._waiting, self._num_pixels = [], 0


def _total(pictures: Sequence[Picture], *, onto: PanopticCounts, memory: Memory) -> PanopticCounts:
    """Return counts with those of pictures added to them."""
    counts = _count_pictures(pictures, num_classes=len(onto.iou), memory=memory)
    # Picture by picture: the same sum to the last digit, whatever is counted together.
    iou = onto.iou.copy()
    for row in counts.iou:
        iou += row
    numbers = (counts.true_positives, counts.false_positives, counts.false_negatives)
    before = (onto.true_positives, onto.false_positives, onto.false_negatives)
    return PanopticCounts(
        iou, *(old + new.sum(0) for old, new in zip(before, numbers, strict=True))
    )


def _no_counts(num_classes: int) -> PanopticCounts:
    return PanopticCounts(
        np.zeros(num_classes), *(np.zeros(num_classes, np.int64) for _ in range(3))
    )


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
    picture = Picture.of(prediction, truth=truth, crowds=crowds, boundary=boundary)
    return _total([picture], onto=_no_counts(num_classes), memory=Memory())


def _count_pictures(
    pictures: Sequence[Picture], *, num_classes: int, memory: Memory
) -> PanopticCounts:
    """Match the segments of pictures: counts of [pictures, C].

    All of the pictures compare boundaries, or none does.
    """
    pairs = find_overlaps(pictures, memory)
    true, predicted = _Segments.of(pairs.true_ids, pairs), _Segments.of(pairs.predicted_ids, pairs)
    for name, segments in (("prediction", predicted), ("truth", true)):
        foreign = (segments.classes >= num_classes) & (segments.classes != IGNORE_INDEX)
        if foreign.any():
            raise ValueError(
                f"the {name} holds ids {sorted(set(segments.classes[foreign].tolist()))}; "
                f"expected 0 to {num_classes - 1} or {IGNORE_INDEX}"
            )

    # 1. Matches: pairs of one class, neither void nor a crowd, with more than half of their union.
    crowds = [k * PICTURE + crowd for k, p in enumerate(pictures) for crowd in p.crowds]
    is_crowd = true.among(crowds)
    pair_classes = true.classes[true.of_pair]
    one_class = pair_classes == predicted.classes[predicted.of_pair]
    is_void = pair_classes == IGNORE_INDEX
    in_crowd = is_crowd[true.of_pair]
    in_void = predicted.sum(pairs.areas * is_void)
    union = true.areas[true.of_pair] + (predicted.areas - in_void)[predicted.of_pair] - pairs.areas
    candidates = one_class & ~is_void & ~in_crowd
    iou = np.divide(pairs.areas, union, out=np.zeros(len(union)), where=candidates)
    if pictures[0].edges:
        iou = np.minimum(iou, _boundary_iou(pairs, true, predicted, where=candidates))
    matched = iou > 0.5

    # 2. Unmatched segments. A prediction is excused if more than half of it is in void and crowds.
    excused = in_void + predicted.sum(pairs.areas * (one_class & in_crowd))
    missed = (true.classes != IGNORE_INDEX) & ~is_crowd & ~true.any(matched)
    excess = (predicted.classes != IGNORE_INDEX) & ~predicted.any(matched)
    excess &= excused / predicted.areas <= 0.5

    # 3. Sums for each picture and class.
    shape = len(pictures), num_classes
    places = (true.pictures * num_classes + true.classes)[true.of_pair][matched]
    iou_sums = np.bincount(places, iou[matched], shape[0] * shape[1]).reshape(shape)
    counts = [places]
    for segments, flags in ((predicted, excess), (true, missed)):
        counts.append((segments.pictures * num_classes + segments.classes)[flags])
    numbers = [np.bincount(c, minlength=shape[0] * shape[1]).reshape(shape) for c in counts]
    return PanopticCounts(iou_sums, *numbers)


@dataclass(frozen=True, eq=False)
class _Segments:
    """The S true or predicted segments of an image."""

    ids: np.ndarray
    """int64 [S], as in `Overlaps`."""
    pictures: np.ndarray
    """int64 [S], `Overlaps`' number of the picture."""
    classes: np.ndarray
    """int64 [S]."""
    areas: np.ndarray
    """int64 [S], pixels."""
    of_pair: np.ndarray
    """int64 [P], the segment that each pair of `Overlaps` belongs to."""

    @classmethod
    def of(cls, pair_ids: np.ndarray, pairs: Overlaps) -> "_Segments":
        ids, of_pair = np.unique(pair_ids, return_inverse=True)
        areas = np.bincount(of_pair, pairs.areas).astype(np.int64)
        return cls(ids, ids >> 24, ids >> 16 & 0xFF, areas, of_pair)

    def among(self, ids: Sequence[int]) -> np.ndarray:
        """Return which segments have one of these ids, bool [S]; ids may be of none."""
        flags = np.zeros(len(self.ids) + 1, bool)
        places = np.searchsorted(self.ids, ids)
        flags[places] = np.append(self.ids, -1)[places] == ids
        return flags[:-1]

    def sum(self, values: np.ndarray) -> np.ndarray:
        """Return the sum over each segment's pairs, int64 [S]."""
        return np.bincount(self.of_pair, values, len(self.ids)).astype(np.int64)

    def any(self, flags: np.ndarray) -> np.ndarray:
        """Return whether one of each segment's pairs is flagged, bool [S]."""
        return self.sum(flags) > 0


def _boundary_iou(
    pairs: Overlaps, true: _Segments, predicted: _Segments, *, where: np.ndarray
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
