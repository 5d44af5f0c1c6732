"""Arms with settings of their own, from the training to the table."""

import numpy as np
import pandas as pd
import pytest

from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.models import load_segmenter
from seggen_core.stages import ablation, evaluate, train_seg
from seggen_core.store.reader import SampleStore
from tests.segmentation.test_stages import PLAIN, REAL, REPLACE, read, settings


def test_an_arm_has_its_own_steps_sizes_and_classes(project: ProjectPaths) -> None:
    """With others beside it in one table; no store is made again."""
    arms = {
        "baseline": PLAIN | {"reads": [REAL, REAL]},
        "own": REPLACE
        | {
            "reads": ["data/synthetic/masksyn", "data/synthetic/seediff"],
            "overrides": {"num_steps": 3, "head_width": 8, "class_balance": 0.5},
            "subset_size": 4,
            "num_synthetic": 5,
            "known_classes": ["car", "sky"],
            "ignored_is_rest": True,
            "hidden_classes": ["sky"],
        },
    }
    groups = {"moving": {"car": ["car"]}, "ground": {"grass": ["grass"]}}
    config = settings(
        variants=arms,
        zero_shot={"unseen": ["sky"], "left_out": ["grass"]},
        evaluate={"num_pictures": 1, "groups": groups},
        ablation={"baseline": "baseline"},
    )
    for arm in arms:
        train_seg.run(config, paths=project, item=arm)
        evaluate.run(config, paths=project, item=arm)
    trained = read(project.checkpoint("own") / "metrics.json")
    assert trained["num_steps"] == 3 and trained["known_classes"] == ["sky", "car"]
    for facts in trained["seeds"].values():
        assert facts["num_real"] == 4 and sum(facts["num_synthetic"].values()) == 5
    segmenter = load_segmenter(project.checkpoint("own") / "seed0")
    assert list(segmenter.id2label.values()) == ["sky", "car", "rest"]
    grouped, plain = (
        read(project.report("evaluate", arm) / "metrics.json") for arm in ("own", "baseline")
    )
    assert list(grouped["per_class_iou"]) == ["sky", "car", "rest"]
    assert grouped["groups"]["moving"]["mean"] == grouped["per_class_iou"]["car"]
    assert "ground" not in grouped["groups"] and "miou_seen" not in grouped
    assert plain["groups"]["ground"]["mean"] == plain["per_class_iou"]["grass"]
    assert plain["miou_seen"] == plain["per_class_iou"]["car"]
    confusion = read(project.report("evaluate", "own") / "confusion.json")
    truth = np.concatenate([s.segmentation_map.ravel() for s in SampleStore(project.real("test"))])
    pixels = np.bincount(truth, minlength=3)
    assert np.sum(confusion["seeds"]["0"], axis=1).tolist() == pixels[[0, 2, 1]].tolist()
    ablation.run(config, paths=project, item=None)
    table = pd.read_csv(project.ablation / "ablation.csv").set_index("variant")
    assert pd.isna(table.loc["own", "delta_miou"]) and table.loc["own", "mark"] == "¶"
    assert {"moving/car", "moving/mean", "miou_harmonic", "miou_unseen_std"} <= set(table)
    assert "knows some classes only" in (project.ablation / "ablation.md").read_text()


def test_more_samples_than_a_store_has_are_one_message(project: ProjectPaths) -> None:
    arm = REPLACE | {"reads": ["data/synthetic/masksyn", REAL], "num_synthetic": 7}
    with pytest.raises(ConfigError, match="num_synthetic of the arm is 7, but subset seed 0 has 6"):
        train_seg.run(settings(variants={"baseline": arm}), paths=project, item="baseline")
