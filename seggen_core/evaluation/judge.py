"""How well a method's masks fit its images, by a segmenter trained on all real samples."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from seggen_core.config import JudgeConfig
from seggen_core.evaluation.methods import MethodSamples
from seggen_core.metrics.semantic import (
    confusion_matrix,
    mean_iou,
    pixel_accuracy,
    rounded,
    summarize,
)
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import write_json
from seggen_core.reports.grids import image_grid, picture_scale
from seggen_core.segmentation.arms import TrainedArm
from seggen_core.segmentation.predict import (
    AS_STORED,
    Prediction,
    TestProtocol,
    predict_store,
    prediction_rows,
)
from seggen_core.segmentation.segment_labels import require_classes
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.taxonomy import Taxonomy

_PICTURE_SIDE = 96
_NUM_PICTURES = 6
_LABELS = [f"{end} {kind}" for end in ("best", "worst") for kind in ("image", "mask", "judge")]


@dataclass(frozen=True)
class MaskOverlap:
    """Pixels of one class over full images.

    Ignored pixels lie outside of the mask like any other: attention methods label one class, and
    the rest of the image has to be free of it.
    """

    intersection: int = 0
    """Pixels in mask and prediction."""
    union: int = 0
    """Pixels in mask or prediction."""

    @classmethod
    def of(cls, prediction: Prediction, *, train_id: int) -> "MaskOverlap":
        """Count one sample."""
        mask, predicted = prediction.truth == train_id, prediction.predicted == train_id
        return cls(int((mask & predicted).sum()), int((mask | predicted).sum()))

    def __add__(self, other: "MaskOverlap") -> "MaskOverlap":
        return MaskOverlap(self.intersection + other.intersection, self.union + other.union)

    @property
    def iou(self) -> float:
        """Intersection over union in percent; 0 where both are empty."""
        return 100 * self.intersection / max(self.union, 1)


@dataclass(frozen=True, eq=False)
class Judgement:
    """What `Judge.score` returns."""

    metrics: dict[str, Any]
    """JSON-ready."""
    ranking: pd.DataFrame
    """class_slug, key and score of each pair, the best first. Scores are mask IoU for methods
    that label one class at a time, else mIoU."""
    best: list[Prediction]
    """Predictions of the first pairs of the ranking."""
    worst: list[Prediction]
    """Predictions of the last pairs of the ranking, from its end."""
    num_classes: int
    """Of the masks."""
    shown = ("pairs.png", "scores.csv")

    def write(self, folder: Path) -> dict[str, float]:
        """Write metrics.json, scores.csv with the ranking, and pairs.png with its ends.

        Returns:
            the single figures in `metrics`.
        """
        write_json(folder / "metrics.json", self.metrics)
        self.ranking.round(4).to_csv(folder / "scores.csv", index=False)
        rows = [
            row
            for predictions in (self.best, self.worst)
            for row in prediction_rows(predictions, num_classes=self.num_classes)
        ]
        scale = picture_scale(rows, side=_PICTURE_SIDE)
        image_grid(rows, scale=scale, labels=_LABELS).save(folder / "pairs.png")
        return {name: value for name, value in self.metrics.items() if isinstance(value, float)}


@dataclass(frozen=True, eq=False)
class Judge:
    """A segmenter that predicts synthetic images and compares the result with their masks.

    Attributes:
        name: where the segmenter comes from, "full_real/seed0".
        segmenter: in evaluation mode.
        taxonomy: the classes.
        batch_size: images predicted at once.
        protocol: at which size they are predicted.
    """

    name: str
    segmenter: Segmenter
    taxonomy: Taxonomy
    batch_size: int
    protocol: TestProtocol = AS_STORED

    @classmethod
    def load(
        cls,
        paths: ProjectPaths,
        *,
        settings: JudgeConfig,
        taxonomy: Taxonomy,
        device: torch.device,
    ) -> "Judge":
        """Load the segmenter of the arm's first subset seed.

        Raises:
            ConfigError: the arm gives no class to every pixel.
            FoundationError: the arm hasn't been trained.
        """
        arm = TrainedArm.read(paths, variant=settings.variant)
        require_classes(arm.task, arm=settings.variant, key="judge.variant")
        segmenter = arm.load(arm.seeds[0], device=device)
        name = f"{settings.variant}/seed{arm.seeds[0]}"
        return cls(name, segmenter, taxonomy, settings.batch_size, arm.protocol)

    def score(self, samples: MethodSamples) -> Judgement:
        """Score every pair of a method.

        Metrics have `semantic.summarize` (percent) over all labelled pixels, and for each class
        partition "samples", "miou" and "pixel_accuracy". For methods that label one class at a
        time, "mask_iou" is the mean over class partitions of the IoU between that class's masks and
        the judge's prediction of it, over full images; "per_class_mask_iou" has its terms.
        """
        one_class, taxonomy = samples.label_one_class, self.taxonomy
        empty = np.zeros((len(taxonomy), len(taxonomy)), np.int64)
        confusions: dict[str, np.ndarray] = {}
        overlaps: dict[str, MaskOverlap] = {}
        scores: list[tuple[str, str, float]] = []
        for slug in samples.partitions:
            confusions[slug], overlaps[slug] = empty.copy(), MaskOverlap()
            train_id = taxonomy.by_slug(slug).train_id
            title = f"judge {samples.method} {slug}"
            for prediction in self._predict(samples, slug, title=title):
                confusion = confusion_matrix(
                    prediction.predicted, truth=prediction.truth, num_classes=len(taxonomy)
                )
                overlap = MaskOverlap.of(prediction, train_id=train_id)
                confusions[slug] += confusion
                overlaps[slug] += overlap
                score = overlap.iou if one_class else mean_iou(confusion)
                scores.append((slug, prediction.key, score))
        things = [c.is_thing for c in taxonomy]
        total = np.sum(list(confusions.values()), axis=0)
        metrics: dict[str, Any] = {"judge": self.name, "samples": len(samples)}
        metrics |= summarize(total, slugs=taxonomy.slugs, things=things)
        if one_class:
            ious = {slug: overlap.iou for slug, overlap in overlaps.items()}
            metrics["mask_iou"] = rounded(float(np.mean(list(ious.values()))))
            metrics["per_class_mask_iou"] = {slug: rounded(iou) for slug, iou in ious.items()}
        metrics["partitions"] = {
            slug: {
                "samples": len(samples.partitions[slug]),
                "miou": rounded(mean_iou(confusion)),
                "pixel_accuracy": rounded(pixel_accuracy(confusion)),
            }
            for slug, confusion in confusions.items()
        }
        ranking = pd.DataFrame(scores, columns=["class_slug", "key", "score"]).sort_values(
            ["score", "key"], ascending=[False, True], kind="stable"
        )
        best = self._predict_pairs(ranking[:_NUM_PICTURES], samples=samples)
        worst = self._predict_pairs(ranking[: -_NUM_PICTURES - 1 : -1], samples=samples)
        return Judgement(metrics, ranking, best, worst, len(taxonomy))

    def _predict_pairs(self, pairs: pd.DataFrame, *, samples: MethodSamples) -> list[Prediction]:
        """Return the predictions of some rows of a ranking."""
        return [
            prediction
            for slug, key in zip(pairs["class_slug"], pairs["key"], strict=True)
            for prediction in self._predict(samples, slug, [key], title="judge: pictures")
        ]

    def _predict(
        self,
        samples: MethodSamples,
        slug: str,
        keys: Iterable[str] | None = None,
        *,
        title: str,
    ) -> Iterator[Prediction]:
        return predict_store(
            self.segmenter,
            store=samples.partitions[slug],
            keys=None if keys is None else list(keys),
            batch_size=self.batch_size,
            description=title,
            protocol=self.protocol,
        )
