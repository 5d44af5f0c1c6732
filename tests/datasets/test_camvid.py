"""CamVid: splits, ids, and the real files where SEGGEN_REAL_DATA says they are."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import DatasetConfig, Split
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

CAMVID_TAXONOMY = load_class_table("camvid").taxonomy


def _open(root: Path, *, seed: int = 0, **settings: object) -> DatasetReader:
    config = DatasetConfig.model_validate(
        {"name": "camvid", "root": root, "splits": "val_as_test"} | settings
    )
    return open_dataset(config, seed=seed)


def _keys(reader: DatasetReader) -> dict[Split, list[str]]:
    return {split: reader.keys(split) for split in SPLITS}


def test_read_maps_void_to_ignore_and_keeps_other_ids(camvid_root: Path) -> None:
    reader = _open(camvid_root)
    key = reader.keys("train")[0]
    sample = reader.read("train", key)
    ids = np.array(Image.open(camvid_root / "trainannot" / f"{key}.png"))
    np.testing.assert_array_equal(sample.segmentation_map, np.where(ids == 11, IGNORE_INDEX, ids))
    np.testing.assert_array_equal(
        sample.image, np.array(Image.open(camvid_root / "train" / f"{key}.jpg"))
    )
    assert sample.instance_map is None
    assert sample.metadata == {"file": f"train/{key}.jpg", "recording": key[:6]}


def test_taxonomy_follows_the_files_order_and_cityscapes_things() -> None:
    assert CAMVID_TAXONOMY.slugs[:4] == ["sky", "building", "pole", "road"]
    assert [c.name for c in CAMVID_TAXONOMY if c.is_thing] == ["car", "pedestrian", "bicyclist"]


def test_val_folder_is_held_out_and_validation_is_whole_stretches_of_train(
    camvid_root: Path,
) -> None:
    keys = _keys(_open(camvid_root, num_val=6))
    assert keys["test"] == sorted(p.stem for p in (camvid_root / "val").iterdir())
    assert len(keys["val"]) == 6
    assert sorted(keys["train"] + keys["val"]) == sorted(
        p.stem for p in (camvid_root / "train").iterdir()
    )
    assert not set(keys["train"]) & set(keys["val"])
    for recording, share in (("0001TP", 2), ("0016E5", 4)):  # in proportion to 10 and 20 frames
        everything = sorted(k for k in keys["train"] + keys["val"] if k.startswith(recording))
        held = [k for k in keys["val"] if k.startswith(recording)]
        assert held in (everything[:share], everything[-share:])


def test_a_gap_in_time_starts_a_new_run(camvid_root: Path) -> None:
    for folder in ("train", "trainannot"):
        for path in (camvid_root / folder).glob("0016E5_*"):
            frame = int(path.stem.split("_")[1])
            if frame >= 300:
                path.rename(path.with_stem(f"0016E5_{frame + 1000:05d}"))
    held = _keys(_open(camvid_root, num_val=6))["val"]
    assert sum(k.startswith("0016E5_00") for k in held) == 2
    assert sum(k.startswith("0016E5_01") for k in held) == 2


def test_validation_depends_on_the_seed_alone(camvid_root: Path) -> None:
    assert _keys(_open(camvid_root, seed=1)) == _keys(_open(camvid_root, seed=1))
    assert len({tuple(_open(camvid_root, seed=s).keys("val")) for s in range(8)}) > 1


def test_published_splits_need_a_test_folder(camvid_root: Path) -> None:
    with pytest.raises(DatasetError, match=r"test is missing.*set dataset\.splits to val_as_test"):
        _open(camvid_root, splits="published")
    (camvid_root / "val").rename(camvid_root / "test")
    (camvid_root / "valannot").rename(camvid_root / "testannot")
    for folder in ("val", "valannot"):
        (camvid_root / folder).mkdir()
        for path in sorted((camvid_root / folder.replace("val", "train")).iterdir())[:3]:
            path.rename(camvid_root / folder / path.name)
    keys = _keys(_open(camvid_root, splits="published"))
    assert {split: len(k) for split, k in keys.items()} == {"train": 27, "val": 3, "test": 4}


def test_limits_are_drawn_over_the_whole_split(camvid_root: Path) -> None:
    keys = _open(camvid_root, num_train=12, num_test=2)
    assert len(keys.keys("train")) == 12
    assert len(keys.keys("test")) == 2
    assert {k[:6] for k in keys.keys("train")} == {"0001TP", "0016E5"}
    assert keys.keys("train") == sorted(keys.keys("train"))
    with pytest.raises(
        ConfigError, match=r"dataset\.num_train is 500, but the dataset has 27 train samples"
    ):
        _open(camvid_root, num_train=500)
    with pytest.raises(ConfigError, match=r"dataset\.num_val is 30"):
        _open(camvid_root, num_val=30)


def test_unknown_key_is_refused(camvid_root: Path) -> None:
    with pytest.raises(DatasetError, match="camvid has no test sample 'nobody'"):
        _open(camvid_root).read("test", "nobody")


@pytest.mark.skipif(
    "SEGGEN_REAL_DATA" not in os.environ,
    reason="SEGGEN_REAL_DATA doesn't name a folder with camvid/",
)
def test_the_real_files() -> None:
    reader = _open(Path(os.environ["SEGGEN_REAL_DATA"]).resolve() / "camvid")
    keys = _keys(reader)
    assert {split: len(k) for split, k in keys.items()} == {"train": 330, "val": 37, "test": 101}
    recordings = {"0001TP", "0006R0", "0016E5"}
    assert {k[:6] for k in keys["val"]} == {k[:6] for k in keys["train"]} == recordings
    seen = set()
    for key in keys["val"]:
        sample = reader.read("val", key)
        assert sample.image.shape == (360, 480, 3)
        seen |= set(np.unique(sample.segmentation_map).tolist())
    assert seen == {*range(11), IGNORE_INDEX}, "the validation slice has every class"
