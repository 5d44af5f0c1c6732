"""Polygons and run lengths as COCO draws them, and what its implementation may not be given."""

import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.datasets.rasterize import area, boundary, decode_runs, encode_segmentation
from seggen_core.errors import DatasetError

# Made with pycocotools 2.0.10: frPyObjects, merge, then the compressed counts and the area.
REFERENCE = [
    ([1.5, 1.2, 8.7, 2.0, 7.1, 9.9, 2.2, 6.4], 12, 10, "i066010O1O00O1K?", 39),
    ([-3, -2, 6, 4, 2.5, 11.3], 9, 8, "0642NO001M3M`0", 33),
    ([0, 0, 5, 0, 5, 5, 0, 5], 7, 6, "05200000007", 25),
    ([3.3, 0.4, 9.9, 5.5, 3.3, 10.2, 0.2, 5.1, 3.4, 5.0], 11, 13, "51:1O2I60N2O1N2N101Nm0", 44),
]


def draw(segmentation: object, *, height: int, width: int) -> np.ndarray:
    runs = encode_segmentation(segmentation, height=height, width=width)
    mask = decode_runs(runs)
    assert mask.dtype == bool and mask.shape == (height, width) and mask.sum() == area(runs)
    return mask


@pytest.mark.parametrize("polygon, height, width, counts, area", REFERENCE)
def test_polygons_and_compressed_runs_agree_with_the_reference(
    polygon: list[float], height: int, width: int, counts: str, area: int
) -> None:
    drawn = draw([polygon], height=height, width=width)
    assert drawn.sum() == area
    runs = {"size": [height, width], "counts": counts}
    np.testing.assert_array_equal(drawn, draw(runs, height=height, width=width))


def test_run_lengths_go_down_the_columns_unset_first() -> None:
    mask = draw({"size": [3, 2], "counts": [1, 2, 3]}, height=3, width=2)
    np.testing.assert_array_equal(mask, [[0, 0], [1, 0], [1, 0]])
    full = draw({"size": [3, 2], "counts": [0, 6]}, height=3, width=2)
    np.testing.assert_array_equal(full, np.ones((3, 2)))


def test_compressed_counts_are_differences_from_the_third_on() -> None:
    counts = [0, 5, 2, 5, 2, 5, 2, 5, 2, 5, 9]
    plain = draw({"size": [7, 6], "counts": counts}, height=7, width=6)
    packed = draw({"size": [7, 6], "counts": "05200000007"}, height=7, width=6)
    np.testing.assert_array_equal(plain, packed)


def test_several_polygons_are_one_object() -> None:
    two = draw([[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 5, 3, 5, 5, 3, 5]], height=6, width=6)
    assert two[:2, :2].all() and two[3:5, 3:5].all() and two.sum() == 8


def test_a_mask_of_one_pixel() -> None:
    assert draw({"size": [1, 1], "counts": "01"}, height=1, width=1).all()


def test_boundary_counts_the_longer_side_of_each_step() -> None:
    assert boundary([[0, 0, 10, 3, 10, 0], [0, 0, 5, 0, 5, 5, 0, 5]]) == 10 + 3 + 10 + 4 * 5
    assert boundary({"size": [1, 1], "counts": "01"}) == 0


def runs(counts: object) -> dict[str, Any]:
    return {"size": [5, 4], "counts": counts}


BOX = [0, 0, 3, 0, 3, 3]


@pytest.mark.parametrize(
    "segmentation, words",
    [
        ([], "expected polygons or run lengths"),
        ("abc", "expected polygons or run lengths"),
        (None, "expected polygons or run lengths"),
        ([[1, 2, 3, 4]], "at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three points"),
        ([BOX, [1, 2, 3, 4]], "at least three points"),
        ([BOX, "abcdef"], "at least three points"),
        ([[*BOX, 1, "2"]], "expected numbers alone"),
        ([[*BOX, 1, None]], "expected numbers alone"),
        ([[*BOX, 1, [2]]], "expected numbers alone"),
        ([[[0, 0], [3, 0], [3, 3], [0, 3], [0, 2], [0, 1]]], "expected numbers alone"),
        ([[*BOX, 1, 10**400]], "expected numbers alone"),
        ([[*BOX, 1, 1e9]], r"has the coordinate 1e\+09; expected -5 to 10, since the image is 4x5"),
        ([[*BOX, 1, -1e300]], r"has the coordinate -1e\+300"),
        ([[*BOX, 1, float("nan")]], "has the coordinate nan"),
        ([[*BOX, float("inf"), 1]], "has the coordinate inf"),
        ({"size": [4, 5], "counts": [20]}, r"are for size \[4, 5\]; expected \[5, 4\]"),
        ({"size": [1 << 40, 1 << 40], "counts": [20]}, r"are for size \[1099511627776"),
        ({"size": 3, "counts": [20]}, "are for size 3"),
        ({"counts": [20]}, "are for size None"),
        (runs([19]), "add up to 19; expected 20"),
        (runs([30, -10]), "expected 20"),
        (runs([1 << 62, 1 << 62]), "expected 20"),
        (runs([1 << 80]), "expected whole numbers"),
        (runs([10.5, 9.5]), "expected whole numbers"),
        (runs([[20]]), "expected whole numbers"),
        (runs([]), "expected whole numbers"),
        (runs(20), "expected whole numbers"),
        (runs("i06`"), "end in the middle"),
        (runs("d0`````````"), "end in the middle"),
        (runs("o" * 1000), "end in the middle"),
        (runs(""), "end in the middle"),
        (runs("5 5"), "a character that COCO doesn't use"),
        (runs("5\u00e95"), "a character that COCO doesn't use"),
        (runs("5\x005"), "a character that COCO doesn't use"),
        (runs("5"), r"don't add up to 20 pixels \(4x5\)"),
        (runs("55"), "don't add up to 20"),
        (runs("ooooooO"), "don't add up to 20"),
        (runs("d0d0"), "don't add up to 20"),
    ],
)
def test_what_is_neither_is_refused(segmentation: object, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        encode_segmentation(segmentation, height=5, width=4)


def test_a_boundary_is_bounded_before_it_is_walked() -> None:
    zigzag = [x for i in range(2000) for x in (0 if i % 2 else 4000, i)]
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"has a boundary of \d{7} pixels; expected at most"):
        encode_segmentation([zigzag], height=4000, width=4000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_a_message_is_short_whatever_is_refused() -> None:
    nested: list = []
    for _ in range(900):
        nested = [nested]
    for segmentation in ([nested], {"a": "b" * 10_000}, [["x" * 10_000] * 6], runs(["y"] * 10_000)):
        with pytest.raises(DatasetError) as caught:
            encode_segmentation(segmentation, height=5, width=4)
        assert len(str(caught.value)) < 200


@pytest.mark.skipif(
    "SEGGEN_REAL_DATA" not in os.environ, reason="SEGGEN_REAL_DATA names no folder of real samples"
)
def test_coco_s_own_run_lengths_are_the_segments_of_its_maps() -> None:
    root = Path(os.environ["SEGGEN_REAL_DATA"]).resolve() / "coco_panoptic_sample"
    tree = json.loads((root / "panoptic_coco_detection_format.json").read_text())
    panoptic = json.loads((root / "panoptic_examples.json").read_text())
    names = {a["image_id"]: a["file_name"] for a in panoptic["annotations"]}
    assert len(tree["annotations"]) == 50
    for annotation in tree["annotations"]:
        path = root / "panoptic_examples" / names[annotation["image_id"]]
        ids = np.array(Image.open(path)).astype(np.int64) @ [1, 256, 65536]
        mask = draw(annotation["segmentation"], height=len(ids), width=ids.shape[1])
        (segment_id,) = np.unique(ids[mask])
        np.testing.assert_array_equal(mask, ids == segment_id)
        assert mask.sum() == annotation["area"]
