"""The scores of an ablation arm's segmenters on the held-out test split."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from seggen_core.config import EvaluateConfig, ZeroShotConfig
from seggen_core.metrics.boundary import boundary_scores, boundary_width, count_boundaries
from seggen_core.metrics.semantic import (
    average,
    confusion_matrix,
    group_scores,
    mean_iou,
    rounded,
    summarize,
    zero_shot_scores,
)
from seggen_core.project.publish import write_json
from seggen_core.reports.grids import image_grid, picture_scale
from seggen_core.segmentation.arms import TrainedArm
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.predict import (
    Prediction,
    TestProtocol,
    predict_store,
    prediction_rows,
)
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy

_PICTURE_SIDE = 128


@dataclass(frozen=True, eq=False)
class ArmEvaluation:
    """What `evaluate_arm` returns.

    Attributes:
        metrics: JSON-ready. The means over the subset seeds (`semantic.summarize` and
            `boundary.boundary_scores`, percent), "miou_std", their sample standard deviation (None
            for one seed), and "seeds": the same for each. With unseen classes also "miou_seen",
            "miou_unseen" and "miou_harmonic"; if several scales are tested, "miou_ms"; with groups
            of classes "groups", by name.
        confusions: int64 [C, C] by seed: pixels, rows are true classes.
        taxonomy: the classes of the arm's segmenters.
        predictions: those of the first seed, at equal distances through the split.
    """

    metrics: dict[str, Any]
    confusions: dict[str, np.ndarray]
    taxonomy: Taxonomy
    predictions: list[Prediction]
    shown = ("predictions.png", "confusion.csv")

    def write(self, folder: Path) -> dict[str, float]:
        """Write metrics.json, confusion.json, confusion.csv and predictions.png.

        confusion.json has the confusion matrix of each seed, confusion.csv their sum.

        Returns:
            no figure: the run of an arm gets its scores from `arm_run.log_arm`.
        """
        matrices = {seed: confusion.tolist() for seed, confusion in self.confusions.items()}
        self.confusion_table().to_csv(folder / "confusion.csv", index=False)
        write_json(folder / "metrics.json", self.metrics)
        write_json(folder / "confusion.json", {"classes": self.taxonomy.slugs, "seeds": matrices})
        rows = prediction_rows(self.predictions, num_classes=len(self.taxonomy))
        image_grid(
            rows,
            scale=picture_scale(rows, side=_PICTURE_SIDE),
            labels=["image", "truth", "prediction"],
        ).save(folder / "predictions.png")
        return {}

    def confusion_table(self) -> pd.DataFrame:
        """Return the sum of the confusion matrices, a row for each pair of classes.

        Columns: truth, prediction, pixels, and share, the percentage of the true class's pixels.
        """
        slugs, total = self.taxonomy.slugs, np.sum(list(self.confusions.values()), axis=0)
        shares = 100 * total / np.maximum(total.sum(1, keepdims=True), 1)
        return pd.DataFrame(
            {
                "truth": np.repeat(slugs, len(slugs)),
                "prediction": np.tile(slugs, len(slugs)),
                "pixels": total.ravel(),
                "share": shares.ravel().round(4),
            }
        )


def evaluate_arm(
    arm: TrainedArm,
    *,
    test: SampleStore,
    taxonomy: Taxonomy,
    settings: EvaluateConfig,
    zero_shot: ZeroShotConfig,
    device: torch.device,
) -> ArmEvaluation:
    """Score each of an arm's segmenters.

    Args:
        arm: the checkpoints.
        test: the test split.
        taxonomy: the dataset's classes.
        settings: batches, pictures and groups of classes.
        zero_shot: the unseen classes of zero-shot segmentation.
        device: where to compute.

    Raises:
        ConfigError: a class of `zero_shot` or of a group isn't in the taxonomy.
    """
    arm, protocol = replace(arm, checkpoint=settings.checkpoint), test_protocol(arm, settings)
    labels = LabelSpace(taxonomy, arm.known_classes)
    testing = _Testing(arm, test, settings, labels, device)
    counts = testing.counts(protocol)
    confusions = {seed: confusion for seed, (confusion, _) in counts.items()}
    seeds = {
        seed: _summary(confusion, labels, settings, zero_shot)
        | boundary_scores(boundaries, slugs=labels.taxonomy.slugs)
        for seed, (confusion, boundaries) in counts.items()
    }
    if settings.multi_scale is not None:
        several = replace(protocol, multi_scale=settings.multi_scale)
        for seed, (confusion, _) in testing.counts(several).items():
            seeds[seed] |= {"miou_ms": rounded(mean_iou(confusion))}
    scores = [summary["miou"] for summary in seeds.values() if summary["miou"] is not None]
    metrics: dict[str, Any] = {
        "model": arm.model,
        "num_images": len(test),
        **average(list(seeds.values())),
        "miou_std": rounded(float(np.std(scores, ddof=1))) if len(scores) > 1 else None,
        "seeds": seeds,
    }
    places = np.linspace(0, len(test) - 1, min(settings.num_pictures, len(test))).round()
    keys = test.keys()
    predictions = predict_store(
        arm.load(arm.seeds[0], device=device),
        store=test,
        keys=[keys[place] for place in places.astype(int)],
        batch_size=settings.batch_size,
        description=f"evaluate {arm.folder.name}: pictures",
        protocol=protocol,
        table=labels.truth_table,
    )
    return ArmEvaluation(metrics, confusions, labels.taxonomy, list(predictions))


@dataclass(frozen=True, eq=False)
class _Testing:
    """The segmenters of an arm on the test split."""

    arm: TrainedArm
    test: SampleStore
    settings: EvaluateConfig
    labels: LabelSpace
    device: torch.device

    def counts(self, protocol: TestProtocol) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return the confusion matrix and the `count_boundaries` of each segmenter, by seed."""
        several = " at several scales" if protocol.multi_scale else ""
        num_classes, counts = len(self.labels.taxonomy), {}
        for seed in self.arm.seeds:
            predictions = predict_store(
                self.arm.load(seed, device=self.device),
                store=self.test,
                batch_size=self.settings.batch_size,
                description=f"evaluate {self.arm.folder.name} seed {seed}{several}",
                protocol=protocol,
                table=self.labels.truth_table,
            )
            confusion, boundaries = (
                np.zeros((num_classes, num_classes), np.int64),
                np.zeros((2, num_classes), int),
            )
            for p in predictions:
                confusion += confusion_matrix(p.predicted, truth=p.truth, num_classes=num_classes)
                width = boundary_width(p.truth.shape)
                boundaries += count_boundaries(
                    p.predicted, truth=p.truth, num_classes=num_classes, width=width
                )
            counts[seed] = confusion, boundaries
        return counts


def _summary(
    confusion: np.ndarray, labels: LabelSpace, settings: EvaluateConfig, zero_shot: ZeroShotConfig
) -> dict[str, Any]:
    """Return all scores of one segmenter that come from its confusion matrix.

    Scores of classes that the segmenter doesn't know are left out: those of groups that have one,
    and those of zero-shot segmentation.
    """
    taxonomy = labels.taxonomy
    things = [c.is_thing for c in taxonomy]
    summary = summarize(confusion, slugs=taxonomy.slugs, things=things)
    unknown = set(labels.dataset.slugs) - set(taxonomy.slugs)
    if zero_shot.unseen and not unknown:
        summary |= zero_shot_scores(summary, unseen=zero_shot.unseen, left_out=zero_shot.left_out)
    groups = {
        name: group_scores(confusion, slugs=taxonomy.slugs, groups=members)
        for name, members in settings.groups.items()
        if not unknown & {slug for slugs in members.values() for slug in slugs}
    }
    return summary | ({"groups": groups} if groups else {})


def test_protocol(arm: TrainedArm, settings: EvaluateConfig) -> TestProtocol:
    """Return at which size an arm is tested: the settings' size, else that of its training."""
    if settings.short_side is None:
        assert settings.max_side is None
        return arm.protocol
    return TestProtocol(settings.short_side, settings.max_side)
