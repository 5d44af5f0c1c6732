"""The scores of an ablation arm's segmenters on the held-out test split."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from seggen_core.config import EvaluateConfig
from seggen_core.metrics.semantic import (
    average,
    mean_iou,
    rounded,
    summarize,
    zero_shot_scores,
)
from seggen_core.project.publish import write_json
from seggen_core.reports.grids import image_grid, picture_scale
from seggen_core.segmentation.arms import TrainedArm
from seggen_core.segmentation.predict import (
    Prediction,
    TestProtocol,
    predict_store,
    prediction_rows,
    score_store,
)
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy

_PICTURE_SIDE = 128


@dataclass(frozen=True, eq=False)
class ArmEvaluation:
    """What `evaluate_arm` returns.

    Attributes:
        metrics: JSON-ready. The means over the subset seeds (`semantic.summarize`, percent),
            "miou_std", their sample standard deviation (None for one seed), and "seeds": the same
            for each. With unseen classes also "miou_seen", "miou_unseen" and "miou_harmonic"; if
            several scales are tested, "miou_ms".
        confusions: int64 [C, C] by seed: pixels, rows are true classes.
        taxonomy: the classes.
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
    unseen: Sequence[str],
    device: torch.device,
) -> ArmEvaluation:
    """Score each of an arm's segmenters.

    Args:
        arm: the checkpoints.
        test: the test split.
        taxonomy: the classes.
        settings: batches and pictures.
        unseen: slugs of the unseen classes of zero-shot segmentation; empty for none.
        device: where to compute.
    """
    arm, protocol = replace(arm, checkpoint=settings.checkpoint), _protocol(arm, settings)
    confusions = _score(arm, test, settings, protocol, device=device)
    things = [c.is_thing for c in taxonomy]
    seeds = {s: summarize(c, slugs=taxonomy.slugs, things=things) for s, c in confusions.items()}
    if unseen:
        seeds = {
            s: summary | zero_shot_scores(summary, unseen=unseen) for s, summary in seeds.items()
        }
    if settings.multi_scale is not None:
        several = replace(protocol, multi_scale=settings.multi_scale)
        for seed, confusion in _score(arm, test, settings, several, device=device).items():
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
    )
    return ArmEvaluation(metrics, confusions, taxonomy, list(predictions))


def _score(
    arm: TrainedArm,
    test: SampleStore,
    settings: EvaluateConfig,
    protocol: TestProtocol,
    *,
    device: torch.device,
) -> dict[str, np.ndarray]:
    """Return the confusion matrix of each of an arm's segmenters."""
    several = " at several scales" if protocol.multi_scale else ""
    return {
        seed: score_store(
            arm.load(seed, device=device),
            store=test,
            batch_size=settings.batch_size,
            description=f"evaluate {arm.folder.name} seed {seed}{several}",
            protocol=protocol,
        )
        for seed in arm.seeds
    }


def _protocol(arm: TrainedArm, settings: EvaluateConfig) -> TestProtocol:
    """Return at which size an arm is tested: the settings' size, else that of its training."""
    if settings.short_side is None:
        assert settings.max_side is None
        return arm.protocol
    return TestProtocol(settings.short_side, settings.max_side)
