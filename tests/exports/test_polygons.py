import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw
from pycocotools import mask as coco_mask

from seggen_core.exports.polygons import join_polygons, mask_to_polygons

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.booleans())


def fill_as_coco(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    flat = [polygon.ravel().tolist() for polygon in polygons]
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(flat, *shape))).astype(bool)


def fill_whole_numbers(polygons: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """Cut to whole numbers and fill with the outline, as readers that use fillPoly do."""
    picture = Image.new("1", shape[::-1])
    for polygon in polygons:
        ImageDraw.Draw(picture).polygon([tuple(p) for p in polygon.astype(int).tolist()], 1, 1)
    return np.array(picture)


@given(MASKS)
def test_polygons_give_the_mask_back(mask: np.ndarray) -> None:
    polygons = mask_to_polygons(mask)
    if not mask.any():
        assert polygons == []
        return
    assert min(map(len, polygons)) >= 4
    np.testing.assert_array_equal(fill_as_coco(polygons, mask.shape), mask)
    np.testing.assert_array_equal(fill_as_coco([join_polygons(polygons)], mask.shape), mask)


def test_a_ring_is_one_polygon_with_a_cut() -> None:
    mask = np.ones((5, 6), bool)
    mask[2, 2:4] = False
    polygons = mask_to_polygons(mask, left=10, top=20)
    assert len(polygons) == 1
    assert polygons[0].min(0) == pytest.approx([10.05, 20.05])
    assert polygons[0].max(0) == pytest.approx([15.95, 24.95])
    whole = np.zeros((30, 20), bool)
    whole[20:25, 10:16] = mask
    np.testing.assert_array_equal(fill_as_coco(polygons, whole.shape), whole)
    np.testing.assert_array_equal(fill_whole_numbers(polygons, whole.shape), whole)


def test_whole_numbers_give_convex_masks_back() -> None:
    rows, columns = np.mgrid[:40, :50]
    disc = (rows - 18) ** 2 + (columns - 25) ** 2 < 15**2
    np.testing.assert_array_equal(fill_whole_numbers(mask_to_polygons(disc), disc.shape), disc)


def test_parts_that_meet_at_a_corner_stay_apart() -> None:
    polygons = mask_to_polygons(np.eye(3, dtype=bool))
    assert [len(polygon) for polygon in polygons] == [4, 4, 4]
