"""The whole graph, run by DVC at smoke size with the shipped foundation and the real stages."""

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from seggen_core.checks.registry import checks_of
from seggen_core.checks.results import Checked, recall
from seggen_core.config import load_config
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import open_partitions
from tools import damage_artifacts
from tools.campaign import FINE, run_campaign
from tools.smoke_project import (
    METHODS,
    VARIANTS,
    copy_state,
    environment,
    make_project,
    repro_command,
    run_program,
    smoke_params,
    write_params,
)

CHEAP_READERS = (("ablation",), ("plan",), ("check_captions",), ("lineage", "baseline"))


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project folder of its own, with git and DVC, at smoke size.

    SEGGEN_SMOKE_PROJECT names a checkout in which `tools.smoke_project` has run the same code: its
    outputs are moved here and not made a second time.
    """
    folder = make_project(tmp_path_factory.mktemp("workspace"))
    finished = os.environ.get("SEGGEN_SMOKE_PROJECT")
    return folder if finished is None else copy_state(Path(finished), folder)


def dvc(workspace: Path, *arguments: str) -> str:
    """Run a `dvc` command and return what it printed."""
    done = run_program([sys.executable, "-m", "dvc", *arguments], workspace)
    done.check_returncode()
    return done.stdout


def run_repro(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the pipeline two stages at a time."""
    return run_program(repro_command(*arguments), workspace)


def repro(workspace: Path, *arguments: str) -> str:
    """Run the pipeline two stages at a time and return what it printed."""
    done = run_repro(workspace, *arguments)
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
    assert set(table["variant"]) == set(VARIANTS) - {"mask2former"}
    assert table["miou"].between(0, 100).all()
    panoptic = pd.read_csv(workspace / "data" / "reports" / "ablation" / "panoptic_ablation.csv")
    assert list(panoptic["variant"]) == ["mask2former"]
    assert panoptic["pq"].between(0, 100).all()
    for method in METHODS:
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


def test_every_check_ran_and_its_results_are_known(
    workspace: Path, first_run: dict[str, str]
) -> None:
    """As the sensor asks for them: nothing is evaluated that reads samples."""
    config = load_config(workspace / "params.yaml").checks
    paths = ProjectPaths(workspace)
    outputs = [("dataset", None), ("captions", None)]
    outputs += [(method, slug) for method in METHODS for slug in ("car", "person")]
    outputs += [("train_seg", variant) for variant in VARIANTS]
    outputs += [("judge", method) for method in METHODS]
    for stage, item in outputs:
        findings = recall(Checked(stage, item, paths, config))
        assert [*findings] == [check.name for check in checks_of(stage)], (stage, item)
        assert all(finding.passed for finding in findings.values()), findings


def test_a_failed_check_stops_what_reads_the_samples_and_a_changed_limit_makes_none_again(
    workspace: Path, first_run: dict[str, str]
) -> None:
    params = smoke_params()
    params["checks"]["overrides"] = {"seediff/car": {"min_edge_agreement": 1000}}
    write_params(workspace, params)
    try:
        done = run_repro(workspace)
        assert done.returncode == 1
        assert "check image_mask_agreement of seediff@car" in done.stderr
        assert "checks.overrides.seediff/car.min_edge_agreement in params.yaml" in done.stderr
        stale = json.loads(dvc(workspace, "status", "--json"))
        assert "check_synthetic@seediff" in stale
        assert {"train_seg@seediff", "judge@seediff", "memorization@seediff"} <= set(stale)
        assert "seediff@car" not in stale and "train_seg@shuffled" not in stale
        # DVC alone stops at the same place.
        shell = subprocess.run(
            [sys.executable, "-m", "dvc", "repro", "train_seg@seediff"],
            cwd=workspace,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert shell.returncode != 0 and "image_mask_agreement" in shell.stderr
    finally:
        write_params(workspace, smoke_params())
    repro(workspace)
    assert digests(workspace) == first_run


def test_a_second_run_does_nothing(workspace: Path, first_run: dict[str, str]) -> None:
    before = (workspace / "dvc.lock").read_bytes()
    repro(workspace)
    assert (workspace / "dvc.lock").read_bytes() == before
    assert json.loads(dvc(workspace, "status", "--json")) == {}


def test_p_aug_concerns_training_evaluation_and_the_table_only(
    workspace: Path, first_run: dict[str, str]
) -> None:
    params = smoke_params()
    params["train_seg"]["replace"]["p_aug"] = 0.5
    write_params(workspace, params)
    try:
        planned = repro(workspace, "--dry")
    finally:
        write_params(workspace, smoke_params())
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
    write_params(workspace, params)
    try:
        planned = repro(workspace, "--dry")
    finally:
        write_params(workspace, smoke_params())
    words = set(planned.replace(",", " ").split())
    assert {"masksyn@tree", "imgsyn@tree", "seediff@tree"} <= words
    assert not words & {
        "masksyn@car",
        "dataset",
        "text2mask",
        "train_seg@baseline",
        "train_seg@full_real",
    }


def test_damage_to_what_stages_read_from_each_other_is_refused(
    workspace: Path, first_run: dict[str, str]
) -> None:
    """A short version of the campaign: the readers that need no network."""
    campaign = damage_artifacts.make_campaign(workspace, 1000, random.Random(1))
    cheap = [case for case in campaign.cases if case.command in CHEAP_READERS]
    chosen = random.Random(1).sample(cheap, 24)
    for outcome in run_campaign(replace(campaign, cases=chosen, imports=())):
        assert outcome.kind in FINE, f"{outcome.kind}: {outcome.case}\n{outcome.text}"


def test_a_suite_runs_by_one_command(workspace: Path, first_run: dict[str, str]) -> None:
    """Its arm is trained and scored, its page written, and no other stage runs again."""
    arm = {
        "model": "hrnet",
        "strategy": "replace",
        "overrides": {"num_steps": 1},
        "num_synthetic": 1,
        "reads": ["data/synthetic/masksyn", "data/real/train/index.parquet"],
    }
    suite = {
        "title": "Tiny",
        "profile": "scenes",
        "params": {"variants": {"tiny": arm}},
        "scores": {"miou": "mIoU"},
        "rows": [{"label": "one sample", "arm": "tiny", "against": "baseline"}],
    }
    file = workspace / "profiles" / "suites" / "tiny.yaml"
    file.write_text(yaml.safe_dump(suite), encoding="utf-8")
    try:
        done = run_program(
            [sys.executable, "-m", "seggen_core", "suites", "tiny", "--run"], workspace
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        page = (workspace / "data" / "reports" / "suite" / "tiny" / "suite.md").read_text()
        assert "one sample" in page and "baseline" in page
        after = digests(workspace)
        assert set(after) - set(first_run) == {
            "data/checkpoints/tiny",
            "data/reports/evaluate/tiny",
            "data/reports/suite/tiny",
        }
        assert {path: after[path] for path in first_run} == first_run
    finally:
        write_params(workspace, smoke_params())
        file.unlink()
