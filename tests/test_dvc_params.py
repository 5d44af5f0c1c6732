"""Keys that DVC needs in params.yaml are named before anything runs."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.exceptions import DvcException
from dvc.repo import Repo

from seggen_core.cli import main
from seggen_core.config import load_config
from seggen_core.config.dvc_params import lacking_keys

ROOT = Path(__file__).parent.parent
PROFILES = [path.parent.name for path in sorted((ROOT / "profiles").glob("*/params.yaml"))]
REAL = ["data/real/train/index.parquet", "data/real/val/index.parquet"]
EOMT = {"model": "eomt", "task": "panoptic", "strategy": "plain", "reads": REAL}


def lacking(params: Path, pipeline: Path = ROOT / "dvc.yaml") -> list[str]:
    return lacking_keys(params, pipeline=pipeline, config=load_config(params))


@pytest.mark.parametrize("profile", [name for name in PROFILES if name != "words"])
def test_profiles_lack_nothing(profile: str) -> None:
    assert lacking(ROOT / "profiles" / profile / "params.yaml") == []


@pytest.mark.parametrize(
    "change, sentence",
    [
        (
            lambda tree: tree["variants"].update(segments=EOMT),
            "params.yaml lacks train_seg.eomt, which DVC needs for the stage train_seg@segments; "
            "in train_seg, write eomt: {}",
        ),
        (
            lambda tree: tree.pop("memorization"),
            "params.yaml lacks memorization, which DVC needs for the stage memorization; write "
            "memorization: {}",
        ),
        (
            lambda tree: tree.pop("seed"),
            "params.yaml lacks seed, which DVC needs for the stage dataset; write seed: 0",
        ),
        (
            lambda tree: tree["checks"].pop("min_val_ap"),
            "params.yaml lacks checks.min_val_ap, which DVC needs for the stage "
            "evaluate@baseline; in checks, write min_val_ap: 0.5",
        ),
    ],
)
def test_a_key_that_only_dvc_needs_is_named(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[dict[str, Any]], object],
    sentence: str,
) -> None:
    tree = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    change(tree)
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    shutil.copytree(ROOT / "profiles/scenes", tmp_path / "profiles/scenes")
    assert lacking(params, tmp_path / "dvc.yaml") == [], "a project without DVC"
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    assert lacking(params, tmp_path / "dvc.yaml") == [sentence]
    assert main(["--params", str(params), "plan"]) == 0
    assert f"note: {sentence}" in capsys.readouterr().out
    assert main(["--params", str(params), "validate", "--headers-only"]) == 1
    assert f"dvc.yaml: {sentence}" in capsys.readouterr().out


def test_dvc_stops_without_such_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason for this module. Should a later DVC go on, it may go."""
    stages = {"a": {"cmd": "true", "params": ["seed"]}}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}), encoding="utf-8")
    (tmp_path / "params.yaml").write_text("profile: scenes\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with Repo.init(str(tmp_path), no_scm=True) as repo, pytest.raises(DvcException) as caught:
        repo.reproduce()
    assert "Parameters 'seed' are missing" in f"{caught.value} {caught.value.__cause__}"


@pytest.mark.parametrize("text", ["", "- a\n", "stages: {a: 1\n", "stages: {}\n"])
def test_a_pipeline_that_dvc_refuses_is_left_to_dvc(tmp_path: Path, text: str) -> None:
    (tmp_path / "dvc.yaml").write_text(text, encoding="utf-8")
    assert lacking(ROOT / "params.yaml", tmp_path / "dvc.yaml") == []
