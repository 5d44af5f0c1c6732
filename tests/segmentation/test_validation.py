"""Validation while training: scores, the best model, the early end, and resumption."""

import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from seggen_core.errors import FoundationError
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation import arm_training
from seggen_core.segmentation.models import build_segmenter, load_segmenter
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.segmentation.validation import Validation
from seggen_core.stages import evaluate, train_seg
from tests.segmentation.test_stages import settings as project_settings
from tests.segmentation.test_train import settings
from tests.segmentation.tiny import ID2LABEL


def open_validation(
    folder: Path, scores: list[float], *, reported: list[tuple[int, float]], **changes: Any
) -> tuple[Validation, Segmenter]:
    """A validation that scores `scores`, one after the other, every second step."""
    waiting = iter(scores)
    config = settings(**{"validate_every": 2, "checkpoint_every": 4} | changes)

    def score(segmenter: Segmenter) -> float:
        assert not segmenter.training
        return next(waiting)

    torch.manual_seed(0)
    segmenter = build_segmenter(config, id2label=ID2LABEL).train()
    report = lambda step, value: reported.append((step, value))  # noqa: E731
    return Validation(config, folder, score, report), segmenter


def test_the_best_model_is_kept_and_the_end_comes_when_patience_ends(tmp_path: Path) -> None:
    reported: list[tuple[int, float]] = []
    scores = [10.0, 30.0, 20.0, 30.0, 25.0]
    validation, segmenter = open_validation(tmp_path, scores, reported=reported, patience=3)
    assert not validation.resume(0) and validation.best is None
    weight = next(segmenter.parameters())
    for step in range(1, 11):
        with torch.no_grad():
            weight.fill_(step)
        is_over = validation.after_step(segmenter, step)
        assert segmenter.training
        assert is_over == (step == 10), "an equal score is no better one"
    assert reported == list(zip(range(2, 11, 2), scores, strict=True))
    assert validation.best is not None
    step, folder = validation.best
    assert step == 4
    assert (next(load_segmenter(folder).parameters()) == 4).all()
    resumed, _ = open_validation(tmp_path, [], reported=reported, patience=3)
    assert resumed.resume(10), "a training that ended early has ended after a kill, too"


def test_a_resumed_training_forgets_what_came_after_its_state(tmp_path: Path) -> None:
    """Models that may be the best again stay until a state after them can't be lost."""
    reported: list[tuple[int, float]] = []
    first, segmenter = open_validation(tmp_path, [10.0, 30.0, 40.0], reported=reported)
    for step in (2, 4, 6):
        first.after_step(segmenter, step)
    assert len(list(tmp_path.glob("best-*"))) == 3
    reported.clear()
    resumed, segmenter = open_validation(tmp_path, [5.0, 7.0, 8.0, 50.0], reported=reported)
    assert not resumed.resume(4)
    assert reported == [(2, 10.0), (4, 30.0)]
    resumed.after_step(segmenter, 6)  # 5.0 where the lost training had 40.0
    assert resumed.best == (4, tmp_path / "best-00000004") and resumed.best[1].is_dir()
    assert not (tmp_path / "best-00000006").exists()
    for step in (8, 10, 12):
        resumed.after_step(segmenter, step)
    # The oldest state is of step 4 now, of which the best model is that of step 4.
    assert sorted(p.name for p in tmp_path.glob("best-*")) == ["best-00000004", "best-00000012"]


def tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_a_killed_stage_that_validates_goes_on_to_the_same_bytes(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = project_settings().train_seg.model_dump()
    changes["common"]["validate_every"] = 1
    config = project_settings(train_seg=changes)
    train_seg.run(config, paths=project, item="baseline")
    out = project.checkpoint("baseline")
    whole = tree(out)
    metrics = json.loads(whole["metrics.json"])["seeds"]["0"]
    assert list(metrics["validations"]) == [str(step) for step in range(1, 7)]
    assert metrics["validations"]["6"] == metrics["val_miou"] and metrics["steps_done"] == 6
    best = max(metrics["validations"].values())
    assert metrics["best_val_miou"] == metrics["validations"][str(metrics["best_step"])] == best
    table = pd.read_csv(out / "history.csv").dropna(subset="val_miou")
    assert table[["seed", "step"]].to_numpy().tolist() == [
        [s, t] for s in (0, 1) for t in range(1, 7)
    ]

    shutil.rmtree(out)
    real_training = arm_training.train_segmenter
    stops = iter((3, 6))

    def dies(*args: Any, on_step: Any, **kwargs: Any) -> int:
        stop = next(stops, None)

        def report(step: int, values: dict[str, float]) -> None:
            on_step(step, values)
            if step == stop:
                raise KeyboardInterrupt

        return real_training(*args, on_step=report, **kwargs)

    monkeypatch.setattr(arm_training, "train_segmenter", dies)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train_seg.run(config, paths=project, item="baseline")
    train_seg.run(config, paths=project, item="baseline")
    assert tree(out) == whole

    # The best model is scored where that is asked for.
    picked = project_settings(train_seg=changes, evaluate={"checkpoint": "best"})
    evaluate.run(picked, paths=project, item="baseline")
    expected = {s: load_segmenter(out / f"seed{s}" / "best") for s in "01"}
    assert all(isinstance(segmenter, Segmenter) for segmenter in expected.values())


def test_validation_changes_nothing_in_the_training(project: ProjectPaths) -> None:
    weights = []
    for every in (None, 2):
        changes = project_settings().train_seg.model_dump()
        changes["common"]["validate_every"] = every
        train_seg.run(project_settings(train_seg=changes), paths=project, item="mask2former")
        weights.append((project.checkpoint("mask2former") / "seed0/model.safetensors").read_bytes())
    assert weights[0] == weights[1]


def test_an_early_end_writes_what_there_is(project: ProjectPaths) -> None:
    stuck = project_settings().train_seg.model_dump()
    stuck["common"] |= {"validate_every": 1, "patience": 2, "num_steps": 500}
    stuck["hrnet"]["learning_rate"] = 1e-12
    train_seg.run(project_settings(train_seg=stuck), paths=project, item="baseline")
    out = project.checkpoint("baseline")
    metrics = json.loads((out / "metrics.json").read_text())["seeds"]["0"]
    assert metrics["steps_done"] < 100
    history = pd.read_csv(out / "seed0" / "history.csv")
    assert history["step"].iloc[-1] == metrics["steps_done"]


def test_the_best_model_of_an_arm_that_was_not_validated(project: ProjectPaths) -> None:
    never = project_settings().train_seg.model_dump()
    never["common"]["validate_every"] = None
    train_seg.run(project_settings(train_seg=never), paths=project, item="baseline")
    picked = project_settings(evaluate={"checkpoint": "best"})
    with pytest.raises(
        FoundationError, match=r"trained without validation; set train_seg\.common\.val"
    ):
        evaluate.run(picked, paths=project, item="baseline")
