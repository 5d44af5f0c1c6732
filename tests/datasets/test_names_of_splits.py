"""What the user calls a split is that split, however it is spelt; nothing is lost in silence."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.recognise import recognise_dataset
from seggen_core.errors import DatasetError
from tests.datasets.damage import bad_samples, change_json, open_
from tests.datasets.layouts import WRITERS


def capitalize(root: Path) -> None:
    """Write each name of a split, of folders and of files, with a capital letter."""
    for path in sorted(root.rglob("*"), reverse=True):
        stem = path.name.partition(".")[0]
        if stem in ("train", "val", "valid", "Train", "Val"):
            path.rename(path.with_name(path.name.capitalize()))


def roboflow_coco(root: Path) -> dict[str, object]:
    section = WRITERS["coco_instance"](root)
    for split in ("train", "val"):
        (root / f"{split}2017").rename(root / split)
        file = root / "annotations" / f"instances_{split}2017.json"
        file.rename(root / split / "_annotations.coco.json")
    (root / "annotations").rmdir()
    return section


LAYOUTS: dict[str, Callable[[Path], dict]] = {
    name: WRITERS[name] for name in ("folder", "label_studio", "labelme", "voc", "yolo")
} | {"coco_instance": roboflow_coco}


@pytest.mark.parametrize("name", LAYOUTS)
def test_splits_are_found_in_capital_letters(tmp_path: Path, name: str) -> None:
    """A folder Val that isn't seen as a split would be trained on."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    section = LAYOUTS[name](tmp_path / "a")
    LAYOUTS[name](tmp_path / "b")
    capitalize(tmp_path / "b")
    first, second = (open_(tmp_path / x, section | {"splits": "val_as_test"}) for x in "ab")
    assert [first.keys(s) for s in SPLITS] == [second.keys(s) for s in SPLITS]
    assert bad_samples(second) == {}
    assert recognise_dataset(tmp_path / "b") == section["name"]


def lose_train(root: Path, name: str) -> None:
    """Call the training split as none is called."""
    if name == "huggingface":
        (path,) = (root / "data").glob("train-*")
        path.rename(root / "data" / "pool-00000-of-00001.parquet")
        return
    for path in sorted(root.rglob("*"), reverse=True):
        if path.name.partition(".")[0].lower() == "train":
            path.rename(path.with_name(path.name.lower().replace("train", "pool")))


@pytest.mark.parametrize("name", [*LAYOUTS, "huggingface"])
def test_other_splits_without_train_are_refused(tmp_path: Path, name: str) -> None:
    section = (WRITERS | LAYOUTS)[name](tmp_path)
    lose_train(tmp_path, name)
    with pytest.raises(DatasetError, match=r"train"):
        open_(tmp_path, section)


def test_subsets_of_cvat_without_train_are_refused(tmp_path: Path) -> None:
    section = WRITERS["cvat"](tmp_path)
    path = tmp_path / "annotations.xml"
    path.write_text(path.read_text().replace('subset="train"', 'subset="Test"'))
    with pytest.raises(DatasetError, match=r"annotations\.xml has .*, but no subset for train"):
        open_(tmp_path, section)
    path.write_text(path.read_text().replace('subset="Test"', 'subset="Validation"'))
    assert len(open_(tmp_path, section | {"splits": "all_from_train"}).keys("train")) == 3


def test_subsets_called_default_are_train_beside_lists_of_other_splits(tmp_path: Path) -> None:
    section = WRITERS["voc"](tmp_path)
    lists = tmp_path / "ImageSets" / "Segmentation"
    (lists / "Train.txt").rename(lists / "default.txt")
    (lists / "Val.txt").rename(lists / "Test.txt")
    reader = open_(tmp_path, section | {"splits": "val_from_train"})
    assert reader.keys("test") == ["c_000000", "c_000001"]
    assert not {"c_000000", "c_000001"} & {*reader.keys("train"), *reader.keys("val")}


def test_what_is_in_no_split_is_noted(tmp_path: Path) -> None:
    roots = {name: tmp_path / name for name in ("cvat", "huggingface", "labelme", "yolo")}
    sections = {}
    for name, root in roots.items():
        root.mkdir()
        sections[name] = WRITERS[name](root)
    path = roots["cvat"] / "annotations.xml"
    path.write_text(path.read_text().replace('subset="Validation"', 'subset="holdout"'))
    data = roots["huggingface"] / "data"
    table = pq.read_table(next(data.glob("validation-*")))
    pq.write_table(table, data / "holdout-00000-of-00001.parquet")
    shutil.copy(roots["labelme"] / "train" / "a_000000.jpg", roots["labelme"] / "loose.jpg")
    path = roots["yolo"] / "data.yaml"
    path.write_text(path.read_text().replace("../valid/images", "../holdout/images"))
    words = {
        "cvat": "subsets 'holdout' are called as no split",
        "huggingface": "data/holdout-00000-of-00001.parquet: called as no split",
        "labelme": "loose.jpg in labelme are in no split and aren't read",
        "yolo": "names ../holdout/images for val, which isn't there; valid/images is read",
    }
    for name, root in roots.items():
        assert words[name] in " ".join(open_(root, sections[name]).notes)


def test_splits_one_folder_further_down_are_not_one_pool(tmp_path: Path) -> None:
    section = WRITERS["labelme"](tmp_path)
    (tmp_path / "images").mkdir()
    for split in ("train", "val"):
        (tmp_path / split).rename(tmp_path / "images" / split)
    with pytest.raises(DatasetError, match=r"images/train and .*images/val are called as splits"):
        open_(tmp_path, section)
    for path in tmp_path.glob("images/*/*.json"):
        change_json(path, lambda tree: tree.update(imagePath=tree["imagePath"].split("\\")[-1]))
    places = {s: {"images": f"images/{s}"} for s in ("train", "val")}
    assert bad_samples(open_(tmp_path, section | {"files": places})) == {}
