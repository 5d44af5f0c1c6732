"""The classes of an arm's segmenter: all, some and "rest", hidden ones."""

import numpy as np
import pytest

from seggen_core.config import VariantConfig
from seggen_core.errors import ConfigError
from seggen_core.segmentation.labels import LabelSpace, relabel
from seggen_core.taxonomy import Taxonomy
from tests.segmentation.conftest import TAXONOMY

EVERY = np.arange(256, dtype=np.uint8)
SKY, GRASS, CAR = range(3)


def labels(dataset: Taxonomy = TAXONOMY, **changes: object) -> LabelSpace:
    reads = ["data/synthetic/seediff", "data/real/train"]
    tree = {"model": "hrnet", "strategy": "replace", "reads": reads}
    return LabelSpace.of(VariantConfig.model_validate(tree | changes), dataset)


def test_all_classes_are_the_datasets_own() -> None:
    space = labels()
    assert space.taxonomy is TAXONOMY
    assert space.truth_table is space.real_table is space.synthetic_table is None
    assert relabel(EVERY, None) is EVERY
    np.testing.assert_array_equal(space.count(np.array([5, 6, 7])), [5, 6, 7])


def test_hidden_classes_are_ignored_in_real_masks_alone() -> None:
    space = labels(hidden_classes=["grass"])
    assert space.truth_table is None and space.synthetic_table is None
    assert space.real_table is not None
    assert space.real_table[:4].tolist() == [SKY, 255, CAR, 255]


def test_unknown_classes_are_the_rest() -> None:
    """In the dataset's order, whatever that of `known_classes`; what is no class is ignored."""
    space = labels(known_classes=["car", "sky"], hidden_classes=["car"])
    assert space.taxonomy.slugs == ["sky", "car", "rest"]
    assert [c.is_thing for c in space.taxonomy] == [False, True, False]
    tables = (space.truth_table, space.real_table, space.synthetic_table)
    mapped = [table[[SKY, GRASS, CAR, 3, 255]].tolist() for table in tables if table is not None]
    assert mapped == [[0, 2, 1, 255, 255], [0, 2, 255, 255, 255], [0, 2, 1, 255, 255]]
    np.testing.assert_array_equal(space.count(np.array([5, 6, 7])), [5, 7, 6])


def test_what_synthetic_masks_ignore_may_be_the_rest() -> None:
    space = labels(known_classes=["car"], ignored_is_rest=True)
    assert space.synthetic_table is not None and space.real_table is not None
    assert space.synthetic_table[[SKY, CAR, 255]].tolist() == [1, 0, 1]
    assert space.real_table[255] == 255


@pytest.mark.parametrize("key", ["known_classes", "hidden_classes"])
def test_classes_that_are_not_there_are_named(key: str) -> None:
    with pytest.raises(ConfigError, match="there is no class 'tram'; this taxonomy has: sky"):
        labels(**{key: ["tram"]})


def test_a_dataset_with_a_class_of_that_name_has_no_other_rest() -> None:
    dataset = Taxonomy.from_names(stuff=["rest"], things=["car"])
    with pytest.raises(ConfigError, match="'rest', which is the name of the class of all pixels"):
        labels(dataset, known_classes=["car"])
    assert labels(dataset).taxonomy is dataset


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"ignored_is_rest": True}, "needs 'known_classes'"),
        ({"known_classes": ["car", "car"]}, "repeats a class"),
        ({"known_classes": ["car", "rest"]}, "lists 'rest'"),
        ({"known_classes": ["car"], "hidden_classes": ["sky"]}, "which 'known_classes' lacks"),
    ],
)
def test_classes_that_contradict_each_other_are_refused(changes: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        labels(**changes)
