"""`seggen init` takes the splits that the user has, wherever their folders are."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from seggen_core.config import load_config
from seggen_core.datasets.open import open_project_dataset
from tests.commands.test_init import init, write_folder
from tests.datasets.layouts import WRITERS


def in_capitals(root: Path) -> None:
    for kind in ("images", "masks"):
        for split, name in (("train", "Train"), ("val", "Valid"), ("test", "TESTING")):
            (root / kind / split).rename(root / kind / name)


def as_roboflow(root: Path) -> None:
    for split, name in (("train", "train"), ("val", "valid"), ("test", "test")):
        (root / "images" / split).rename(root / name)
        for path in (root / "masks" / split).iterdir():
            path.rename(root / name / f"{path.stem}_mask.png")
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "masks")


def split_first(root: Path) -> None:
    for split in ("train", "val", "test"):
        for kind in ("images", "masks"):
            (root / split).mkdir(exist_ok=True)
            (root / kind / split).rename(root / split / kind)
    shutil.rmtree(root / "images")
    shutil.rmtree(root / "masks")


@pytest.mark.parametrize("arrange", [in_capitals, as_roboflow, split_first])
def test_own_splits_are_taken_wherever_their_folders_are(
    project: Path, arrange: Callable[[Path], None], capsys: pytest.CaptureFixture
) -> None:
    root = write_folder(project / "ds", train=10, val=3, test=4)
    arrange(root)
    assert init(project, "--dataset", "folder", "--root", str(root)) == 0
    assert "train 10, val 3, test 4" in capsys.readouterr().out
    reader = open_project_dataset(load_config(project / "params.yaml"), base=project)
    assert reader.keys("test") == [f"test{i}" for i in range(4)]


@pytest.mark.parametrize("removed", ["masks/test", "masks/test/*"])
def test_a_test_split_without_masks_is_left_out_with_a_note(
    project: Path, removed: str, capsys: pytest.CaptureFixture
) -> None:
    root = write_folder(project / "ds", train=10, val=3, test=4)
    for path in list(root.glob(removed)):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert init(project, "--dataset", "folder", "--root", str(root)) == 0
    text = capsys.readouterr().out
    assert "images/test has no masks and isn't read; val is the test split" in text
    assert "train 9, val 1, test 3" in text


def test_folders_that_are_called_as_no_split_are_noted(project: Path) -> None:
    root = write_folder(project / "ds", train=10, val=3, test=4)
    for kind in ("images", "masks"):
        for split, name in (("train", "trn"), ("val", "dev"), ("test", "x")):
            (root / kind / split).rename(root / kind / name)
    assert init(project, "--dataset", "folder", "--root", str(root)) == 0
    notes = open_project_dataset(load_config(project / "params.yaml"), base=project).notes
    assert any("(dev, trn, x) are called as no split" in note for note in notes)


def test_a_bad_first_test_sample_costs_no_test_split(
    project: Path, capsys: pytest.CaptureFixture
) -> None:
    section = WRITERS["yolo"](project / "ds")
    shutil.copytree(project / "ds" / "valid", project / "ds" / "test")
    first = project / "ds" / "test" / "images" / "c_000000.jpg"
    first.write_bytes(b"")
    arguments = ("--dataset", section["name"], "--root", str(project / "ds"), "--gpu-memory", "0")
    assert init(project, *arguments) == 0
    assert "train 3, val 2, test 2" in capsys.readouterr().out
    # None of them can be read: that is said.
    (project / "ds" / "test" / "images" / "c_000001.jpg").write_bytes(b"")
    assert init(project, *arguments, "--force") == 0
    text = capsys.readouterr().out
    assert "the test split isn't read, because no sample of it can be: " in text
    assert "is empty (0 bytes)" in text and "train 2, val 1, test 2" in text
