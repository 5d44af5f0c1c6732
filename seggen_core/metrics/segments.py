"""The scores of panoptic and of instance segmentation, summed up image by image."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.errors import ConfigError
from seggen_core.metrics.instance import AveragePrecision, Instances, PrecisionCounter
from seggen_core.metrics.panoptic import (
    PanopticCounter,
    PanopticCounts,
    PanopticQuality,
    panoptic_quality,
)
from seggen_core.metrics.semantic import confusion_matrix, mean_iou, rounded
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy


@dataclass(frozen=True, eq=False)
class SegmentPrediction:
    """One sample as its store holds it, and the segments that are predicted in it.

    Attributes:
        key: in its store.
        image: uint8 [H, W, 3].
        truth: the store's masks.
        instances: predicted things, with scores; they may overlap.
        panoptic: predicted segments; None for the task "instance".
        semantic: uint8 [H, W], predicted train ids; None for the task "instance".
    """

    key: str
    image: np.ndarray
    truth: PanopticMap
    instances: Instances
    panoptic: PanopticMap | None = None
    semantic: np.ndarray | None = None


def true_instances(truth: PanopticMap, *, things: np.ndarray) -> Instances:
    """Return the things of an image; things without an instance id are one crowd of their class.

    Args:
        truth: masks of an image.
        things: bool [C].
    """
    ids = truth.segment_ids()
    listed = np.unique(ids)
    classes = listed >> 16
    listed = listed[(classes != IGNORE_INDEX) & np.append(things, np.zeros(256, bool))[classes]]
    masks = ids == listed[:, None, None]
    return Instances(masks, listed >> 16, crowds=(listed & 0xFFFF) == 0)


def crowds_of(truth: PanopticMap, *, things: np.ndarray) -> set[tuple[int, int]]:
    """Return the crowds of an image, as `count_panoptic` takes them: things without an id."""
    classes = np.unique(truth.segmentation_map[truth.instance_map == 0])
    return {(int(c), 0) for c in classes if c != IGNORE_INDEX and things[c]}


class InstanceScores:
    """Average precision of things, by masks and by boundaries."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        """Begin with no image."""
        self._taxonomy = taxonomy
        self._things = np.array([c.is_thing for c in taxonomy])
        self._counters = [PrecisionCounter(len(taxonomy), boundary=flag) for flag in (False, True)]

    def add(self, prediction: SegmentPrediction) -> None:
        """Score an image."""
        true = true_instances(prediction.truth, things=self._things)
        for counter in self._counters:
            counter.add(prediction.instances, true=true)

    def result(self) -> AveragePrecision:
        """Return the figures by masks."""
        return self._counters[0].result()

    def summary(self) -> dict[str, Any]:
        """Return JSON-ready figures in percent, None for those without a value.

        ap, ap50, ap75, ap_small, ap_medium, ap_large; boundary_ap, boundary_ap50, boundary_ap75;
        per_class_ap by slug.
        """
        masks, rims = (counter.result() for counter in self._counters)
        names = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
        figures: dict[str, Any] = {name: rounded(getattr(masks, name)) for name in names}
        figures |= {f"boundary_{name}": rounded(getattr(rims, name)) for name in names[:3]}
        per_class = zip(self._taxonomy.slugs, masks.per_class, strict=True)
        return figures | {"per_class_ap": {slug: rounded(value) for slug, value in per_class}}


class PanopticScores:
    """Panoptic quality, and what a panoptic segmenter gives as instances and as classes."""

    def __init__(self, taxonomy: Taxonomy) -> None:
        """Begin with no image."""
        num_classes = len(taxonomy)
        self._taxonomy = taxonomy
        self._things = np.array([c.is_thing for c in taxonomy])
        self._counters = [PanopticCounter(num_classes, boundaries=flag) for flag in (False, True)]
        self._precision = PrecisionCounter(num_classes)
        self._confusion = np.zeros((num_classes, num_classes), np.int64)

    def add(self, prediction: SegmentPrediction) -> None:
        """Score an image.

        Raises:
            ConfigError: the prediction is one of the task "instance".
        """
        if prediction.panoptic is None or prediction.semantic is None:
            raise ConfigError(
                f"the prediction of {prediction.key} has instances alone, and panoptic quality "
                "needs a class for every pixel: score an arm with task: panoptic"
            )
        truth, num_classes = prediction.truth, len(self._taxonomy)
        crowds = crowds_of(truth, things=self._things)
        for counter in self._counters:
            counter.add(prediction.panoptic, truth=truth, crowds=crowds)
        self._precision.add(prediction.instances, true=true_instances(truth, things=self._things))
        self._confusion += confusion_matrix(
            prediction.semantic, truth=truth.segmentation_map, num_classes=num_classes
        )

    def summary(self) -> dict[str, Any]:
        """Return JSON-ready figures in percent, None for those without a value.

        pq, sq and rq; the same of things and of stuff (pq_things, ...); boundary_pq,
        boundary_pq_things and boundary_pq_stuff; ap_pan and ap50_pan, of the things that the
        segmenter gives as instances; miou_pan, of its classes; per_class_pq by slug.
        """
        figures: dict[str, Any] = {}
        counts = [counter.counts() for counter in self._counters]
        groups = {"": None, "_things": self._things, "_stuff": ~self._things}
        for ending, classes in groups.items():
            quality, rims = (panoptic_quality(c, classes=classes) for c in counts)
            figures |= {f"{n}{ending}": rounded(getattr(quality, n)) for n in ("pq", "sq", "rq")}
            figures[f"boundary_pq{ending}"] = rounded(rims.pq)
        precision = self._precision.result()
        figures |= {"ap_pan": rounded(precision.ap), "ap50_pan": rounded(precision.ap50)}
        figures["miou_pan"] = rounded(mean_iou(self._confusion))
        return figures | {"per_class_pq": _per_class(counts[0], self._taxonomy.slugs)}


def _per_class(counts: PanopticCounts, slugs: Sequence[str]) -> dict[str, float | None]:
    flags = np.eye(len(slugs), dtype=bool)
    qualities: list[PanopticQuality] = [panoptic_quality(counts, classes=row) for row in flags]
    return {slug: rounded(q.pq) for slug, q in zip(slugs, qualities, strict=True)}
