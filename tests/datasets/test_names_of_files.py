"""Names that no console can show, and names that almost fit."""

import os
import re
from pathlib import Path

import pytest

from seggen_core.datasets.files import printable
from seggen_core.datasets.validate import validate_project
from seggen_core.project.paths import ProjectPaths
from tests.datasets.damage import IMAGES, MASKS, bad_samples, open_
from tests.datasets.layouts import WRITERS
from tests.datasets.test_cross_checks import read

STEM = "a_000001"
NAMED_ELSEWHERE = ("coco_instance", "coco_panoptic", "cvat", "voc", "voc2012")
"""Readers whose samples are those that a file names."""

LATIN_1 = os.fsdecode(b"S\xfcd")


def rename(path: Path, stem: str) -> None:
    path.rename(path.with_name(path.name.replace(STEM, stem)))


@pytest.mark.parametrize("which", ["image", "mask", "both"])
@pytest.mark.parametrize("name", IMAGES)
def test_a_name_that_is_not_utf_8_is_reported_and_can_be_printed(
    tmp_path: Path, name: str, which: str
) -> None:
    """Archives that Windows packed have such names; every message about them was a traceback."""
    if which != "image" and name not in MASKS:
        pytest.skip("it has no masks")
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root)
    if which != "mask":
        rename(root / IMAGES[name].format(STEM), LATIN_1)
    if which != "image":
        rename(root / MASKS[name].format(STEM), LATIN_1)
    reader = open_(root, section)
    reports = {**bad_samples(reader), **bad_samples(reader, headers=True)}
    assert reports
    "".join([*reports, *reports.values()]).encode()
    text = " ".join(reports.values())
    if name not in NAMED_ELSEWHERE:
        assert "has a name that isn't UTF-8" in text and r"S\udcfcd" in text
    config, _ = read(root, section)
    report = validate_project(config, paths=ProjectPaths(tmp_path))
    report.render().encode()
    assert report.problems


def test_what_consoles_obey_is_escaped(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS["camvid"](root)
    rename(root / IMAGES["camvid"].format(STEM), "a\x1b[31m\nproblem: none")
    config, _ = read(root, section)
    text = validate_project(config, paths=ProjectPaths(tmp_path)).render()
    assert "\x1b" not in text and "\nproblem: none" not in text
    assert r"a\x1b[31m\nproblem: none" in text
    assert printable("Öl 道路\n") == "Öl 道路\\n"


@pytest.mark.parametrize("name", [*MASKS, "yolo"])
def test_a_message_about_absence_names_files_that_are_called_otherwise(
    tmp_path: Path, name: str
) -> None:
    """Names with more in front: "mask_0001.png"."""
    section = WRITERS[name](tmp_path)
    places = MASKS | {"yolo": "train/labels/{}.txt"}
    folder = (tmp_path / places[name]).parent
    for path in folder.iterdir():
        path.rename(folder / f"x_{path.name}")
    reports = bad_samples(open_(tmp_path, section))
    words = re.compile(r"which holds no file called so, but \S+\.(png|txt)")
    assert any(words.search(report) for report in reports.values())
