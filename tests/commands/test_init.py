"""`seggen init`: a parameter file from a profile.

The dataset's place and classes are set, and every comment is kept.
"""

import shutil
from pathlib import Path

import pytest
import yaml

from seggen_core.cli import main
from seggen_core.commands.init import set_key
from seggen_core.config import load_config
from tests.datasets.layouts import WRITERS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for path in ROOT.glob("profiles/*/params.yaml"):
        (tmp_path / "profiles" / path.parent.name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "profiles" / path.parent.name)
    return tmp_path


def init(project: Path, *arguments: str) -> int:
    return main(["--params", str(project / "params.yaml"), "init", *arguments])


def shrink(project: Path, profile: str) -> None:
    """The tiny datasets have fewer samples than the profiles hold out."""
    path = project / "profiles" / profile / "params.yaml"
    text = path.read_text()
    for count in (37, 100, 200, 500):
        text = text.replace(f"  num_val: {count}\n", "  num_val: 1\n")
    path.write_text(text.replace("  use_sbd: true", "  use_sbd: false"))


@pytest.mark.parametrize("name", WRITERS)
def test_every_dataset_gets_a_file_that_works(
    project: Path, name: str, capsys: pytest.CaptureFixture
) -> None:
    profile = name if (project / "profiles" / name).is_dir() else "ade20k"
    shrink(project, profile)
    data = project / "my data" / name
    data.mkdir(parents=True)
    WRITERS[name](data)
    if name == "mapillary":  # eight classes are more than one tiny map has
        assert (data / "config.json").is_file()
    assert init(project, "--dataset", name, "--root", str(data)) == 0
    config = load_config(project / "params.yaml")
    assert config.dataset.name == name and config.dataset.root == Path(f"my data/{name}")
    assert f"with the profile {profile}" in capsys.readouterr().out
    before = yaml.safe_load((project / "profiles" / profile / "params.yaml").read_text())
    after = yaml.safe_load((project / "params.yaml").read_text())
    assert {k for k in before if before[k] != after[k]} <= {"dataset", "classes"}
    assert {k for k in after["dataset"] if after["dataset"][k] != before["dataset"].get(k)} <= {
        "name",
        "root",
    }
    comments = [
        line
        for line in (project / "profiles" / profile / "params.yaml").read_text().splitlines()
        if line.strip()[:1] == "#"
    ]
    assert set(comments) <= set((project / "params.yaml").read_text().splitlines())


def test_nothing_is_replaced_unless_asked(project: Path, capsys: pytest.CaptureFixture) -> None:
    (project / "params.yaml").write_text("mine: true\n")
    shrink(project, "camvid")
    WRITERS["camvid"](project / "data")
    arguments = ("--dataset", "camvid", "--root", str(project / "data"))
    assert init(project, *arguments) == 2
    assert "exists; --force replaces it" in capsys.readouterr().err
    assert (project / "params.yaml").read_text() == "mine: true\n"
    assert init(project, *arguments, "--force") == 0
    assert load_config(project / "params.yaml").profile == "camvid"


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("--dataset", "imagenet", "--root", "."), "there is no profile 'imagenet'"),
        (("--dataset", "ade20k"), "give its folder as --root"),
        (("--dataset", "ade20k", "--root", "nowhere"), "is not a folder"),
        (("--dataset", "camvid", "--root", "."), "is missing"),
    ],
)
def test_what_can_not_be_opened_is_not_written(
    project: Path, arguments: tuple[str, ...], words: str, capsys: pytest.CaptureFixture
) -> None:
    assert init(project, *arguments) == 2
    assert words in capsys.readouterr().err
    assert not (project / "params.yaml").exists()


def test_scenes_need_no_root(project: Path) -> None:
    assert init(project, "--dataset", "scenes") == 0
    assert (project / "params.yaml").read_text() == (
        ROOT / "profiles" / "scenes" / "params.yaml"
    ).read_text()


def test_a_key_is_set_where_it_is_and_nowhere_else() -> None:
    text = (
        "a: 1\nclasses: [x,\n  y]\n\ndataset:\n  # where\n  root: null # here\n  name: q\n"
        "other:\n  root: 5\n"
    )
    changed = set_key(set_key(text, "root", 'a "b" ü', section="dataset"), "classes", ["z"])
    assert yaml.safe_load(changed) == {
        "a": 1,
        "classes": ["z"],
        "dataset": {"root": 'a "b" ü', "name": "q"},
        "other": {"root": 5},
    }
    assert "  # where\n" in changed
    assert (
        yaml.safe_load(set_key("dataset:\n  name: q\n", "root", "x", section="dataset"))["dataset"][
            "root"
        ]
        == "x"
    )
