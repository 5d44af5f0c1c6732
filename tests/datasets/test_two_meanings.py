"""Annotations that a reader could draw, and that mean something else or are of another image."""

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.errors import ConfigError, DatasetError
from tests.datasets.damage import STEM, bad_samples, change_json, open_
from tests.datasets.layouts import WRITERS, blocks


def regions_of(change: Callable[[list[dict]], Any]) -> Callable[[Any], None]:
    def change_tasks(tasks: Any) -> None:
        change(tasks[1]["annotations"][0]["result"])

    return change_tasks


def on_another_image(regions: list[dict]) -> None:
    for i, region in enumerate(regions):
        region["to_name"] = f"img{min(i, 1)}"


def by_the_tag_labels(regions: list[dict]) -> None:
    value = regions[1]["value"]
    label = value.pop("polygonlabels")
    regions[1]["type"] = "polygon"
    regions.append(regions[1] | {"type": "labels", "value": value | {"labels": label}})


LABEL_STUDIO: dict[str, tuple[Callable[[list[dict]], Any], str]] = {
    "two images": (on_another_image, "its regions are on several images: img0, img1"),
    "another page": (lambda r: r[1].update(item_index=1), "its regions are on several images"),
    "labels": (by_the_tag_labels, "a region has the type 'polygon', whose area isn't read"),
    "bit masks": (
        lambda r: r.append({"type": "bitmasklabels", "value": {}}),
        "a region has the type 'bitmasklabels', whose area isn't read",
    ),
}


@pytest.mark.parametrize("case", LABEL_STUDIO)
def test_regions_that_would_be_left_out_or_misplaced_are_reported(
    tmp_path: Path, case: str
) -> None:
    change, words = LABEL_STUDIO[case]
    for root in (tmp_path / "one", tmp_path / "all"):
        root.mkdir()
        section = WRITERS["label_studio"](root)
    change_json(tmp_path / "one" / "train.json", regions_of(change))
    reports = bad_samples(open_(tmp_path / "one", section))
    assert list(reports) == [STEM] and words in reports[STEM]

    def change_all(tasks: Any) -> None:
        for task in tasks:
            regions = task["annotations"][0]["result"]
            del regions[2:]
            change(regions)

    for path in (tmp_path / "all").glob("*.json"):
        change_json(path, change_all)
    with pytest.raises(
        DatasetError, match=r"no task in .* can be read; .*train\.json, task of"
    ) as caught:
        open_(tmp_path / "all", section)
    assert words in str(caught.value)


def test_of_several_images_of_a_task_one_is_called_image(tmp_path: Path) -> None:
    section = WRITERS["label_studio"](tmp_path)

    def change(tasks: Any, names: tuple[str, str]) -> None:
        for task in tasks:
            (upload,) = (v for v in task["data"].values() if "abcd-" in v)
            task["data"] = {names[0]: upload, names[1]: "/data/upload/3/other.jpg"}

    for path in tmp_path.glob("*.json"):
        change_json(path, lambda tasks: change(tasks, ("image", "source")))
    assert bad_samples(open_(tmp_path, section)) == {}
    for path in tmp_path.glob("*.json"):
        change_json(path, lambda tasks: change(tasks, ("before", "after")))
    with pytest.raises(DatasetError, match=r"a task names several images \(data/upload"):
        open_(tmp_path, section)


def test_an_annotation_that_is_no_object_is_reported(tmp_path: Path) -> None:
    section = WRITERS["label_studio"](tmp_path)
    change_json(tmp_path / "train.json", lambda tasks: tasks[1].update(annotations=["x"]))
    assert "lacks 'annotations'" in bad_samples(open_(tmp_path, section))[STEM]


def test_key_points_of_yolo_are_no_polygons(tmp_path: Path) -> None:
    section = WRITERS["yolo"](tmp_path)
    path = tmp_path / "data.yaml"
    path.write_text(path.read_text() + "kpt_shape: [4, 2]\n")
    with pytest.raises(DatasetError, match=r"data\.yaml has kpt_shape.* of the task segment"):
        open_(tmp_path, section)


@pytest.mark.parametrize("name", ["coco_instance", "cvat", "label_studio", "labelme", "yolo"])
def test_a_background_that_the_class_list_ignores_is_refused(tmp_path: Path, name: str) -> None:
    """Shapes of that name would be ignored, and what lies around them would be the class."""
    section = WRITERS[name](tmp_path)
    rows = ["0,wall,", "1,car,", "2,Void area,yes"]
    if name == "coco_instance":

        def change(tree: dict) -> None:
            tree["categories"] = [{"id": i, "name": f"c{i}"} for i in (1, 3, 90)]

        for path in (tmp_path / "annotations").glob("*.json"):
            change_json(path, change)
        rows = ["3,c3,", "90,c90,", "1,c1,yes"]
    (tmp_path / "mine.csv").write_text("\n".join(["id,name,ignore", *rows, ""]))
    ignored = rows[-1].split(",")[1]
    section |= {"classes_file": "mine.csv", "background": ignored.lower()}
    if name == "coco_instance":
        section["crowds"] = "ignore"
    with pytest.raises(ConfigError, match=rf"background is .*mine\.csv ignores '{ignored}'"):
        open_(tmp_path, section)


@pytest.mark.parametrize(
    "name, place, values",
    [
        ("cityscapes", "gtFine/*/*/*_instanceIds.png", [7, 24001, 24001, 26007, 3, 26]),
        ("mapillary", "*/instances/*.png", [0, 1, 512, 2, 0, 0]),
    ],
)
def test_instance_maps_that_name_other_classes_are_reported(
    tmp_path: Path, name: str, place: str, values: list[int]
) -> None:
    section = WRITERS[name](tmp_path)
    assert bad_samples(open_(tmp_path, section)) == {}
    for path in tmp_path.glob(place):
        Image.fromarray(blocks(values, dtype=np.uint16)).save(path)
    reader = open_(tmp_path, section)
    reports = bad_samples(reader)
    assert len(reports) == 5
    for report in reports.values():
        assert "contradicts its mask: at" in report and "names another class" in report
    pickle.dumps(reader)


def test_train_ids_of_cityscapes_are_no_label_ids(tmp_path: Path) -> None:
    section = WRITERS["cityscapes"](tmp_path)
    files = {"train": {"mask_ending": "_gtFine_labelTrainIds"}}
    with pytest.raises(ConfigError, match=r"files\.train\.mask_ending .*whose masks hold train"):
        open_(tmp_path, section | {"files": files})
