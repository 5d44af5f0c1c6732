"""`seggen new` in a folder: what it writes, keeps and refuses."""

import subprocess
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from seggen_core.cli import STAGES, main
from seggen_core.config import load_config
from seggen_core.project.shipped import shipped, version
from tests.project.test_storage import file_limit

ROOT = Path(__file__).parents[2]
PROFILES = sorted(path.parent.name for path in (ROOT / "profiles").glob("*/params.yaml"))


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".git" not in path.relative_to(folder).parts
    }


def new(folder: Path, *options: str) -> int:
    return main(["new", str(folder), *options])


@pytest.mark.parametrize("profile", PROFILES)
def test_every_file_that_the_parameters_name_is_there(tmp_path: Path, profile: str) -> None:
    assert new(tmp_path / "mine", "--profile", profile) == 0
    config = load_config(tmp_path / "mine" / "params.yaml")
    assert config.profile == profile
    named = {str(config.captions.edits), str(config.foundation.reads)}
    named -= {"data/code/none.json", "None"}  # a list of words has no captions
    assert named and [name for name in named if not (tmp_path / "mine" / name).exists()] == []


def test_dvc_reads_the_pipeline_of_a_new_project(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    assert new(folder) == 0
    assert subprocess.run(["git", "-C", str(folder), "rev-parse"], check=False).returncode == 0
    with Repo(str(folder)) as repo:
        stages = {stage.name: stage for stage in repo.index.stages}
    declared = yaml.safe_load((folder / "dvc.yaml").read_text())["stages"]
    assert set(declared) == {"code", *STAGES} >= {name.partition("@")[0] for name in stages}
    read = {dep.def_path for stage in stages.values() for dep in stage.deps}
    assert not [path for path in read if path.startswith("seggen_core")]
    assert stages["code"].always_changed
    assert (folder / "requirements.txt").read_text() == f"seggen[pipeline]=={version()}\n"


def test_the_next_command_can_be_pasted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(tmp_path / "with space") == 0
    assert f"next: cd '{tmp_path}/with space', then: dvc repro ablation" in capsys.readouterr().out
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert new(Path()) == 0
    assert "next: dvc repro ablation" in capsys.readouterr().out


def test_a_repository_keeps_what_it_has(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine\n")
    (tmp_path / ".gitignore").write_text("/secret\n__pycache__/\n")
    assert new(tmp_path) == 0
    lines = (tmp_path / ".gitignore").read_text().splitlines()
    assert lines[:2] == ["/secret", "__pycache__/"] and lines.count("__pycache__/") == 1
    assert set(shipped(".gitignore").read_text().splitlines()) <= set(lines)
    assert (tmp_path / "README.md").read_text() == "mine\n"


def test_a_project_below_a_repository_makes_no_second_one(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    assert new(tmp_path / "below" / "mine") == 0
    assert not (tmp_path / "below" / "mine" / ".git").exists()


def test_without_git_dvc_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert new(tmp_path / "mine") == 0
    with Repo(str(tmp_path / "mine")) as repo:
        assert repo.config["core"]["no_scm"] and repo.index.stages


@pytest.mark.parametrize(
    "name", ["dvc.yaml", "params.yaml", "profiles/mine/params.yaml", "workspace.yaml"]
)
def test_nothing_is_replaced(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine\n")
    before = files(tmp_path)
    assert new(tmp_path) == 2
    assert name.partition("/")[0] in capsys.readouterr().err
    assert files(tmp_path) == before


@pytest.mark.usefixtures("capsys")  # what is captured in a file would meet the limit, too
@pytest.mark.parametrize("limit", [100, 10_000, 100_000])
def test_after_a_full_disk_the_same_command_goes_on(tmp_path: Path, limit: int) -> None:
    assert new(tmp_path / "sound") == 0
    with file_limit(limit):
        assert new(tmp_path / "mine") == 3
    assert not list(tmp_path.rglob("*unfinished*"))
    assert new(tmp_path / "mine") == 0
    assert files(tmp_path / "mine") == files(tmp_path / "sound")


@pytest.mark.parametrize("num_kept", [1, 4, 7])
def test_after_a_kill_the_same_command_goes_on(tmp_path: Path, num_kept: int) -> None:
    assert new(tmp_path) == 0
    whole = files(tmp_path)
    written = ["dvc.yaml", "params.yaml", "requirements.txt", "workspace.yaml", ".dvcignore"]
    for name in [*written, ".dvc/config", ".dvc/.gitignore"][num_kept:]:
        (tmp_path / name).unlink()
    (tmp_path / "profiles/scenes").rename(tmp_path / "profiles/.scenes.unfinished")
    (tmp_path / "profiles/.scenes.unfinished/params.yaml").write_text("pro")
    assert new(tmp_path) == 0
    assert files(tmp_path) == whole


def test_an_update_renews_the_pipeline_and_keeps_what_is_the_users(tmp_path: Path) -> None:
    assert new(tmp_path) == 0
    fresh = files(tmp_path)
    mine = {
        "params.yaml": "profile: mine\n",
        "profiles/scenes/caption_edits.csv": "sample_key,caption\nx,y\n",
    }
    for name, text in mine.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {}}))
    (tmp_path / "requirements.txt").write_text("seggen[pipeline]==0.0.1\n")
    assert new(tmp_path, "--update") == 0
    assert files(tmp_path) == fresh | {name: text.encode() for name, text in mine.items()}


def test_code_of_another_version_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(tmp_path) == 0
    params = str(tmp_path / "params.yaml")
    assert main(["--params", params, "code"]) == 0
    (tmp_path / "requirements.txt").write_text("torch\nseggen[pipeline]==0.0.1\n")
    capsys.readouterr()
    assert main(["--params", params, "code"]) == 2
    assert "seggen new --update" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (["--profile", "nope"], "there are: ade20k"),
        (["--update"], "no project to update"),
    ],
)
def test_what_is_not_there_is_said(
    tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert new(tmp_path / "mine", *options) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "mine").exists()


def test_a_file_in_the_place_of_the_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("")
    assert new(tmp_path / "mine") == 2
    assert "no folder" in capsys.readouterr().err


def test_a_folder_below_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert new(tmp_path / "file" / "mine") in (2, 3)
    assert str(tmp_path / "file") in capsys.readouterr().err
