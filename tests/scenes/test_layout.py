import json
import re
from collections import Counter

import numpy as np
import pytest

from seggen_core.project.phrases import count_phrase, pluralize
from seggen_core.project.rng import numpy_rng
from seggen_core.scenes.layout import (
    LIGHT_PHRASES,
    LIGHTS,
    THINGS,
    SceneLayout,
    Thing,
    compose_caption,
    sample_layout,
    training_caption,
)

QUANTITY = "(?:an?|two|three|four|five)"
THING = "|".join([*THINGS, *(pluralize(t) for t in THINGS)])
COUNTED = f"{QUANTITY} (?:{THING})"
CAPTION = re.compile(
    rf"a photo of (?:{COUNTED}(?:(?:, {COUNTED})* and {COUNTED})?"
    rf"(?: on (?:grass|road|grass and road))?(?: under sky)?"
    rf"|(?:grass|road|sky|grass and road|grass and sky|road and sky|grass, road and sky))"
    rf"(?: (?:{'|'.join(LIGHT_PHRASES.values())}))?"
)


def layouts(count: int, **kind: bool) -> list[SceneLayout]:
    return [sample_layout(numpy_rng(3, "layouts", i), **kind) for i in range(count)]


def test_a_layout_depends_on_its_generator_alone() -> None:
    one, two = layouts(20), layouts(20)
    assert one == two and len({layout.look for layout in one}) == 20
    assert json.loads(json.dumps(one[0].to_json()))["horizon"] == one[0].horizon


def test_things_stand_on_the_ground_back_to_front_and_grow_with_nearness() -> None:
    drawn = layouts(300)
    for layout in drawn:
        assert (
            layout.light in LIGHTS
            and 0.30 <= layout.horizon <= 0.55
            and 1 <= len(layout.things) <= 5
        )
        assert [t.y for t in layout.things] == sorted(t.y for t in layout.things)
        for t in layout.things:
            assert (
                layout.horizon < t.y < 1
                and 0 < t.width <= 0.9
                and 0 < t.height < t.y
                and t.name in THINGS
            )
    cars = [
        (t.y - layout.horizon, t.width)
        for layout in drawn
        for t in layout.things
        if t.name == "car"
    ]
    assert np.corrcoef(np.array(cars).T)[0, 1] > 0.7


def test_every_class_light_and_road_occurs_about_as_often_as_it_should() -> None:
    drawn = layouts(1000)
    names = Counter(t.name for layout in drawn for t in layout.things)
    total = sum(names.values())
    assert all(abs(names[t] / total - 1 / len(THINGS)) < 0.03 for t in THINGS)
    lights = Counter(layout.light for layout in drawn)
    assert abs(lights["day"] / 1000 - 0.4) < 0.05
    assert min(lights.values()) > 120 and set(Counter(layout.road for layout in drawn)) == {
        "none",
        "band",
        "perspective",
    }


def test_single_object_and_stuff_only() -> None:
    for layout in layouts(100, single_object=True):
        (thing,) = layout.things
        assert 0.3 <= thing.x <= 0.7 and thing.y >= layout.horizon + 0.25
    assert all(layout.things == [] for layout in layouts(20, stuff_only=True))


def test_counts_go_from_the_front_to_the_back() -> None:
    things = [
        Thing(name, 0.5, y, 0.1, 0.1, 0) for name, y in (("car", 0.6), ("tree", 0.7), ("car", 0.8))
    ]
    assert SceneLayout("day", 0.4, "none", things).counts() == {"car": 2, "tree": 1}
    assert list(SceneLayout("day", 0.4, "none", things[:2]).counts()) == ["tree", "car"]


@pytest.mark.parametrize(
    "things, stuff, suffix, caption",
    [
        ({"car": 1}, [], "", "a photo of a car"),
        ({"airplane": 1}, ["sky"], "", "a photo of an airplane under sky"),
        (
            {"car": 1, "tree": 2},
            ["grass", "road", "sky"],
            "at night",
            "a photo of a car and two trees on grass and road under sky at night",
        ),
        (
            {"person": 3, "bus": 2, "house": 1},
            ["road"],
            "",
            "a photo of three people, two buses and a house on road",
        ),
        ({}, ["grass", "sky"], "", "a photo of grass and sky"),
        ({}, ["sky"], "at sunset", "a photo of sky at sunset"),
        ({"sheep": 12}, [], "", "a photo of many sheep"),
    ],
)
def test_the_grammar(things: dict[str, int], stuff: list[str], suffix: str, caption: str) -> None:
    assert compose_caption(things=things, stuff=stuff, suffix=suffix) == caption


def test_training_captions_follow_the_grammar_and_say_what_is_there() -> None:
    seen = set()
    for i in range(600):
        rng = numpy_rng(5, "captions", i)
        layout = sample_layout(rng, single_object=i % 3 == 0, stuff_only=i % 3 == 1 and i % 2 == 0)
        caption = training_caption(layout, rng)
        seen.add(caption)
        assert CAPTION.fullmatch(caption), caption
        for name, count in layout.counts().items():
            assert count_phrase(name, count) in caption
        for name in THINGS:
            assert (name in layout.counts()) == bool(
                re.search(rf"\b({name}|{pluralize(name)})\b", caption)
            )
        assert "road" not in caption or layout.road != "none"
        for light, phrase in LIGHT_PHRASES.items():
            assert phrase not in caption or layout.light == light
    assert len(seen) > 300
    assert any(
        re.fullmatch("a photo of an? [a-z]+", c) for c in seen
    )  # as attention methods prompt
