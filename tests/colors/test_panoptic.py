import os
from pathlib import Path

import numpy as np
import pytest

from seggen_core.colors.code import ColorCode
from seggen_core.colors.panoptic import (
    EDGE_COLOR,
    MAX_CLASSES,
    PanopticMap,
    color_to_panoptic,
    panoptic_palette,
    panoptic_to_color,
)
from seggen_core.config import DatasetConfig
from seggen_core.datasets.scenes import ScenesReader
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.metrics.panoptic import PanopticCounts, count_panoptic, panoptic_quality
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy
from tools.pack_palettes import smallest_distance

REAL_DATA = os.environ.get("SEGGEN_REAL_DATA")
THINGS = np.array([False, True, True])
PALETTE = panoptic_palette(3)
WHITE = np.array(EDGE_COLOR)


def grid(*rows: str) -> PanopticMap:
    """A map of 8x8 blocks, one per pair of characters: class (or "v" for void) and instance."""
    pairs = [[row[k : k + 2] for k in range(0, len(row), 2)] for row in rows]
    classes = np.array(
        [[IGNORE_INDEX if p[0] == "v" else int(p[0]) for p in line] for line in pairs], np.uint8
    )
    instances = np.array([[int(p[1]) for p in line] for line in pairs], np.uint16)
    return PanopticMap(*(np.kron(a, np.ones((8, 8), a.dtype)) for a in (classes, instances)))


def encode(panoptic: PanopticMap, **options: object) -> np.ndarray:
    return panoptic_to_color(panoptic, palette=PALETTE, things=THINGS, **options)  # type: ignore[arg-type]


def decode(color_map: np.ndarray, **options: int) -> PanopticMap:
    return color_to_panoptic(color_map, palette=PALETTE, things=THINGS, **options)


@pytest.mark.parametrize("num_classes", [1, 7, 8, 133, 254])
def test_white_is_as_far_from_classes_as_they_are_from_each_other(num_classes: int) -> None:
    palette = panoptic_palette(num_classes)
    assert palette.shape == (num_classes, 3) and palette.dtype == np.uint8
    whole = smallest_distance(np.concatenate([palette, WHITE[None]]))
    assert whole >= (
        255 if num_classes < 8 else 142 if num_classes == 8 else 60 if num_classes < 134 else 40
    )


def test_a_palette_leaves_one_colour_for_edges() -> None:
    with pytest.raises(ValueError, match=f"1 to {MAX_CLASSES}, as edges need a colour; got 255"):
        panoptic_palette(255)
    many = Taxonomy.from_names(stuff=[f"s{i}" for i in range(255)], things=[])
    with pytest.raises(ConfigError, match="which codes 254 classes; there are 255"):
        ColorCode(many, kind="panoptic")


@pytest.mark.parametrize("width", [1, 2, 3])
def test_an_outline_is_so_wide_and_lies_on_borders(width: int) -> None:
    white = (encode(grid("0011", "0011"), edge_width=width) == WHITE).all(-1)
    columns = np.flatnonzero(white[0])
    assert len(columns) == width and 8 - width <= columns[0] <= columns[-1] <= 8 + width
    assert (white == white[0]).all()


def test_things_are_outlined_and_stuff_is_where_asked() -> None:
    panoptic = grid("0000", "1112", "2121")
    assert (encode(panoptic) == WHITE).all(-1).sum() == (
        encode(panoptic, outline="things") == WHITE
    ).all(-1).sum()
    stuff = PanopticMap(np.repeat([[0, 1]], 8, 1).astype(np.uint8), np.zeros((1, 16), np.uint16))
    plain = panoptic_to_color(
        stuff, palette=PALETTE, things=np.array([False, False, True]), outline="things"
    )
    assert not (plain == WHITE).all(-1).any()
    assert (encode(stuff) == WHITE).all(-1).sum() == 2


def test_touching_instances_of_a_class_come_back_apart() -> None:
    truth = grid("1112", "0021", "2322")
    decoded = decode(encode(truth))
    assert decoded.segmentation_map.dtype == np.uint8 and decoded.instance_map.dtype == np.uint16
    assert (decoded.segmentation_map == truth.segmentation_map).mean() > 0.95
    assert len(np.unique(decoded.instance_map[decoded.segmentation_map == 1])) == 2
    assert set(np.unique(decoded.instance_map)) == {0, 1, 2, 3, 4, 5}
    counts = count_panoptic(decoded, truth=truth, num_classes=3)
    assert counts.false_negatives.sum() == 0


def test_a_straight_border_comes_back_where_it_was() -> None:
    truth = grid("110012", "110012", "212122")
    decoded = decode(encode(truth))
    assert (decoded.segmentation_map == truth.segmentation_map).all()


def test_parts_of_one_stuff_class_are_one_segment_and_things_are_numbered_in_reading_order() -> (
    None
):
    decoded = decode(encode(grid("001100", "002100")))
    stuff = decoded.segmentation_map == 0
    assert not decoded.instance_map[stuff].any() and stuff.sum() == 256
    assert decoded.instance_map[0, 10] == 1 and decoded.instance_map[12, 10] == 2


def test_ignored_pixels_stay_ignored() -> None:
    truth = grid("v011", "v021")
    decoded = decode(encode(truth))
    assert (decoded.segmentation_map == truth.segmentation_map).all()
    assert not decoded.instance_map[truth.segmentation_map == IGNORE_INDEX].any()


def test_fragments_and_blends_go_to_what_surrounds_them() -> None:
    color_map = encode(grid("000000", "000000"))
    color_map[3:6, 3:6] = PALETTE[1]  # 9 pixels
    color_map[12, :] = PALETTE[2]  # 24 pixels, one thick: what a blend along a border looks like
    assert (decode(color_map, min_area=16).segmentation_map == 0).all()
    assert (
        decode(color_map).segmentation_map == 1
    ).sum() == 9  # 8 pixels are enough in so small a map
    small = decode(color_map, min_area=9)
    assert (small.segmentation_map[3:6, 3:6] == 1).all() and (
        small.segmentation_map == 1
    ).sum() == 9


@pytest.mark.parametrize("width", [2, 3])
def test_a_thin_segment_keeps_its_colour_and_comes_back_as_it_is(width: int) -> None:
    truth = grid("0000", "0000")
    truth.segmentation_map[2:13, 9:11], truth.instance_map[2:13, 9:11] = 1, 1
    color_map = encode(truth, edge_width=width)
    assert not (color_map == WHITE).all(-1).any()
    assert (decode(color_map).segment_ids() == truth.segment_ids()).all()


def test_a_thin_segment_is_told_apart_from_one_of_its_class() -> None:
    truth = grid("1100", "1100")
    truth.segmentation_map[2:13, 8:10], truth.instance_map[2:13, 8:10] = 1, 2
    assert (decode(encode(truth)).segment_ids() == truth.segment_ids()).mean() > 0.95


def test_the_smallest_segment_grows_with_the_map() -> None:
    large = np.broadcast_to(PALETTE[0], (400, 500, 3)).copy()
    large[10:16, 10:16], large[30:37, 30:37] = (
        PALETTE[1],
        PALETTE[1],
    )  # 36 and 49 pixels, the limit is 40
    instances = decode(large).instance_map
    assert not instances[10:16, 10:16].any() and (instances[30:37, 30:37] == 1).all()


def test_maps_without_a_sound_segment() -> None:
    white = np.full((8, 8, 3), 255, np.uint8)
    decoded = decode(white)
    assert (decoded.segmentation_map == IGNORE_INDEX).all() and not decoded.instance_map.any()
    white[2:4, 2:4] = PALETTE[2]  # below min_area, but nothing is larger
    decoded = decode(white)
    assert (decoded.segmentation_map == 2).all() and (decoded.instance_map == 1).all()


def test_an_unknown_id_is_an_error() -> None:
    with pytest.raises(DatasetError, match=r"ids \[3, 9\]; expected 0-2 or 255"):
        encode(PanopticMap(np.array([[3, 9, 0, 255]], np.uint8), np.zeros((1, 4), np.uint16)))


def blurred(color_map: np.ndarray, seed: int) -> np.ndarray:
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(color_map.astype(float), (0.5, 0.5, 0))
    return np.clip(
        np.round(smooth + np.random.default_rng(seed).normal(0, 8, smooth.shape)), 0, 255
    ).astype(np.uint8)


def test_scenes_come_back_clean_and_blurred() -> None:
    reader = ScenesReader(
        DatasetConfig(name="scenes", image_size=128, num_train=1, num_val=1, num_test=6), seed=0
    )
    code = ColorCode(reader.taxonomy, kind="panoptic")
    counts: list[PanopticCounts | None] = [None, None]
    for position, key in enumerate(reader.keys("test")):
        sample = reader.read("test", key)
        assert sample.instance_map is not None
        truth = PanopticMap(sample.segmentation_map, sample.instance_map)
        color_map = code.encode(sample.segmentation_map, instance_map=sample.instance_map)
        decoded = code.decode(np.stack([color_map, blurred(color_map, position)]))
        assert decoded.instance_maps is not None and not decoded.ambiguous.any()
        for way in (0, 1):
            panoptic = PanopticMap(decoded.segmentation_maps[way], decoded.instance_maps[way])
            one = count_panoptic(panoptic, truth=truth, num_classes=8)
            counts[way] = one if counts[way] is None else counts[way] + one  # type: ignore[operator]
    clean, noisy = (panoptic_quality(c).pq for c in counts if c is not None)
    assert clean > 85 and noisy > 80


def test_a_semantic_code_shows_no_instances() -> None:
    code = ColorCode(Taxonomy.from_names(stuff=["sky"], things=["car"]), kind="semantic")
    mask = np.array([[0, 1, 1, IGNORE_INDEX]], np.uint8)
    color_map = code.encode(mask, instance_map=np.array([[0, 1, 2, 0]], np.uint16))
    assert (color_map == code.encode(mask, instance_map=None)).all() and not (color_map == 255).all(
        -1
    ).any()
    assert code.decode(color_map[None]).instance_maps is None


def test_instances_are_needed_where_they_are_shown() -> None:
    code = ColorCode(Taxonomy.from_names(stuff=["sky"], things=["car"]), kind="panoptic")
    with pytest.raises(
        ConfigError, match=r"no instance map, only classes.*set dataset.color_map to 'semantic'"
    ):
        code.encode(np.zeros((4, 4), np.uint8), instance_map=None)


@pytest.mark.skipif(
    REAL_DATA is None, reason="SEGGEN_REAL_DATA names no folder with coco_panoptic_sample"
)
def test_a_real_coco_map_comes_back() -> None:
    from benchmarks.color_map_round_trip import read_coco

    things, maps = read_coco(Path(str(REAL_DATA)) / "coco_panoptic_sample")
    palette = panoptic_palette(len(things))
    counts = None
    for truth in maps:
        decoded = color_to_panoptic(
            panoptic_to_color(truth, palette=palette, things=things), palette=palette, things=things
        )
        one = count_panoptic(decoded, truth=truth, num_classes=len(things))
        counts = one if counts is None else counts + one
    assert counts is not None
    assert panoptic_quality(counts).pq > 70
