"""Exports of tools: where their files are, and which reader a folder is for."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seggen_core.datasets.recognise import recognise_dataset
from seggen_core.errors import DatasetError, SegGenError
from tests.datasets.damage import STEM, bad_samples, open_
from tests.datasets.layouts import STEMS, WRITERS, save
from tests.datasets.test_tool_layouts import change_json

# --- COCO's format as tools write it -------------------------------------------------------------


def as_roboflow(root: Path) -> None:
    for split, name in (("train", "train"), ("val", "valid")):
        (root / f"{split}2017").rename(root / name)
        (root / "annotations" / f"instances_{split}2017.json").rename(
            root / name / "_annotations.coco.json"
        )
    (root / "annotations").rmdir()


def as_cvat(root: Path) -> None:
    (root / "images").mkdir()
    for split, name in (("train", "Train"), ("val", "Validation")):
        (root / f"{split}2017").rename(root / "images" / name)
        (root / "annotations" / f"instances_{split}2017.json").rename(
            root / "annotations" / f"instances_{name}.json"
        )


def as_label_studio(root: Path) -> None:
    (root / "images").mkdir()
    tree = json.loads((root / "annotations" / "instances_train2017.json").read_text())
    for image in tree["images"]:
        image["file_name"] = f"images/{image['file_name']}"
    (root / "result.json").write_text(json.dumps(tree))
    for path in (root / "train2017").iterdir():
        path.rename(root / "images" / path.name)
    for name in ("annotations", "train2017", "val2017"):
        shutil.rmtree(root / name)


@pytest.mark.parametrize("arrange", [as_roboflow, as_cvat, as_label_studio])
def test_coco_as_tools_export_it(tmp_path: Path, arrange: Callable[[Path], None]) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    published = open_(tmp_path, section)
    before = {k: published.read("train", k) for k in published.keys("train")}
    arrange(tmp_path)
    assert recognise_dataset(tmp_path) == "coco_instance"
    splits = {"splits": "all_from_train"} if arrange is as_label_studio else {}
    reader = open_(tmp_path, section | splits)
    assert bad_samples(reader) == {}
    for key in set(before) & set(reader.keys("train")):
        segmentation_map = reader.read("train", key).segmentation_map
        np.testing.assert_array_equal(segmentation_map, before[key].segmentation_map)


# --- Label Studio --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "/data/upload/3/89abcdef-{}.jpg",
        "/data/local-files/?d=images/train/{}.jpg",
        "s3://bucket/some/{}.jpg",
        "https://host.example/a%20b/{}.jpg?sig=1",
        "images/train/{}.jpg",
    ],
)
def test_images_are_found_wherever_the_server_had_them(tmp_path: Path, path: str) -> None:
    section = WRITERS["label_studio"](tmp_path)

    def edit(tasks: list[dict]) -> None:
        for task, stem in zip(tasks, STEMS["train"], strict=True):
            task["data"] = {"id": "7", "photo": path.format(stem)}

    change_json(tmp_path / "train.json", edit)
    assert bad_samples(open_(tmp_path, section)) == {}


def test_of_several_annotations_one_has_to_be_the_ground_truth(tmp_path: Path) -> None:
    section = WRITERS["label_studio"](tmp_path)

    def twice(tasks: list[dict]) -> None:
        tasks[1]["annotations"] *= 2

    change_json(tmp_path / "train.json", twice)
    reports = bad_samples(open_(tmp_path, section))
    assert "has 2 annotations; expected one, or one that is the ground truth" in reports[STEM]
    change_json(
        tmp_path / "train.json",
        lambda t: t[1].update(
            annotations=[t[1]["annotations"][0], t[1]["annotations"][1] | {"ground_truth": True}]
        ),
    )
    assert bad_samples(open_(tmp_path, section)) == {}
    (tmp_path / "train.json").rename(tmp_path / "a.json")
    (tmp_path / "val.json").rename(tmp_path / "b.json")
    with pytest.raises(DatasetError, match=r"has 2 JSON files: a\.json, b\.json"):
        open_(tmp_path, section)


# --- YOLO ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "old, new, words",
    [
        ("nc: 2", "nc: 3", "has nc 3, but 2 names"),
        ("['wall', 'car']", "3", "has names 3"),
        ("['wall', 'car']", "{0: wall, 2: car}", "has names"),
        ("['wall', 'car']", "['wall', no]", "has names .*in quotes"),
        ("names:", "labels:", "has names None"),
        ("nc: 2", "nc: 2\na: &a [1]\nb: *a", "it has aliases"),
        ("train: ../train/images", "train: [train/images, more]", "for train; expected one folder"),
        ("train: ../train/images", "train: train.txt", "'train.txt' for train; expected one fold"),
        ("val: ../valid/images", "val: {a: 1}", "for val; expected one folder"),
    ],
)
def test_data_yaml_that_contradicts_itself_is_refused(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    section = WRITERS["yolo"](tmp_path)
    path = tmp_path / "data.yaml"
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DatasetError, match=words):
        open_(tmp_path, section)


def test_ultralytics_folders_and_names_by_number(tmp_path: Path) -> None:
    section = WRITERS["yolo"](tmp_path)
    for split, name in (("train", "train"), ("valid", "val")):
        for kind in ("images", "labels"):
            (tmp_path / kind).mkdir(exist_ok=True)
            (tmp_path / split / kind).rename(tmp_path / kind / name)
        (tmp_path / split).rmdir()
    (tmp_path / "data.yaml").write_text(
        "path: .\ntrain: images/train\nval: images/val\nnames:\n  0: wall\n  1: car\n"
    )
    reader = open_(tmp_path, section)
    assert bad_samples(reader) == {} and reader.keys("test") == STEMS["val"]
    # Several folders are read where the user says which one, and one in a list is one.
    path = tmp_path / "data.yaml"
    path.write_text(path.read_text().replace("images/train\n", "[images/train]\n"))
    assert bad_samples(open_(tmp_path, section)) == {}
    path.write_text(path.read_text().replace("[images/train]", "[images/train, images/x]"))
    files = {"train": {"images": "images/train", "annotations": "labels/train"}}
    assert bad_samples(open_(tmp_path, section | {"files": files})) == {}
    (tmp_path / "classes.csv").write_text("id,name\n1,wall\n0,car\n")
    path.write_text(path.read_text().replace("[images/train, images/x]", "images/train"))
    with pytest.raises(DatasetError, match=r"data\.yaml gives 'wall' the number 0, but .* id 1"):
        open_(tmp_path, section)


# --- Recognition ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_every_layout_is_recognised(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path)
    assert recognise_dataset(tmp_path) == name


def test_a_folder_of_no_or_two_layouts_is_refused(tmp_path: Path) -> None:
    save(Image.new("RGB", (4, 4)), tmp_path / "a.jpg")
    with pytest.raises(SegGenError, match=r"laid out for no reader \(.*1 \.jpg"):
        recognise_dataset(tmp_path)
    WRITERS["cvat"](tmp_path)
    WRITERS["voc"](tmp_path)
    with pytest.raises(SegGenError, match="is laid out for cvat and for voc; expected one"):
        recognise_dataset(tmp_path)
    with pytest.raises(SegGenError, match="is not a folder"):
        recognise_dataset(tmp_path / "x")
