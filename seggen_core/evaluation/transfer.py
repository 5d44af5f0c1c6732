"""The scores of an arm's segmenters on another dataset, through a mapping of classes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from seggen_core.config import TransferConfig
from seggen_core.datasets.fit import fit_sample
from seggen_core.datasets.reader import DatasetReader
from seggen_core.errors import ConfigError
from seggen_core.metrics.semantic import average, class_iou, confusion_matrix, rounded
from seggen_core.project.publish import write_json
from seggen_core.segmentation.arms import TrainedArm
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.predict import TestProtocol, predict_maps
from seggen_core.segmentation.segment_labels import require_classes
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy


@dataclass(frozen=True)
class TransferScores:
    """What `score_transfer` returns.

    Attributes:
        metrics: JSON-ready: "seeds", and the means over them. Scores are "groups": by the name of
            the groups, IoU in percent by class, and "mean".
        name: of the groups.
    """

    metrics: dict[str, Any]
    name: str
    shown = ("metrics.json",)

    def write(self, folder: Path) -> dict[str, float]:
        """Write metrics.json; return the scores by class."""
        write_json(folder / "metrics.json", self.metrics)
        scores = self.metrics["groups"][self.name].items()
        return {f"{self.name}/{key}": value for key, value in scores if value is not None}


def score_transfer(
    arm: TrainedArm,
    *,
    section: TransferConfig,
    reader: DatasetReader,
    taxonomy: Taxonomy,
    protocol: TestProtocol,
    device: torch.device,
) -> TransferScores:
    """Score each of an arm's segmenters on the test split of another dataset.

    Args:
        arm: the checkpoints.
        section: the mapping of classes.
        reader: the other dataset.
        taxonomy: the classes of the arm's own dataset.
        protocol: at which size images are predicted.
        device: where to compute.

    Raises:
        ConfigError: a class of the mapping isn't there, or the arm gives no class to every pixel.
        DatasetError: a sample of the other dataset can't be read.
    """
    require_classes(arm.task, arm=section.arm, key="the arm of this transfer")
    slugs = LabelSpace(taxonomy, arm.known_classes).taxonomy.slugs
    matches = section.classes.values()
    ours = _table(slugs, [m.ours for m in matches], where=f"the arm {section.arm}")
    theirs = _table(reader.taxonomy.slugs, [m.theirs for m in matches], where=section.dataset.name)
    seeds = {}
    for seed in arm.seeds:
        confusion = _confusion(
            arm.load(seed, device=device),
            section=section,
            reader=reader,
            tables=(ours, theirs),
            protocol=protocol,
            title=f"transfer {section.arm} to {section.dataset.name} seed {seed}",
        )
        seeds[seed] = {"groups": {section.groups: _scores(confusion, section.classes)}}
    metrics: dict[str, Any] = {
        "arm": section.arm,
        "dataset": section.dataset.name,
        "num_images": len(reader.keys("test")),
        **average(list(seeds.values())),
        "seeds": seeds,
    }
    return TransferScores(metrics, section.groups)


def _table(slugs: Sequence[str], classes: Sequence[Sequence[str]], *, where: str) -> np.ndarray:
    """Return the number of the scored class of each label, uint8 [256]; the rest comes last."""
    wanted = {slug for members in classes for slug in members}
    if foreign := sorted(wanted - set(slugs)):
        raise ConfigError(
            f"transfer: {where} has no class {', '.join(foreign)}; it has: {', '.join(slugs)}"
        )
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[: len(slugs)] = len(classes)
    for row, members in enumerate(classes):
        table[[slugs.index(slug) for slug in members]] = row
    return table


def _confusion(
    segmenter: Segmenter,
    *,
    section: TransferConfig,
    reader: DatasetReader,
    tables: tuple[np.ndarray, np.ndarray],
    protocol: TestProtocol,
    title: str,
) -> np.ndarray:
    """Return pixels by true and predicted class, int64 [K + 1, K + 1]; the last is the rest."""
    ours, theirs = tables
    num_rows = len(section.classes) + 1
    total = np.zeros((num_rows, num_rows), np.int64)
    for key in tqdm(reader.keys("test"), desc=title, unit="image", disable=None):
        sample = fit_sample(reader.read("test", key), config=section.dataset, split="test")
        predicted = predict_maps(segmenter, images=sample.image[None], protocol=protocol)[0]
        truth = theirs[sample.segmentation_map]
        total += confusion_matrix(ours[predicted], truth=truth, num_classes=num_rows)
    return total


def _scores(confusion: np.ndarray, classes: Mapping[str, Any]) -> dict[str, float | None]:
    values = class_iou(confusion)[: len(classes)]
    known = values[~np.isnan(values)]
    scores = {name: rounded(value) for name, value in zip(classes, values, strict=True)}
    return scores | {"mean": rounded(float(known.mean())) if known.size else None}
