"""Suites of a user's own: what is refused before anything runs, and what the page says."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from seggen_core.cli import main
from seggen_core.config import load_config
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import suite as suite_stage
from tests.test_suites import FILES, ROOT, ROW


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "profiles", tmp_path / "profiles")
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path / "params.yaml"


@pytest.mark.parametrize(
    "text, content", [("", "is empty"), ("# later\n", "is empty"), ("- a\n", "holds a list")]
)
def test_a_file_without_a_suite_spoils_no_other(
    project: Path, capsys: pytest.CaptureFixture[str], text: str, content: str
) -> None:
    (project.parent / "profiles" / "suites" / "mine.yaml").write_text(text, encoding="utf-8")
    for command in (["plan", "--suite", "mine"], ["suites", "mine"]):
        assert main(["--params", str(project), *command]) == 2
        error = capsys.readouterr().err
        assert f"mine.yaml {content}; expected a mapping, with the keys title" in error
    assert main(["--params", str(project), "suites"]) == 2
    printed = capsys.readouterr()
    assert all(name in printed.out for name in FILES) and "mine.yaml" in printed.err


def write_own(project: Path, *, name: str = "mine", **changes: Any) -> None:
    """A suite of two arms, of which it brings one."""
    arm = {"model": "hrnet", "strategy": "plain", "overrides": {"num_steps": 14}}
    real = ["data/real/train/index.parquet", "data/real/val/index.parquet"]
    tree = {
        "title": "Steps",
        "profile": "scenes",
        "params": {"variants": {"long": arm | {"reads": real}}},
        "scores": {"miou": "mIoU"},
        "rows": [ROW, {"label": "b", "arm": "long", "against": "baseline"}],
    } | changes
    file = project.parent / "profiles" / "suites" / f"{name}.yaml"
    file.write_text(yaml.safe_dump(tree), encoding="utf-8")


@pytest.mark.parametrize(
    "name, changes, words",
    [
        (
            "mine",
            {"rows": [ROW | {"arm": "lung"}]},
            "rows of the suite mine name lung; expected arms of",
        ),
        (
            "mine",
            {"rows": [ROW | {"against": "lung"}]},
            "rows of the suite mine name lung; expected arms of",
        ),
        ("mine", {"params": {"methods": ["seedif"]}}, "'methods' holds ['seedif']"),
        ("größer", {}, "is called 'größer.yaml'; expected letters of English"),
        ("my suite", {}, "is called 'my suite.yaml'; expected letters of English"),
    ],
)
def test_the_plan_refuses_what_the_suite_would_be_refused_for(
    project: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    changes: dict[str, Any],
    words: str,
) -> None:
    """Before anything runs: else DVC would meet it after hours."""
    write_own(project, name=name, **changes)
    before = project.read_bytes()
    for command in (["plan", "--suite", name], ["suites", name]):
        assert main(["--params", str(project), *command]) == 2
        assert words in capsys.readouterr().err
    assert project.read_bytes() == before


def test_a_suite_may_be_for_the_project_s_own_profile(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Own data read by another reader than that of the profile: the project's profile counts."""
    tree = yaml.safe_load((ROOT / "profiles/own_cpu/params.yaml").read_text(encoding="utf-8"))
    tree["dataset"] |= {"name": "coco_panoptic"}
    tree["variants"]["mine"] = tree["variants"]["baseline"] | {"overrides": {"num_steps": 7}}
    project.write_text(yaml.safe_dump(tree), encoding="utf-8")
    write_own(project, profile="own_cpu", rows=[ROW | {"arm": "mine"}], params={})
    assert main(["--params", str(project), "plan", "--suite", "mine"]) == 0
    assert "7 to " in capsys.readouterr().out
    assert main(["--params", str(project), "suites", "mine"]) == 0
    assert [*load_config(project).suite] == ["mine"]


def test_sections_that_are_left_out_have_their_defaults(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = yaml.safe_load(project.read_text(encoding="utf-8"))
    del tree["ablation"], tree["methods"]
    project.write_text(yaml.safe_dump(tree), encoding="utf-8")
    write_own(project)
    assert main(["--params", str(project), "plan", "--suite", "mine"]) == 0
    assert "train_seg       2" in capsys.readouterr().out


def test_a_suite_of_a_list_of_words_has_tests_on_other_datasets(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without test images there is no stage `evaluate`."""
    tree = yaml.safe_load((ROOT / "profiles/words/params.yaml").read_text(encoding="utf-8"))
    tree["dataset"]["class_list"] = [{"id": 0, "name": "car"}]
    tree["classes"] = ["car"]
    project.write_text(yaml.safe_dump(tree), encoding="utf-8")
    rows: list[dict[str, Any]] = [{"label": "a", "arm": "seediff"}]
    write_own(project, profile="words", params={}, rows=rows)
    for command in (["plan", "--suite", "mine"], ["suites", "mine"]):
        assert main(["--params", str(project), *command]) == 2
        words = "name seediff; expected entries of transfer, because a list of words has no test"
        assert words in capsys.readouterr().err
    classes = {"car": {"ours": ["car"], "theirs": ["car"]}}
    test = {"arm": "seediff", "classes": classes}
    test["dataset"] = {"name": "scenes", "reads": "data/code/none.json"}
    rows = [{"label": "a", "arm": "t"}]
    write_own(project, profile="words", params={"transfer": {"t": test}}, rows=rows)
    assert main(["--params", str(project), "plan", "--suite", "mine"]) == 0
    assert main(["--params", str(project), "suites", "mine"]) == 0


def test_the_page_names_arms_and_scores_that_are_nowhere(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The file was changed after it came into params.yaml, so nobody checked its arms."""
    write_own(project)
    assert main(["--params", str(project), "suites", "mine"]) == 0
    scores = {"miou": "mIoU", "mIuo": "typo"}
    write_own(project, scores=scores, rows=[ROW, {"label": "b", "arm": "lung"}])
    paths, config = ProjectPaths(project.parent), load_config(project)
    folder = paths.report("evaluate", "baseline")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps({"seeds": {"0": {"miou": 40.0}}}))
    suite_stage.run(config, paths=paths, item="mine")
    page = (paths.report("suite", "mine") / "suite.md").read_text(encoding="utf-8")
    assert "- b: params.yaml has no arm lung" in page
    assert "No arm that was evaluated has the score mIuo." in page
    assert "has the score mIuo" in caplog.text
