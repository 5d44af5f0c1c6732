"""The whole graph, run by DVC at smoke size with the shipped foundation and the real stages."""

import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from seggen_core.store.reader import open_partitions
from tools.smoke_project import VARIANTS, make_project, repro_command, run_program, smoke_params


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder of its own, with git and DVC, at smoke size."""
    return make_project(tmp_path_factory.mktemp("workspace"))


def repro(workspace: Path, *arguments: str) -> str:
    """Run the pipeline two stages at a time and return what it printed."""
    done = run_program(repro_command(*arguments), workspace)
    logs = sorted((workspace / ".seggen" / "logs").glob("*.log"), key=lambda p: p.stat().st_mtime)
    tail = logs[-1].read_text(encoding="utf-8")[-3000:] if logs else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{tail}"
    return done.stdout


def digests(workspace: Path) -> dict[str, str]:
    """md5 of every artifact, as dvc.lock records them."""
    lock = yaml.safe_load((workspace / "dvc.lock").read_text(encoding="utf-8"))
    return {out["path"]: out["md5"] for stage in lock["stages"].values() for out in stage["outs"]}


@pytest.fixture(scope="module")
def first_run(workspace: Path) -> dict[str, str]:
    """Run everything once; return the digests of all artifacts."""
    repro(workspace)
    return digests(workspace)


def test_the_whole_graph_runs_and_ends_in_a_table(
    workspace: Path, first_run: dict[str, str]
) -> None:
    table = pd.read_csv(workspace / "data" / "reports" / "ablation" / "ablation.csv")
    assert set(table["variant"]) == set(VARIANTS)
    assert table["miou"].between(0, 100).all()
    for method in ("masksyn", "imgsyn", "seediff", "diffumask"):
        partitions = open_partitions(workspace / "data" / "synthetic" / method)
        assert {p.folder.name for p in partitions} == {"car", "person"}
        assert sum(len(p) for p in partitions) > 0
        for report in ("judge", "memorization"):
            assert (workspace / "data" / "reports" / report / method / "metrics.json").is_file()
    manifest = json.loads(
        (workspace / "data" / "synthetic" / "masksyn" / "car" / "manifest.json").read_text(
            encoding="utf-8"
        )
    )
    assert manifest["method"] == "masksyn"


def test_a_second_run_does_nothing(workspace: Path, first_run: dict[str, str]) -> None:
    before = (workspace / "dvc.lock").read_bytes()
    repro(workspace)
    assert (workspace / "dvc.lock").read_bytes() == before
    status = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        cwd=workspace,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(status.stdout) == {}


def test_p_aug_concerns_training_evaluation_and_the_table_only(
    workspace: Path, first_run: dict[str, str]
) -> None:
    params = smoke_params()
    params["train_seg"]["replace"]["p_aug"] = 0.5
    (workspace / "params.yaml").write_text(
        yaml.safe_dump(params, sort_keys=False), encoding="utf-8"
    )
    try:
        planned = repro(workspace, "--dry")
    finally:
        (workspace / "params.yaml").write_text(
            yaml.safe_dump(smoke_params(), sort_keys=False), encoding="utf-8"
        )
    named = {word.partition("@")[0] for word in planned.replace(",", " ").split()}
    stages = {
        "dataset",
        "captions",
        "foundation",
        "text2mask",
        "mask2img",
        "masksyn",
        "imgsyn",
        "seediff",
        "diffumask",
    }
    assert "train_seg" in named
    assert not named & stages
    words = set(planned.replace(",", " ").split())
    assert {"train_seg@masksyn_imgsyn", "train_seg@shuffled"} <= words
    real_only = {"baseline", "full_real", "mask2former"}
    assert not words & {
        f"{stage}@{arm}" for arm in real_only for stage in ("train_seg", "evaluate")
    }


def test_a_new_class_concerns_what_depends_on_it_only(
    workspace: Path, first_run: dict[str, str]
) -> None:
    params = smoke_params()
    params["classes"].append("tree")
    (workspace / "params.yaml").write_text(
        yaml.safe_dump(params, sort_keys=False), encoding="utf-8"
    )
    try:
        planned = repro(workspace, "--dry")
    finally:
        (workspace / "params.yaml").write_text(
            yaml.safe_dump(smoke_params(), sort_keys=False), encoding="utf-8"
        )
    words = set(planned.replace(",", " ").split())
    assert {"masksyn@tree", "imgsyn@tree", "seediff@tree"} <= words
    assert not words & {
        "masksyn@car",
        "dataset",
        "text2mask",
        "train_seg@baseline",
        "train_seg@full_real",
    }
