import json

import pytest

from seggen_core.errors import ConfigError
from seggen_core.taxonomy import SegmentationClass, Taxonomy, slugify


@pytest.fixture
def taxonomy() -> Taxonomy:
    return Taxonomy.from_names(stuff=["sky"], things=["potted plant", "TV/monitor"])


def test_ids_are_contiguous_stuff_first(taxonomy: Taxonomy) -> None:
    assert [(c.train_id, c.name, c.is_thing) for c in taxonomy] == [
        (0, "sky", False),
        (1, "potted plant", True),
        (2, "TV/monitor", True),
    ]
    assert taxonomy.slugs == ["sky", "potted_plant", "tv_monitor"] and len(taxonomy) == 3
    assert taxonomy.id2label == {0: "sky", 1: "potted plant", 2: "TV/monitor"}
    assert taxonomy[1] is taxonomy.by_slug("potted_plant")


def test_json_gives_the_same_taxonomy_back(taxonomy: Taxonomy) -> None:
    again = Taxonomy.from_json(json.loads(json.dumps(taxonomy.to_json())))
    assert again == taxonomy and hash(again) == hash(taxonomy)
    assert again != Taxonomy.from_names(stuff=["sky", "potted plant"], things=["TV/monitor"])


def test_an_unknown_slug_is_answered_with_the_known_ones(taxonomy: Taxonomy) -> None:
    with pytest.raises(
        ConfigError, match="no class 'cat'; this taxonomy has: sky, potted_plant, tv_monitor"
    ):
        taxonomy.by_slug("cat")


def test_two_classes_of_one_slug_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="'traffic light' and 'traffic-light' share the slug 'traffic_light'"
    ):
        Taxonomy.from_names(stuff=[], things=["traffic light", "traffic-light"])


def test_ids_with_a_gap_and_sizes_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"0\.\.1 in order, got \[0, 2\]"):
        Taxonomy([SegmentationClass(0, "a", True), SegmentationClass(2, "b", True)])
    with pytest.raises(ConfigError, match="1 to 255 classes, got 0"):
        Taxonomy([])
    with pytest.raises(ConfigError, match="1 to 255 classes, got 256"):
        Taxonomy.from_names(stuff=[f"class {i}" for i in range(256)], things=[])


def test_slugs_lose_accents_and_names_without_ascii_letters_are_keyed_by_id() -> None:
    assert slugify("  Dining-Table 2 ") == "dining_table_2"
    assert [slugify(n) for n in ("Öl", "Straße")] == ["ol", "strasse"]
    names = ["wall", "道路", "???", "车 car"]
    taxonomy = Taxonomy([SegmentationClass(i, n, True) for i, n in enumerate(names)])
    assert taxonomy.slugs == ["wall", "class_1", "class_2", "car"]
    assert Taxonomy.from_json(taxonomy.to_json()) == taxonomy


@pytest.mark.parametrize("names", [["Öl", "ol"], ["道路", "class 0"]])
def test_names_that_share_a_slug_are_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"{names[0]!r} and {names[1]!r} share the slug"):
        Taxonomy([SegmentationClass(i, n, True) for i, n in enumerate(names)])
