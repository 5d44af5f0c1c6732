from dataclasses import replace

import numpy as np
import pytest

from seggen_core.project.rng import numpy_rng
from seggen_core.scenes import painter as scene_painter
from seggen_core.scenes.layout import (
    LIGHTS,
    SCENES_TAXONOMY,
    THINGS,
    SceneLayout,
    Thing,
    sample_layout,
)
from seggen_core.scenes.painter import PaintedScene, paint
from seggen_core.scenes.stream import flat_colour_picture, stream_scene

STUFF = {c.train_id for c in SCENES_TAXONOMY if not c.is_thing}
ID = {c.name: c.train_id for c in SCENES_TAXONOMY}


def layout_of(*things: Thing, light: str = "day", look: int = 11) -> SceneLayout:
    return SceneLayout(light, 0.4, "none", list(things), look)


def thing(name: str, *, x: float = 0.5, y: float = 0.9, side: float = 0.4, look: int = 5) -> Thing:
    return Thing(name, x, y, side, side, look)


@pytest.fixture(scope="module")
def scenes() -> list[tuple[SceneLayout, PaintedScene]]:
    layouts = [sample_layout(numpy_rng(1, "painter", i), stuff_only=i % 10 == 0) for i in range(60)]
    return [(layout, paint(layout, size=48)) for layout in layouts]


def test_a_scene_is_the_same_every_time(scenes: list[tuple[SceneLayout, PaintedScene]]) -> None:
    for layout, scene in scenes[:10]:
        again = paint(layout, size=48)
        assert (again.image == scene.image).all()
        assert (again.segmentation_map == scene.segmentation_map).all() and (
            again.instance_map == scene.instance_map
        ).all()


def test_the_stream_is_what_the_shipped_foundation_was_pretrained_on() -> None:
    # Golden values: one more or one less random draw makes another dataset of all of them.
    drawn = [
        stream_scene(i, seed=0, size=32, single_object_share=0.5, stuff_only_share=0.06)
        for i in range(4)
    ]
    assert [caption for _, caption in drawn] == [
        "a photo of a car at night",
        "a photo of three people on road under sky",
        "a photo of three people and a car on road",
        "a photo of two cars on road under sky at sunset",
    ]
    assert [image.mean() for image, _ in drawn] == pytest.approx(
        [36.33, 153.0, 141.21, 115.68], abs=0.2
    )
    flat = [flat_colour_picture(i, seed=0, size=32) for i in range(4)]
    assert [picture.mean() for picture in flat] == pytest.approx(
        [138.96, 178.66, 171.23, 46.82], abs=0.2
    )
    assert all(picture.dtype == np.uint8 and picture.shape == (32, 32, 3) for picture in flat)


def test_shapes_dtypes_and_ids(scenes: list[tuple[SceneLayout, PaintedScene]]) -> None:
    train_ids: set[int] = set()
    for layout, scene in scenes:
        assert scene.image.shape == (48, 48, 3) and scene.image.dtype == np.uint8
        for pixels in (scene.segmentation_map, scene.instance_map):
            assert pixels.shape == (48, 48) and pixels.dtype == np.uint8
        train_ids |= set(np.unique(scene.segmentation_map).tolist())
        assert scene.instance_map.max() <= len(layout.things)
    assert train_ids == set(range(len(SCENES_TAXONOMY)))


def test_instance_ids_agree_with_the_classes(
    scenes: list[tuple[SceneLayout, PaintedScene]],
) -> None:
    visible = total = 0
    for layout, scene in scenes:
        stuff = np.isin(scene.segmentation_map, list(STUFF))
        assert (stuff == (scene.instance_map == 0)).all()
        for index, t in enumerate(layout.things, start=1):
            mine = scene.segmentation_map[scene.instance_map == index]
            assert (mine == ID[t.name]).all()
            visible, total = visible + bool(mine.size), total + 1
    assert visible > 0.9 * total


def test_what_stands_in_front_hides_what_is_behind() -> None:
    back, front = thing("house", side=0.5), thing("bus", y=0.95, side=0.5)
    scene = paint(layout_of(back, front), size=64)
    alone = paint(layout_of(front), size=64)
    bus = alone.instance_map == 1
    assert bus.any() and (scene.instance_map[bus] == 2).all()
    assert (scene.segmentation_map == ID["house"]).any()


@pytest.mark.parametrize("name", THINGS)
def test_a_thing_fills_a_good_part_of_its_box_and_nothing_far_outside(name: str) -> None:
    scene = paint(layout_of(thing(name)), size=64)
    rows, columns = np.nonzero(scene.instance_map)
    assert rows.min() >= 64 * 0.5 - 2 and rows.max() <= 64 * 0.9 + 1
    assert columns.min() >= 64 * 0.25 and columns.max() <= 64 * 0.75
    assert len(rows) > 0.3 * (0.4 * 64) ** 2


def test_the_sky_is_above_the_ground() -> None:
    scene = paint(layout_of(), size=64)
    assert (scene.segmentation_map[:20] == ID["sky"]).all() and (
        scene.segmentation_map[32:] == ID["grass"]
    ).all()
    assert not scene.instance_map.any()
    band = paint(SceneLayout("day", 0.4, "band", [], 11), size=64)
    assert (band.segmentation_map == ID["road"]).mean() > 0.05


@pytest.mark.parametrize("size", [16, 64])
def test_the_light_changes_the_image_and_never_the_maps(size: int) -> None:
    scenes = {light: paint(layout_of(thing("car"), light=light), size=size) for light in LIGHTS}
    assert len({s.segmentation_map.tobytes() for s in scenes.values()}) == 1
    brightness = {light: float(s.image.mean()) for light, s in scenes.items()}
    assert (
        brightness["night"]
        < min(brightness["day"], brightness["sunset"], brightness["cloudy"]) - 30
    )


def test_things_of_all_classes_take_their_colours_from_one_palette(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    handed: dict[str, list[tuple[int, ...]]] = {name: [] for name in THINGS}

    def watched(name: str, painter):  # type: ignore[no-untyped-def]
        def run(canvas, t, index, rng, colour):  # type: ignore[no-untyped-def]
            handed[name].append(tuple(np.round(colour, 6)))
            painter(canvas, t, index, rng, colour)

        return run

    monkeypatch.setattr(
        scene_painter, "PAINTERS", {n: watched(n, p) for n, p in scene_painter.PAINTERS.items()}
    )
    for look in range(40):
        for name in THINGS:
            paint(layout_of(thing(name, look=look)), size=8)
    assert all(
        colours == handed["car"] for colours in handed.values()
    )  # the seed of its looks decides, not its class
    assert len(set(handed["car"])) == 40


def test_colour_alone_does_not_tell_the_class() -> None:
    # Mean colour of each thing, over many looks: the means of classes lie close together beside the
    # spread within one.
    means = {name: [] for name in THINGS}
    for look in range(30):
        for name in THINGS:
            scene = paint(layout_of(thing(name, look=look)), size=24)
            means[name].append(scene.image[scene.instance_map == 1].mean(0))
    centres = np.array([np.mean(v, axis=0) for v in means.values()])
    within = np.mean([np.std(v, axis=0) for v in means.values()])
    assert centres.std(0).mean() < 1.0 * within


def test_another_look_of_the_scene_moves_no_thing() -> None:
    layout = sample_layout(numpy_rng(1, "painter", 3))
    one, two = paint(layout, size=48), paint(replace(layout, look=layout.look + 1), size=48)
    assert (one.instance_map == two.instance_map).all() and (one.image != two.image).any()
