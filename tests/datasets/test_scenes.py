"""Procedural scenes are functions of (seed, split, index).

No scene of a split is one of another split or of the pretraining stream.
"""

import numpy as np
import pytest

from seggen_core.config import DatasetConfig
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.rng import numpy_rng
from seggen_core.scenes.layout import sample_layout
from seggen_core.scenes.painter import paint
from seggen_core.scenes.stream import stream_scene
from seggen_core.taxonomy import IGNORE_INDEX

CONFIG = DatasetConfig(name="scenes", image_size=32, num_train=6, num_val=3, num_test=3)


def test_sample_is_painted_from_the_layout_in_its_metadata() -> None:
    sample = open_dataset(CONFIG, seed=7).read("val", "00002")
    layout = sample_layout(numpy_rng(7, "scenes", "val", 2))
    painted = paint(layout, size=32)
    assert sample.metadata == {"layout": layout.to_json(), "light": layout.light}
    np.testing.assert_array_equal(sample.image, painted.image)
    np.testing.assert_array_equal(sample.segmentation_map, painted.segmentation_map)
    assert sample.instance_map is not None
    assert sample.instance_map.dtype == np.uint16
    np.testing.assert_array_equal(sample.instance_map, painted.instance_map)


def test_samples_depend_on_seed_split_and_index_alone() -> None:
    reader = open_dataset(CONFIG, seed=7)
    larger = open_dataset(CONFIG.model_copy(update={"num_train": 60}), seed=7)
    last = reader.read("train", "00005").image  # read first, out of order
    np.testing.assert_array_equal(last, larger.read("train", "00005").image)
    pictures = {
        reader_seed: [
            open_dataset(CONFIG, seed=reader_seed).read(split, k).image.tobytes()
            for split in SPLITS
            for k in reader.keys(split)
        ]
        for reader_seed in (7, 8)
    }
    assert len({p for several in pictures.values() for p in several}) == 2 * 12, (
        "no scene comes twice"
    )


def test_no_scene_of_the_pretraining_stream_is_in_a_split() -> None:
    reader = open_dataset(CONFIG, seed=0)
    held = {reader.read(split, k).image.tobytes() for split in SPLITS for k in reader.keys(split)}
    stream = {
        stream_scene(i, seed=0, size=32, single_object_share=0.0, stuff_only_share=0.0)[0].tobytes()
        for i in range(20)
    }
    assert not held & stream


def test_maps_agree_with_the_taxonomy() -> None:
    reader = open_dataset(CONFIG, seed=3)
    for key in reader.keys("train"):
        sample = reader.read("train", key)
        assert sample.instance_map is not None
        things = np.isin(
            sample.segmentation_map, [c.train_id for c in reader.taxonomy if c.is_thing]
        )
        np.testing.assert_array_equal(things, sample.instance_map > 0)
        assert sample.segmentation_map.max() < len(reader.taxonomy) < IGNORE_INDEX


def test_splits_need_sizes_and_no_folder() -> None:
    with pytest.raises(ConfigError, match=r"dataset\.num_val, dataset\.num_test not set"):
        open_dataset(DatasetConfig(name="scenes", num_train=3), seed=0)
    with pytest.raises(ConfigError, match=r"dataset\.root"):
        open_dataset(CONFIG.model_copy(update={"root": "somewhere"}), seed=0)
    with pytest.raises(ConfigError, match=r"dataset\.splits"):
        open_dataset(CONFIG.model_copy(update={"splits": "val_as_test"}), seed=0)


def test_sample_past_the_end_is_refused() -> None:
    with pytest.raises(
        DatasetError, match="scenes has no val sample '00003'; expected 00000 to 00002"
    ):
        open_dataset(CONFIG, seed=0).read("val", "00003")
