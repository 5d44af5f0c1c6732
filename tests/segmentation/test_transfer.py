"""The stage `transfer`: an arm on another dataset, through a mapping of classes."""

import json
from typing import Any

import numpy as np
import pytest

from seggen_core.config import SegGenConfig
from seggen_core.datasets.open import open_dataset
from seggen_core.errors import ConfigError
from seggen_core.metrics.semantic import class_iou
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.predict import predict_maps
from seggen_core.stages import train_seg, transfer
from tests.segmentation.conftest import SIZE
from tests.segmentation.test_stages import PLAIN, REAL, settings

SCENES = {
    "name": "scenes",
    "reads": "data/code/none.json",
    "image_size": SIZE,
    "num_train": 4,
    "num_val": 1,
    "num_test": 2,
}
CLASSES = {
    "ground": {"ours": ["grass"], "theirs": ["road", "grass"]},
    "vehicle": {"ours": ["car"], "theirs": ["car", "bus"]},
}
TEST = {"arm": "baseline", "dataset": SCENES, "classes": CLASSES, "groups": "moved"}


def config(**changes: Any) -> SegGenConfig:
    arms = {"baseline": PLAIN | {"reads": [REAL, REAL]}}
    return settings(variants=arms, transfer={"elsewhere": TEST | changes})


def test_an_arm_is_scored_on_another_dataset(project: ProjectPaths) -> None:
    train_seg.run(config(), paths=project, item="baseline")
    transfer.run(config(), paths=project, item="elsewhere")
    out = project.report("evaluate", "elsewhere")
    metrics = json.loads((out / "metrics.json").read_text())
    reader = open_dataset(config().transfer["elsewhere"].dataset, seed=0)
    theirs = np.full(256, 255)
    for c in reader.taxonomy:
        theirs[c.train_id] = {"road": 0, "grass": 0, "car": 1, "bus": 1}.get(c.slug, 2)
    ours = np.array([2, 0, 1])  # sky is the rest
    for seed in "01":
        segmenter = load_segmenter(project.checkpoint("baseline") / f"seed{seed}")
        confusion = np.zeros((3, 3), np.int64)
        for key in reader.keys("test"):
            sample = reader.read("test", key)
            truth = theirs[sample.segmentation_map]
            predicted = ours[predict_maps(segmenter, images=sample.image[None])[0]]
            np.add.at(confusion, (truth[truth < 255], predicted[truth < 255]), 1)
        iou = class_iou(confusion)
        scores = metrics["seeds"][seed]["groups"]["moved"]
        assert scores["ground"] == pytest.approx(iou[0], abs=1e-3)
        assert scores["vehicle"] == pytest.approx(iou[1], abs=1e-3)
        assert scores["mean"] == pytest.approx(iou[:2].mean(), abs=1e-3)
    means = [metrics["seeds"][seed]["groups"]["moved"]["mean"] for seed in "01"]
    assert metrics["groups"]["moved"]["mean"] == pytest.approx(np.mean(means), abs=1e-3)
    assert metrics["num_images"] == 2


@pytest.mark.parametrize("side, place", [("ours", "the arm baseline"), ("theirs", "scenes")])
def test_classes_that_are_not_there_are_named(project: ProjectPaths, side: str, place: str) -> None:
    train_seg.run(config(), paths=project, item="baseline")
    wrong = {"ground": CLASSES["ground"] | {side: ["tram"]}}
    with pytest.raises(ConfigError, match=f"transfer: {place} has no class tram; it has: "):
        transfer.run(config(classes=wrong), paths=project, item="elsewhere")


def test_a_transfer_that_is_not_there_is_named(project: ProjectPaths) -> None:
    with pytest.raises(ConfigError, match=r"no transfer 'other'; params.yaml has: elsewhere"):
        transfer.run(config(), paths=project, item="other")


TWICE = {"a": {"ours": ["car"], "theirs": ["car"]}, "b": {"ours": ["car"], "theirs": ["bus"]}}


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"arm": "nobody"}, "its arm 'nobody' has to be among the variants"),
        ({"classes": TWICE}, "car stands twice under 'ours'"),
        ({"dataset": SCENES | {"reads": None}}, "dataset.reads is not set, which DVC watches"),
        ({"dataset": SCENES | {"name": "voc2012", "reads": None}}, "dataset.root is not set"),
    ],
)
def test_a_wrong_transfer_is_refused_when_params_are_read(
    changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        config(**changes)
