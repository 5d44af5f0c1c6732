"""Polygons and run lengths as COCO's own implementation draws them."""

import numpy as np
import pytest

from seggen_core.datasets.rasterize import decode_runs, draw_segmentation, parse_counts
from seggen_core.errors import DatasetError

# What pycocotools 2.0.10 makes of them: frPyObjects, merge, then the compressed counts and the
# area.
REFERENCE = [
    ([1.5, 1.2, 8.7, 2.0, 7.1, 9.9, 2.2, 6.4], 12, 10, "i066010O1O00O1K?", 39),
    ([-3, -2, 6, 4, 2.5, 11.3], 9, 8, "0642NO001M3M`0", 33),
    ([0, 0, 5, 0, 5, 5, 0, 5], 7, 6, "05200000007", 25),
    ([3.3, 0.4, 9.9, 5.5, 3.3, 10.2, 0.2, 5.1, 3.4, 5.0], 11, 13, "51:1O2I60N2O1N2N101Nm0", 44),
]


@pytest.mark.parametrize("polygon, height, width, counts, area", REFERENCE)
def test_polygons_and_compressed_runs_agree_with_the_reference(
    polygon: list[float], height: int, width: int, counts: str, area: int
) -> None:
    drawn = draw_segmentation([polygon], height=height, width=width)
    assert drawn.shape == (height, width) and drawn.sum() == area
    np.testing.assert_array_equal(
        drawn,
        draw_segmentation({"size": [height, width], "counts": counts}, height=height, width=width),
    )


def test_run_lengths_go_down_the_columns_unset_first() -> None:
    mask = decode_runs([1, 2, 3], height=3, width=2)
    np.testing.assert_array_equal(mask, [[0, 0], [1, 0], [1, 0]])
    np.testing.assert_array_equal(decode_runs([0, 6], height=3, width=2), np.ones((3, 2)))


def test_several_polygons_are_one_object() -> None:
    two = draw_segmentation([[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 5, 3, 5, 5, 3, 5]], height=6, width=6)
    assert two[:2, :2].all() and two[3:5, 3:5].all() and two.sum() == 8


@pytest.mark.parametrize(
    "segmentation, words",
    [
        ([], "expected polygons or run lengths"),
        ("abc", "expected polygons or run lengths"),
        ([[1, 2, 3, 4]], "at least three points"),
        ([[1, 2, 3, 4, 5, 6, 7]], "at least three points"),
        ({"size": [4, 5], "counts": [20]}, r"are for size \[4, 5\]; expected \[5, 4\]"),
        ({"size": [5, 4], "counts": [19]}, "add up to 19; expected 20"),
        ({"size": [5, 4], "counts": [30, -10]}, "expected 20"),
        ({"size": [5, 4], "counts": "i06`"}, "end in the middle"),
    ],
)
def test_what_is_neither_is_refused(segmentation: object, words: str) -> None:
    with pytest.raises(DatasetError, match=words):
        draw_segmentation(segmentation, height=5, width=4)


def test_compressed_counts_are_differences_from_the_third_on() -> None:
    assert parse_counts("05200000007") == [0, 5, 2, 5, 2, 5, 2, 5, 2, 5, 9]
