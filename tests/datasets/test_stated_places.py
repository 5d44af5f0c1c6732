"""`dataset.files` says where files are: a key of it changes what is read, or is refused."""

import re
from pathlib import Path

import pytest

from seggen_core.config import SplitFiles
from seggen_core.datasets.reader import SPLITS
from seggen_core.errors import DatasetError, SegGenError
from tests.datasets.damage import bad_samples, change_json, open_
from tests.datasets.layouts import WRITERS


@pytest.mark.parametrize("key", SplitFiles.model_fields)
@pytest.mark.parametrize("name", WRITERS)
def test_no_place_that_the_user_states_is_left_unread(tmp_path: Path, name: str, key: str) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root)
    before = open_(root, section)
    stated = section | {"files": {"train": {key: "nowhere"}}}
    try:
        reader = open_(root, stated)
    except SegGenError:
        with pytest.raises(SegGenError, match=rf"dataset\.files\.train\.{key}|nowhere"):
            open_(root, stated)
        return
    keys = {split: reader.keys(split) for split in SPLITS}
    assert bad_samples(reader) or keys != {split: before.keys(split) for split in SPLITS}


@pytest.mark.parametrize("name", WRITERS)
def test_the_samples_of_a_list_are_read_and_no_others(tmp_path: Path, name: str) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root)
    before = open_(root, section)
    listed = sorted([*before.keys("train"), *before.keys("val")])[:2]
    (root / "some.txt").write_text("\r\n".join(listed))
    reader = open_(root, section | {"files": {"train": {"keys": "some.txt"}}})
    assert sorted([*reader.keys("train"), *reader.keys("val")]) == listed
    assert bad_samples(reader) == {}
    (root / "some.txt").write_text("\n".join([*listed, "nobody"]))
    reader = open_(root, section | {"files": {"train": {"keys": "some.txt"}}})
    (report,) = bad_samples(reader).values()
    assert "nobody" in report


@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
def test_suffixes_in_a_list_of_cocos_samples_are_called_that(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    (tmp_path / "some.txt").write_text("a_000000.jpg\na_000001.jpg\n")
    reader = open_(tmp_path, section | {"files": {"train": {"keys": "some.txt"}}})
    for report in bad_samples(reader).values():
        assert "the list of samples has its suffix" in report


def test_places_of_a_split_that_is_not_read_are_noted(tmp_path: Path) -> None:
    section = WRITERS["coco_instance"](tmp_path) | {"files": {"test": {"images": "nowhere"}}}
    note = "dataset.files.test isn't read, because dataset.splits is val_as_test"
    assert note in open_(tmp_path, section).notes


@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic", "cvat", "label_studio"])
def test_names_with_backslashes_are_found(tmp_path: Path, name: str) -> None:
    """Tools that run on Windows write them."""
    section = WRITERS[name](tmp_path)
    if name == "cvat":
        path = tmp_path / "annotations.xml"
        text = re.sub(r'name="([ab]_)', r'name="train\\\1', path.read_text())
        path.write_text(re.sub(r'name="(c_)', r'name="val\\\1', text))
    elif name == "label_studio":
        for path in tmp_path.glob("*.json"):
            path.write_text(path.read_text().replace("/data/upload/3/", "task\\\\"))
    else:
        for path in (tmp_path / "annotations").glob("*.json"):
            folder = f"{path.stem.rpartition('_')[2]}\\"

            def change(tree: dict, folder: str = folder) -> None:
                for image in tree["images"]:
                    image["file_name"] = folder + image["file_name"]

            change_json(path, change)
    assert bad_samples(open_(tmp_path, section)) == {}


@pytest.mark.parametrize("key", SplitFiles.model_fields)
@pytest.mark.parametrize("name", WRITERS)
def test_places_of_a_split_that_is_not_there_are_refused_by_name(
    tmp_path: Path, name: str, key: str
) -> None:
    """A split that the layout lacks may be named by all of its keys, or by one too few."""
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root) | {"splits": "published", "files": {"test": {key: "nowhere"}}}
    try:
        reader = open_(root, section)
    except SegGenError:
        return
    assert any("nowhere" in report for report in bad_samples(reader).values())


@pytest.mark.parametrize("place", [{"images": "images"}, {"annotations": "result.json"}])
def test_half_of_a_split_of_coco_is_refused(tmp_path: Path, place: dict[str, str]) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    (tmp_path / "annotations" / "instances_train2017.json").rename(tmp_path / "result.json")
    (tmp_path / "train2017").rename(tmp_path / "images")
    section |= {"splits": "published", "files": {"val": place}}
    with pytest.raises(DatasetError, match=r"dataset\.files\.val doesn't name both"):
        open_(tmp_path, section)
