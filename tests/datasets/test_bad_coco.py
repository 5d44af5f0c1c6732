"""COCO's JSON with bad entries: they are refused with file, place and reason."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seggen_core.datasets import coco_instance
from seggen_core.datasets.coco_index import index_coco
from seggen_core.errors import DatasetError
from tests.datasets.damage import (
    MASKS,
    STEM,
    bad_samples,
    change_json,
    edit,
    open_,
)
from tests.datasets.layouts import WRITERS


@pytest.mark.parametrize("name", ["coco_panoptic", "coco_instance"])
def test_coco_entries_taken_twice_missing_or_out_of_the_root_are_reported(
    tmp_path: Path, name: str
) -> None:
    section = WRITERS[name](tmp_path)
    path = next((tmp_path / "annotations").glob("*_train2017.json"))
    sound = json.loads(path.read_text())

    def reports_after(change: Callable[[dict], Any]) -> dict[str, str]:
        tree = json.loads(json.dumps(sound))
        change(tree)
        path.write_text(json.dumps(tree))
        return bad_samples(open_(tmp_path, section))

    twice = reports_after(lambda t: t["images"].append(t["images"][1] | {"id": 99}))
    assert (
        list(twice) == [STEM]
        and "has 2 images called a_000001 (a_000001.jpg (id 6), a_000001.jpg (id 99))"
        in twice[STEM]
    )
    unlisted = reports_after(lambda t: t["images"].pop(1))
    assert list(unlisted) == [STEM] and "has no annotation" in unlisted[STEM]
    outside = reports_after(lambda t: t["images"][1].update(file_name="../../../etc/a_000001.jpg"))
    assert list(outside) == [STEM] and "out of" in outside[STEM]
    foreign = reports_after(lambda t: _first_category(t, 6, 999))
    assert list(foreign) == [STEM] and "category_id 999" in foreign[STEM]
    with pytest.raises(DatasetError, match="lists no images"):
        reports_after(lambda t: t.pop("images"))
    with pytest.raises(DatasetError, match=r"byte \d+: KeyError\('image_id'\)"):
        reports_after(lambda t: t["annotations"][0].pop("image_id"))


def _first_category(tree: dict, image_id: int, category: int) -> None:
    annotation = next(a for a in tree["annotations"] if a["image_id"] == image_id)
    (annotation["segments_info"][0] if "segments_info" in annotation else annotation)[
        "category_id"
    ] = category


POLYGON = [0, 0, 8, 0, 8, 8]


SEGMENTATIONS = {
    "coordinates far away": ([[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]], r"has the coordinate 1e\+09"),
    "a coordinate that is no number": ([[*POLYGON, 0, float("nan")]], "has the coordinate nan"),
    "nested coordinates": ([[POLYGON] * 6], "expected numbers alone"),
    "runs of another size": ({"size": [1 << 40, 1 << 40], "counts": [1]}, r"expected \[16, 24\]"),
    "runs that are cut": ({"size": [16, 24], "counts": "oooooo"}, "end in the middle"),
    "runs that are short": ({"size": [16, 24], "counts": [383]}, "add up to 383; expected 384"),
    "nothing": (None, "expected polygons or run lengths"),
}


@pytest.mark.parametrize("case", SEGMENTATIONS)
@pytest.mark.parametrize("is_crowd", [0, 1])
def test_a_bad_polygon_is_reported_with_its_annotation(
    tmp_path: Path, case: str, is_crowd: int
) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    segmentation, words = SEGMENTATIONS[case]

    def spoil(tree: dict) -> None:
        annotation = next(a for a in tree["annotations"] if a["id"] == 62)
        annotation.update(segmentation=segmentation, iscrowd=is_crowd)

    change_json(tmp_path / "annotations" / "instances_train2017.json", spoil)
    reports = bad_samples(open_(tmp_path, section))
    assert list(reports) == [STEM] and re.search(words, reports[STEM])
    assert "annotation 62 of image 6 (a_000001.jpg)" in reports[STEM]


def test_the_polygons_of_an_image_have_a_bounded_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    monkeypatch.setattr(coco_instance, "_MAX_BOUNDARY", 70)  # 64 and 16 pixels
    reports = bad_samples(open_(tmp_path, section))
    assert len(reports) == 5
    assert (
        "annotation 62 of image 6" in reports[STEM] and "boundary of more than 70" in reports[STEM]
    )


NUMBERS = {
    "an image id": (lambda t: t["images"][1].update(id=1 << 70), "images"),
    "an image id without end": (lambda t: t["images"][1].update(id=float("inf")), "images"),
    "an annotation's image id": (
        lambda t: t["annotations"][0].update(image_id=-1 << 70),
        "annotations",
    ),
    "iscrowd": (lambda t: t["annotations"][0].update(iscrowd=1 << 70), "annotations"),
    "an image that is a list": (lambda t: t["images"].append([1]), "images"),
    "an annotation that is a number": (lambda t: t["annotations"].append(1), "annotations"),
}


@pytest.mark.parametrize("name", ["coco_panoptic", "coco_instance"])
@pytest.mark.parametrize("case", NUMBERS)
def test_entries_that_no_index_can_hold_are_refused_with_their_place(
    tmp_path: Path, name: str, case: str
) -> None:
    section = WRITERS[name](tmp_path)
    spoil, array = NUMBERS[case]
    change_json(next((tmp_path / "annotations").glob("*_train2017.json")), spoil)
    with pytest.raises(DatasetError, match=rf"byte \d+: .* in an entry of '{array}'"):
        open_(tmp_path, section)


BAD_IDS = [-1, 1.5, "7", 1 << 63, None, [1]]


@pytest.mark.parametrize("value", BAD_IDS)
@pytest.mark.parametrize(
    "name, key",
    [("coco_instance", "id"), ("coco_instance", "category_id"), ("coco_panoptic", "id")],
)
def test_ids_that_no_map_can_hold_are_reported(
    tmp_path: Path, name: str, key: str, value: Any
) -> None:
    section = WRITERS[name](tmp_path)

    def spoil(tree: dict) -> None:
        annotation = next(a for a in tree["annotations"] if a["image_id"] == 6)
        annotation.get("segments_info", [annotation])[0][key] = value

    change_json(next((tmp_path / "annotations").glob("*_train2017.json")), spoil)
    assert list(bad_samples(open_(tmp_path, section))) == [STEM]


def test_names_that_no_file_can_have_are_reported(tmp_path: Path) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    for name in ("a\0b", "\ud800", "x" * 5000, "../../../etc/passwd", "/dev/zero"):
        change_json(path, lambda t, name=name: t["images"][1].update(file_name=f"{name}.jpg"))
        bad = bad_samples(open_(tmp_path, section))
        assert STEM in bad and len(bad) == 2, name
        assert all(len(message) < 1000 for message in bad.values())


def test_the_index_keeps_the_files_own_categories(tmp_path: Path) -> None:
    WRITERS["coco_instance"](tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    categories = [{"id": 5, "name": "crack", "supercategory": "wall"}]
    change_json(path, lambda t: t.update(categories=categories))
    index = index_coco(path, image_folder=tmp_path / "train2017")
    assert index.categories == categories


def test_panoptic_segments_that_the_file_does_not_describe_are_reported(tmp_path: Path) -> None:
    section = WRITERS["coco_panoptic"](tmp_path)
    edit(
        tmp_path / MASKS["coco_panoptic"].format(STEM),
        lambda m: np.where(m == m[0, 0], 77, m).astype(np.uint8),
    )
    reports = bad_samples(open_(tmp_path, section))
    assert (
        list(reports) == [STEM] and "has segment id" in reports[STEM] and "image 6" in reports[STEM]
    )
