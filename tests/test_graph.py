"""dvc.yaml as DVC itself reads it, with commands that only write: which stages a change concerns."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

ROOT = Path(__file__).parent.parent
CLASSES = ["car", "person"]


def write_params(folder: Path, **changes: Any) -> None:
    """The project's parameters for two classes and two arms; `changes` change keys of sections."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["classes"] = CLASSES
    params["foundation"]["reads"] = "seggen_core/generators/foundation.py"
    params["variants"] = {
        name: params["variants"][name] for name in ("masksyn_imgsyn", "full_real")
    }
    for section, keys in changes.items():
        params[section] |= keys
    (folder / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")


def writes(out: str) -> str:
    """A command that makes `out`: a file where it has a suffix, else a folder with a file for each class."""
    if Path(out).suffix:
        return f"mkdir -p {Path(out).parent} && echo {out} > {out}"
    return " && ".join(
        [f"mkdir -p {out}", *(f"echo {out} > {out}/{name}.parquet" for name in ("index", *CLASSES))]
    )


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage has run."""
    folder = tmp_path_factory.mktemp("graph")
    shutil.copytree(
        ROOT / "seggen_core", folder / "seggen_core", ignore=shutil.ignore_patterns("__pycache__")
    )
    edits = Path("profiles/scenes/caption_edits.csv")
    (folder / edits).parent.mkdir(parents=True)
    shutil.copy(ROOT / edits, folder / edits)
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))
    for stage in tree["stages"].values():
        body = stage.get("do", stage)
        body["cmd"] = " && ".join(map(writes, body["outs"]))
    (folder / "dvc.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    write_params(
        folder,
        seediff={"prompt_file": "seggen_core/prompts.jsonl", "reads": "seggen_core/prompts.jsonl"},
    )
    (folder / "seggen_core" / "prompts.jsonl").write_text(
        '{"class": "car", "prompt": "a red car"}\n'
    )
    with contextlib.chdir(folder):  # DVC looks for dvc.yaml in the working directory
        Repo.init(no_scm=True).close()
        with Repo() as repo:
            repo.reproduce()
    return folder


@pytest.fixture
def project(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of it that may be changed; the working directory."""
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    with contextlib.chdir(folder):
        yield folder


def stale() -> set[str]:
    """Names of the stages that would run for what they themselves depend on."""
    with Repo() as repo:
        return set(repo.status())


@pytest.mark.usefixtures("project")
def test_a_finished_project_is_up_to_date() -> None:
    assert stale() == set()


def test_a_changed_prompt_file_concerns_the_partitions_that_read_it(project: Path) -> None:
    listed = project / "seggen_core" / "prompts.jsonl"
    listed.write_text('{"class": "car", "prompt": "a blue car"}\n')
    assert stale() == {"seediff@car", "seediff@person"}


def test_templates_concern_the_methods_that_use_them(project: Path) -> None:
    templates = project / "seggen_core" / "synthesis" / "prompt_templates.py"
    templates.write_text("changed = True\n")
    assert stale() == {"diffumask@car", "diffumask@person"}


def test_another_prompt_file_concerns_the_method_that_names_it(project: Path) -> None:
    (project / "mine.jsonl").write_text('{"class": "car", "prompt": "a car"}\n')
    listed = {"prompt_file": "seggen_core/prompts.jsonl", "reads": "seggen_core/prompts.jsonl"}
    write_params(
        project, seediff=listed, diffumask={"prompt_file": "mine.jsonl", "reads": "mine.jsonl"}
    )
    assert stale() == {"diffumask@car", "diffumask@person"}


def test_edited_captions_concern_the_stage_that_reads_them(project: Path) -> None:
    (project / "profiles" / "scenes" / "caption_edits.csv").write_text(
        "sample_key,caption\ntrain-00001,a car\n"
    )
    assert stale() == {"captions"}
