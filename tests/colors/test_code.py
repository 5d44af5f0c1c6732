"""Masks survive painting as a colour map and decoding, for the classes of every profile."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from seggen_core.colors.code import ColorCode
from seggen_core.config import ColorMapKind, load_config
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.scenes import SCENES_TAXONOMY
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

PROFILES = sorted(path.parent.name for path in Path("profiles").glob("*/params.yaml"))


@cache
def color_code(profile: str, kind: ColorMapKind | None = None) -> ColorCode:
    """Return the colour code of a profile: its own kind of colour maps, or another."""
    dataset = load_config(Path("profiles") / profile / "params.yaml").dataset
    if dataset.name == "scenes":
        taxonomy = SCENES_TAXONOMY
    elif dataset.name in ("folder", "words"):  # the user's own classes
        names = [f"class {index}" for index in range(40)]
        taxonomy = Taxonomy.from_names(stuff=names[:20], things=names[20:])
    else:
        taxonomy = load_class_table(dataset.name).taxonomy
    return ColorCode(taxonomy, kind=kind or dataset.color_map)


def round_trip(
    code: ColorCode, mask: np.ndarray, instances: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray | None]:
    decoded = code.decode(code.encode(mask, instance_map=instances)[None])
    assert decoded.segmentation_maps.dtype == np.uint8
    return decoded.segmentation_maps[
        0
    ], None if decoded.instance_maps is None else decoded.instance_maps[0]


def ids(num_classes: int) -> st.SearchStrategy[int]:
    return st.one_of(st.integers(0, num_classes - 1), st.just(IGNORE_INDEX))


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_semantic_mask_comes_back_as_it_was(profile: str, data: Any) -> None:
    code = color_code(profile, "semantic")
    mask = data.draw(
        arrays(
            np.uint8,
            array_shapes(min_dims=2, max_dims=2, max_side=24),
            elements=ids(len(code.palette)),
        )
    )
    assert (round_trip(code, mask)[0] == mask).all()


@pytest.mark.parametrize("num_classes", [1, 2, 8, 254, 255])
def test_so_does_one_with_as_few_or_as_many_classes_as_there_can_be(num_classes: int) -> None:
    code = ColorCode(
        Taxonomy.from_names(stuff=[f"s{i}" for i in range(num_classes)], things=[]), kind="semantic"
    )
    drawn = np.random.default_rng(num_classes).integers(0, num_classes + 1, (40, 40))
    mask = np.where(drawn == num_classes, IGNORE_INDEX, drawn).astype(np.uint8)
    assert (round_trip(code, mask)[0] == mask).all()


@pytest.mark.parametrize("profile", PROFILES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_panoptic_masks_of_compact_segments_come_back_with_their_instances(
    profile: str, data: Any
) -> None:
    """An outline covers the rim of every segment: the rest has to be connected, 2x2 and 8 pixels.

    Blocks of 8x8 pixels are. Segments of any other shape lose what their outlines cover whole.
    """
    code = color_code(profile, "panoptic")
    shape = array_shapes(min_dims=2, max_dims=2, max_side=5)
    blocks = data.draw(arrays(np.uint8, shape, elements=ids(len(code.palette))))
    numbers = np.arange(1, blocks.size + 1, dtype=np.uint16).reshape(blocks.shape)
    things = np.append(code.things, np.zeros(256 - len(code.things), bool))[blocks]
    mask, instances = (
        np.kron(a, np.ones((8, 8), a.dtype))
        for a in (blocks, np.where(things, numbers, 0).astype(np.uint16))
    )
    decoded, decoded_instances = round_trip(code, mask, instances)
    assert (decoded == mask).all()
    assert decoded_instances is not None
    # One number for each instance: the pairs of numbers are a one-to-one relation.
    pairs = np.unique(np.stack([instances.ravel(), decoded_instances.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(instances)) == len(np.unique(decoded_instances))
    assert (decoded_instances[instances == 0] == 0).all()
