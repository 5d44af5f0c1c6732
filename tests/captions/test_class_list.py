"""Captions from masks."""

import numpy as np
import pytest

from seggen_core.captions.captioner import make_captioner
from seggen_core.captions.class_list import ClassListCaptioner
from seggen_core.config import CaptionsConfig
from seggen_core.errors import CaptionError
from seggen_core.scenes.layout import SCENES_TAXONOMY, compose_caption, sample_layout
from seggen_core.scenes.painter import paint
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy
from tests.captions.conftest import CAMVID_TAXONOMY


def _map(taxonomy: Taxonomy, areas: dict[str, int]) -> np.ndarray:
    """Return a uint8 [100, 100] map with `areas` rows of each class, in this order.

    The rest is ignored.
    """
    segmentation_map = np.full((100, 100), IGNORE_INDEX, np.uint8)
    top = 0
    for slug, rows in areas.items():
        segmentation_map[top : top + rows] = taxonomy.by_slug(slug).train_id
        top += rows
    return segmentation_map


def _scenes(areas: dict[str, int], instance_map: np.ndarray | None = None) -> str:
    return ClassListCaptioner(SCENES_TAXONOMY, min_area_share=0.002).describe(
        _map(SCENES_TAXONOMY, areas), instance_map=instance_map
    )


def _camvid(areas: dict[str, int], instance_map: np.ndarray | None = None) -> str:
    return ClassListCaptioner(CAMVID_TAXONOMY, min_area_share=0.002).describe(
        _map(CAMVID_TAXONOMY, areas), instance_map=instance_map
    )


def test_scenes_are_described_in_the_grammar_of_their_foundation() -> None:
    instance_map = np.zeros((100, 100), np.uint16)
    instance_map[0:20] = 1  # a car
    instance_map[20:30, :50], instance_map[20:30, 50:] = 2, 300  # two trees
    areas = {"car": 20, "tree": 10, "sky": 30, "road": 30, "grass": 10}
    assert (
        _scenes(areas, instance_map) == "a photo of a car and two trees on grass and road under sky"
    )
    assert (
        _scenes({"grass": 60, "sky": 40}, np.zeros((100, 100), np.uint16))
        == "a photo of grass and sky"
    )


def test_every_painted_scene_gets_a_caption_of_what_is_visible() -> None:
    captioner = ClassListCaptioner(SCENES_TAXONOMY, min_area_share=0.002)
    for seed in range(40):
        layout = sample_layout(np.random.default_rng(seed))
        painted = paint(layout, size=64)
        visible: dict[str, int] = {}
        for instance_id, thing in enumerate(layout.things, start=1):
            if (painted.instance_map == instance_id).sum() >= 0.002 * 64 * 64:
                visible[thing.name] = visible.get(thing.name, 0) + 1
        area = {
            c.name: int((painted.segmentation_map == c.train_id).sum()) for c in SCENES_TAXONOMY
        }
        names = sorted(visible, key=lambda n: (-area[n], SCENES_TAXONOMY.by_slug(n).train_id))
        stuff = [n for n in ("grass", "road", "sky") if area[n] >= 0.002 * 64 * 64]
        expected = compose_caption(things={n: visible[n] for n in names}, stuff=stuff)
        assert (
            captioner.describe(painted.segmentation_map, instance_map=painted.instance_map)
            == expected
        )


def test_other_taxonomies_list_stuff_after_with_largest_first() -> None:
    instance_map = np.zeros((100, 100), np.uint16)
    instance_map[0:10], instance_map[10:12, :40], instance_map[10:12, 60:] = 1, 2, 3
    areas = {"car": 10, "pedestrian": 2, "building": 20, "sky": 10, "road": 50}
    assert (
        _camvid(areas, instance_map)
        == "a photo of a car and two pedestrians with road, building and sky"
    )
    assert _camvid(areas) == "a photo of a car and a pedestrian with road, building and sky", (
        "without instance ids things aren't counted"
    )
    assert _camvid({"car": 50}) == "a photo of a car"
    assert _camvid({"road": 50, "sky": 20}) == "a photo of road and sky"


def test_specks_are_left_out_unless_there_is_nothing_else() -> None:
    segmentation_map = _map(CAMVID_TAXONOMY, {"road": 90})
    segmentation_map[0, :19] = CAMVID_TAXONOMY.by_slug("car").train_id
    captioner = ClassListCaptioner(CAMVID_TAXONOMY, min_area_share=0.002)
    assert captioner.describe(segmentation_map, instance_map=None) == "a photo of road"
    segmentation_map[0, 19] = CAMVID_TAXONOMY.by_slug("car").train_id  # 20 of 10,000 pixels
    assert captioner.describe(segmentation_map, instance_map=None) == "a photo of a car with road"
    instance_map = np.zeros((100, 100), np.uint16)
    instance_map[0, :10], instance_map[0, 10:20] = 1, 2  # two specks don't make a car
    assert captioner.describe(segmentation_map, instance_map=instance_map) == "a photo of road"
    only = np.full((100, 100), IGNORE_INDEX, np.uint8)
    only[5, 5] = CAMVID_TAXONOMY.by_slug("bicyclist").train_id
    assert captioner.describe(only, instance_map=None) == "a photo of a bicyclist"


def test_number_words() -> None:
    instance_map = np.repeat(np.arange(1, 101, dtype=np.uint16)[:, None], 100, axis=1)  # one a row
    assert (
        _camvid({"car": 9, "pedestrian": 12}, instance_map)
        == "a photo of many pedestrians and nine cars"
    )


def test_class_list_follows_the_order_asked_for_and_names_a_void_sample(store: SampleStore) -> None:
    captioner = make_captioner(CaptionsConfig(), taxonomy=CAMVID_TAXONOMY, device="cpu")
    keys = ["train-00002", "train-00000"]
    assert list(captioner.captions(store, keys=keys)) == ["a photo of pole", "a photo of sky"]
    with pytest.raises(CaptionError, match="sample train-00003: no pixel is labelled"):
        list(captioner.captions(store, keys=store.keys()))
