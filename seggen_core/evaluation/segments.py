"""The scores of an arm that tells instances apart, on the held-out test split."""

import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from seggen_core.colors.panoptic import panoptic_palette, panoptic_to_color
from seggen_core.config import EvaluateConfig
from seggen_core.evaluation.coco_predictions import CocoFolder
from seggen_core.metrics.segments import SegmentPrediction
from seggen_core.metrics.semantic import average, rounded
from seggen_core.metrics.tasks import PER_CLASS, PRIMARY
from seggen_core.project.publish import write_json
from seggen_core.reports.grids import image_grid, picture_scale
from seggen_core.segmentation.arms import TrainedArm
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.predict import TestProtocol
from seggen_core.segmentation.predict_segments import SegmentTask, predict_segments, score_segments
from seggen_core.segmentation.segment_pictures import painted_segments
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy

logger = logging.getLogger(__name__)

_PICTURE_SIDE = 128


@dataclass(frozen=True, eq=False)
class SegmentEvaluation:
    """What `evaluate_segments` returns.

    Attributes:
        metrics: JSON-ready: task, the means of `metrics.segments` over the subset seeds (percent),
            "<score>_std" of the task's own score, and "seeds": the same for each.
        taxonomy: the classes of the arm's segmenters.
        predictions: those of the first seed, at equal distances through the split.
        coco: the folder with predictions in COCO's formats; None if they aren't written.
    """

    metrics: dict[str, Any]
    taxonomy: Taxonomy
    predictions: list[SegmentPrediction]
    coco: Path | None
    shown = ("predictions.png", "per_class.csv")

    def write(self, folder: Path) -> dict[str, float]:
        """Write metrics.json, per_class.csv, predictions.png, and the folder coco.

        Returns:
            no figure: the run of an arm gets its scores from `arm_run.log_arm`.
        """
        write_json(folder / "metrics.json", self.metrics)
        classes = pd.Series(self.metrics[PER_CLASS[self.metrics["task"]]], dtype=float)
        classes.rename(PRIMARY[self.metrics["task"]]).to_csv(
            folder / "per_class.csv", index_label="class"
        )
        rows = [
            [p.image for p in self.predictions],
            [_picture(p, self.taxonomy, truth=True) for p in self.predictions],
            [_picture(p, self.taxonomy, truth=False) for p in self.predictions],
        ]
        scale = picture_scale(rows, side=_PICTURE_SIDE)
        image_grid(rows, scale=scale, labels=["image", "truth", "prediction"]).save(
            folder / "predictions.png"
        )
        if self.coco is not None:
            shutil.move(self.coco, folder / "coco")
        return {}


def evaluate_segments(
    arm: TrainedArm,
    *,
    test: SampleStore,
    taxonomy: Taxonomy,
    settings: EvaluateConfig,
    device: torch.device,
    scratch: Path,
) -> SegmentEvaluation:
    """Score each of an arm's segmenters by the arm's task.

    Args:
        arm: the checkpoints.
        test: the test split, with instance maps.
        taxonomy: the dataset's classes.
        settings: sizes, post-processing and pictures.
        device: where to compute.
        scratch: an empty folder, for predictions in COCO's formats.

    Raises:
        ConfigError: a test sample shows things and has no instance map.
    """
    if settings.multi_scale is not None:
        logger.info("%s is scored at one scale: its task is %s", arm.folder.name, arm.task)
    protocol = arm.protocol
    if settings.short_side is not None:
        protocol = TestProtocol(settings.short_side, settings.max_side)
    postprocess = settings.postprocess or arm.postprocess
    labels = LabelSpace(taxonomy, arm.known_classes)
    task = SegmentTask(arm.task, labels, postprocess, protocol)
    coco = scratch if settings.write_predictions else None
    seeds = {seed: _score(arm, seed, test, task, coco, device=device) for seed in arm.seeds}
    name = PRIMARY[arm.task]
    scores = [s[name] for s in seeds.values() if s[name] is not None]
    metrics: dict[str, Any] = {
        "model": arm.model,
        "task": arm.task,
        "num_images": len(test),
        **average(list(seeds.values())),
        f"{name}_std": rounded(float(np.std(scores, ddof=1))) if len(scores) > 1 else None,
        "seeds": seeds,
    }
    places = np.linspace(0, len(test) - 1, min(settings.num_pictures, len(test))).round()
    keys = test.keys()
    predictions = predict_segments(
        arm.load(arm.seeds[0], device=device),
        store=test,
        task=task,
        keys=[keys[place] for place in places.astype(int)],
        description=f"evaluate {arm.folder.name}: pictures",
    )
    return SegmentEvaluation(metrics, labels.taxonomy, list(predictions), coco)


def _score(
    arm: TrainedArm,
    seed: str,
    test: SampleStore,
    task: SegmentTask,
    coco: Path | None,
    *,
    device: torch.device,
) -> dict[str, Any]:
    """Return the figures of a segmenter; write its predictions, and once the truth, to `coco`."""
    options: dict[str, Any] = {
        "store": test,
        "task": task,
        "description": f"evaluate {arm.folder.name} seed {seed}",
    }
    segmenter = arm.load(seed, device=device)
    if coco is None:
        return score_segments(segmenter, **options)
    with_panoptic = task.task == "panoptic"
    kinds: dict[str, Any] = {"taxonomy": task.labels.taxonomy, "with_panoptic": with_panoptic}
    with CocoFolder(coco / f"seed{seed}", is_truth=False, **kinds) as predicted:
        if seed != arm.seeds[0]:
            return score_segments(segmenter, each=predicted.add, **options)
        with CocoFolder(coco / "truth", is_truth=True, **kinds) as truth:

            def add(prediction: SegmentPrediction) -> None:
                predicted.add(prediction)
                truth.add(prediction)

            return score_segments(segmenter, each=add, **options)


def _picture(prediction: SegmentPrediction, taxonomy: Taxonomy, *, truth: bool) -> np.ndarray:
    """Return segments in the colours of their classes, with outlines: uint8 [H, W, 3]."""
    predicted = {"panoptic": prediction.panoptic, "instances": prediction.instances}
    segments = prediction.truth if truth else painted_segments(predicted)
    palette = panoptic_palette(len(taxonomy))
    things = np.array([c.is_thing for c in taxonomy])
    return panoptic_to_color(segments, palette=palette, things=things, edge_width=1)
