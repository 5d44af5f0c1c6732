"""Values of COCO's JSON that Python takes for others, and that contradict the masks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seggen_core.errors import DatasetError
from tests.datasets.damage import STEM, bad_samples, change_json, open_
from tests.datasets.layouts import WRITERS


def change_all(root: Path, change: Callable[[dict], Any]) -> None:
    for path in (root / "annotations").glob("*.json"):
        change_json(path, change)


def each_segment(tree: dict) -> list[dict]:
    """Whatever has a category: annotations, or their segments."""
    return [s for a in tree["annotations"] for s in a.get("segments_info", [a])]


@pytest.mark.parametrize("write", [str, float, bool])
@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
def test_crowds_are_what_iscrowd_says_however_it_is_written(
    tmp_path: Path, name: str, write: Callable[[int], object]
) -> None:
    """The text "0" is true in Python."""
    section = WRITERS[name](tmp_path)
    key = "a_000000"

    def maps() -> list[np.ndarray | None]:
        sample = open_(tmp_path, section).read("train", key)
        return [sample.segmentation_map, sample.instance_map]

    before = maps()

    def change(tree: dict) -> None:
        for segment in each_segment(tree):
            segment["iscrowd"] = write(segment.get("iscrowd", 0))

    change_all(tmp_path, change)
    for map_before, map_after in zip(before, maps(), strict=True):
        np.testing.assert_array_equal(map_before, map_after)


@pytest.mark.parametrize("value", ["no", 2, None, [0]])
@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
def test_an_iscrowd_that_is_neither_is_refused(tmp_path: Path, name: str, value: object) -> None:
    section = WRITERS[name](tmp_path)
    change_all(tmp_path, lambda tree: each_segment(tree)[0].update(iscrowd=value))
    try:
        report = " ".join(bad_samples(open_(tmp_path, section)).values())
    except DatasetError as error:
        report = str(error)
    assert "iscrowd is" in report and "not 0 or 1" in report


@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
def test_ids_are_whole_numbers_however_they_are_written(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)

    def change(tree: dict, write: Callable[[int], object]) -> None:
        for annotation in tree["annotations"]:
            annotation["image_id"] = write(annotation["image_id"])

    change_all(tmp_path, lambda tree: change(tree, float))
    assert bad_samples(open_(tmp_path, section)) == {}
    change_all(tmp_path, lambda tree: change(tree, lambda i: i + 0.5))
    with pytest.raises(DatasetError, match=r"byte \d+: ValueError\('5\.5 is no whole number'\)"):
        open_(tmp_path, section)


def test_panoptic_segments_that_the_map_does_not_show_are_reported(tmp_path: Path) -> None:
    section = WRITERS["coco_panoptic"](tmp_path)

    def change(tree: dict) -> None:
        segments = tree["annotations"][1]["segments_info"]
        segments += [{"id": 4000 + i, "category_id": 3} for i in range(len(segments))]

    change_json(tmp_path / "annotations" / "panoptic_train2017.json", change)
    reports = bad_samples(open_(tmp_path, section))
    assert list(reports) == [STEM]
    words = "describes 8 segments, of which 4 (4000, 4001, 4002, 4003) have no pixel in"
    assert words in reports[STEM] and "panoptic_train2017/a_000001.png" in reports[STEM]


@pytest.mark.parametrize(
    "bbox, is_reported", [([10, 2, 6, 4], True), ([2, 10, 4, 6], False), ([0, 0, 1, 1], False)]
)
def test_polygons_with_y_before_x_are_reported_where_boxes_tell(
    tmp_path: Path, bbox: list[int], is_reported: bool
) -> None:
    section = WRITERS["coco_instance"](tmp_path)

    def change(tree: dict) -> None:
        for annotation in tree["annotations"]:
            polygon = [2, 10, 2, 16, 6, 16, 6, 10]
            annotation |= {"segmentation": [polygon], "bbox": bbox, "iscrowd": 0}

    change_all(tmp_path, change)
    reports = bad_samples(open_(tmp_path, section))
    assert len(reports) == 5 * is_reported
    assert all("where x and y are exchanged" in report for report in reports.values())


def test_boxes_alone_are_called_no_masks(tmp_path: Path) -> None:
    section = WRITERS["coco_instance"](tmp_path)

    def change(tree: dict) -> None:
        for annotation in tree["annotations"]:
            annotation |= {"segmentation": [], "bbox": [0, 0, 8, 8]}

    change_all(tmp_path, change)
    reports = bad_samples(open_(tmp_path, section)).values()
    assert all("a box alone is no mask" in report for report in reports) and reports


def animals(*groups: str) -> Callable[[dict], None]:
    """Categories 1, 3, 90 and 187 with these supercategories."""
    names = ("animal", "cat", "dog", "car")

    def change(tree: dict) -> None:
        tree["categories"] = [
            {"id": i, "name": name, "supercategory": group, "isthing": 1}
            for i, name, group in zip((1, 3, 90, 187), names, groups, strict=True)
        ]
        for annotation in tree["annotations"]:
            annotation["iscrowd"] = 0

    return change


@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
def test_a_category_above_some_others_is_a_class(tmp_path: Path, name: str) -> None:
    """Only the supercategory of all others is what Roboflow makes of a project's name."""
    section = WRITERS[name](tmp_path)
    change_all(tmp_path, animals("none", "animal", "animal", "none"))
    reader = open_(tmp_path, section)
    assert reader.taxonomy.slugs == ["animal", "cat", "dog", "car"]
    assert bad_samples(reader) == {}

    change_all(tmp_path, animals("none", "animal", "animal", "animal"))
    reader = open_(tmp_path, section)
    assert reader.taxonomy.slugs == ["cat", "dog", "car"]
    for report in bad_samples(reader).values():
        assert "'animal' is taken for a group" in report and "dataset.classes_file" in report
    (tmp_path / "mine.csv").write_text("id,name\n1,animal\n3,cat\n90,dog\n187,car\n")
    reader = open_(tmp_path, section | {"classes_file": "mine.csv"})
    assert reader.taxonomy.slugs == ["animal", "cat", "dog", "car"]
    assert bad_samples(reader) == {}
