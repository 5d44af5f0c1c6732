"""The stages `dataset` and `captions`, run as DVC runs them, on scenes and on a small CamVid."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from seggen_core.colors.class_colors import read_class_colors
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.fit import fit_sample
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.same_images import image_digests
from seggen_core.datasets.subset import class_partitions, draw_subset
from seggen_core.errors import CaptionError, ConfigError, DatasetError
from seggen_core.project.paths import ProjectPaths
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.stages import captions, dataset
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy
from tests.minimal_config import minimal_config

CAMVID_TAXONOMY = load_class_table("camvid").taxonomy

SCENES = {
    "name": "scenes",
    "image_size": 32,
    "num_train": 12,
    "num_val": 3,
    "num_test": 4,
    "subset_size": 5,
    "subset_seeds": [0, 1],
}


@pytest.fixture
def paths(tmp_path: Path) -> ProjectPaths:
    return ProjectPaths(tmp_path / "project")


@pytest.fixture
def camvid(paths: ProjectPaths) -> dict[str, Any]:
    """Write a CamVid of 16 train and 3 val frames, 48x36; return the section that reads it."""
    root = paths.root / "camvid"
    for folder, count in (("train", 16), ("val", 3)):
        for name in (folder, f"{folder}annot"):
            (root / name).mkdir(parents=True)
        for i in range(count):
            rng = np.random.default_rng([len(folder), i])
            Image.fromarray(rng.integers(0, 256, (36, 48, 3), dtype=np.uint8)).save(
                root / folder / f"0001TP_{30 * i:06d}.jpg"
            )
            mask = rng.permutation(12).astype(np.uint8).reshape(3, 4).repeat(12, 0).repeat(12, 1)
            Image.fromarray(mask).save(root / f"{folder}annot" / f"0001TP_{30 * i:06d}.png")
    return {
        "name": "camvid",
        "root": "camvid",
        "splits": "val_as_test",
        "image_size": 24,
        "subset_size": 4,
    }


def _tree(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_scenes_become_stores_taxonomy_and_subsets(paths: ProjectPaths) -> None:
    config = minimal_config(SCENES, seed=3)
    dataset.run(config, paths=paths, item=None)
    reader = open_dataset(config.dataset, seed=3)
    for split, count in zip(SPLITS, (12, 3, 4), strict=True):
        store = SampleStore(paths.real(split))
        assert store.keys() == [f"{split}-{i:05d}" for i in range(count)]
        assert store.manifest["dropped"] == {}
        assert store.manifest["license"] == "apache-2.0"
        assert Taxonomy.from_json(store.manifest["classes"]) == SCENES_TAXONOMY
        assert "license: apache-2.0" in (store.folder / "README.md").read_text()
        for i in (0, count - 1):
            raw, sample = reader.read(split, f"{i:05d}"), store[f"{split}-{i:05d}"]
            np.testing.assert_array_equal(sample.image, raw.image)
            np.testing.assert_array_equal(sample.segmentation_map, raw.segmentation_map)
            np.testing.assert_array_equal(sample.instance_map, raw.instance_map)
            assert sample.metadata == {"source_key": f"{i:05d}"} | raw.metadata
    assert Taxonomy.from_json(json.loads(paths.taxonomy.read_text())) == SCENES_TAXONOMY
    index = SampleStore(paths.real("train")).index
    counts = dict(zip(index["key"], index["class_pixel_counts"], strict=True))
    subsets = json.loads(paths.subsets.read_text())
    assert subsets == {str(s): draw_subset(counts, size=5, seed=3, subset_seed=s) for s in (0, 1)}
    assert subsets["0"] != subsets["1"]
    assert sorted(
        k for keys in class_partitions(counts, SCENES_TAXONOMY).values() for k in keys
    ) == sorted(counts)
    assert not list(paths.scratch.rglob("*.tar")), "nothing unfinished is left"
    assert list(paths.metrics_log.rglob("samples.png")), "a preview is logged"


def test_stages_are_byte_deterministic_and_replace_what_was_there(
    paths: ProjectPaths, tmp_path: Path
) -> None:
    other = ProjectPaths(tmp_path / "other")
    dataset.run(
        minimal_config(SCENES | {"num_train": 3, "subset_size": 2}), paths=other, item=None
    )  # another dataset first
    (paths.scratch / "dataset" / "train").mkdir(parents=True)
    (paths.scratch / "dataset" / "train" / "shard-00000.tar").write_bytes(
        b"of a run that was killed"
    )
    for p in (paths, other):
        dataset.run(minimal_config(SCENES), paths=p, item=None)
        captions.run(minimal_config(SCENES), paths=p, item=None)
    assert _tree(paths.data) == _tree(other.data)


def test_camvid_is_resized_and_its_held_out_split_is_the_val_folder(
    paths: ProjectPaths, camvid: dict[str, Any]
) -> None:
    config = minimal_config(camvid)
    dataset.run(config, paths=paths, item=None)
    assert [len(SampleStore(paths.real(s))) for s in SPLITS] == [14, 2, 3]
    assert Taxonomy.from_json(json.loads(paths.taxonomy.read_text())) == CAMVID_TAXONOMY
    reader = open_dataset(config.dataset, seed=0, base=paths.root)
    manifest = SampleStore(paths.real("test")).manifest
    assert [row["color"] for row in manifest["classes"]] == reader.palette.tolist()
    assert read_class_colors(paths.taxonomy).tolist() == reader.palette.tolist()
    assert manifest["license"] is None  # nobody states one
    sample = SampleStore(paths.real("test"))["test-00001"]
    assert sample.metadata == {
        "source_key": "0001TP_000030",
        "file": "val/0001TP_000030.jpg",
        "recording": "0001TP",
    }
    expected = fit_sample(reader.read("test", "0001TP_000030"), config=config.dataset)
    np.testing.assert_array_equal(sample.image, expected.image)
    np.testing.assert_array_equal(sample.segmentation_map, expected.segmentation_map)
    assert str(paths.root).encode() not in b"".join(_tree(paths.data).values()), (
        "no path of this machine gets into the data"
    )


def test_bad_samples_stop_the_stage_unless_they_are_allowed(
    paths: ProjectPaths, camvid: dict[str, Any]
) -> None:
    dataset.run(minimal_config(camvid), paths=paths, item=None)
    before = _tree(paths.data)
    bad = paths.root / "camvid" / "val" / "0001TP_000000.jpg"
    bad.write_bytes(bad.read_bytes()[:500])
    with pytest.raises(
        DatasetError,
        match=r"1 of the first 3 test samples are bad, dataset\.max_bad allows 0:\n"
        r".*000000\.jpg can't be decoded",
    ):
        dataset.run(minimal_config(camvid), paths=paths, item=None)
    assert _tree(paths.data) == before, "what was made before is untouched"
    dataset.run(minimal_config(camvid | {"max_bad": 1}), paths=paths, item=None)
    store = SampleStore(paths.real("test"))
    assert store.keys() == ["test-00001", "test-00002"], "keys don't move up"
    assert list(store.manifest["dropped"]) == ["0001TP_000000"]
    assert "can't be decoded" in store.manifest["dropped"]["0001TP_000000"]


def test_split_without_a_sound_sample_is_refused_even_if_all_may_be_bad(
    paths: ProjectPaths, camvid: dict[str, Any]
) -> None:
    for path in (paths.root / "camvid" / "valannot").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="the test split holds no sound sample of 3"):
        dataset.run(minimal_config(camvid | {"max_bad": 3}), paths=paths, item=None)


def test_class_that_does_not_exist_is_refused_before_any_work(paths: ProjectPaths) -> None:
    with pytest.raises(
        ConfigError, match="there is no class 'zebra'; this taxonomy has: sky, grass"
    ):
        dataset.run(minimal_config(SCENES, classes=["car", "zebra"]), paths=paths, item=None)
    assert not paths.root.exists()


def test_captions_has_one_row_a_training_sample(paths: ProjectPaths) -> None:
    config = minimal_config(SCENES)
    dataset.run(config, paths=paths, item=None)
    captions.run(config, paths=paths, item=None)
    table = pd.read_parquet(paths.captions)
    assert list(table.columns) == ["sample_key", "caption", "captioner", "revision"]
    assert table["sample_key"].tolist() == [f"train-{i:05d}" for i in range(12)]
    assert set(table["captioner"]) == {"class_list"}
    assert set(table["revision"]) == {"1"}
    assert table["caption"].str.startswith("a photo of ").all()
    assert table["caption"].nunique() > 6


def test_captions_from_a_file_below_the_project(paths: ProjectPaths) -> None:
    dataset.run(minimal_config(SCENES), paths=paths, item=None)
    config = minimal_config(SCENES, captions={"captioner": "file", "reads": "mine.csv"})
    rows = [{"sample_key": f"{i:05d}", "caption": f"scene number {i}"} for i in range(12)]
    pd.DataFrame(rows[:-1]).to_csv(paths.root / "mine.csv", index=False)
    with pytest.raises(CaptionError, match=r"mine\.csv has no caption for 1 sample\(s\): 00011"):
        captions.run(config, paths=paths, item=None)
    assert not paths.captions.exists()
    pd.DataFrame(rows).to_csv(paths.root / "mine.csv", index=False)
    captions.run(config, paths=paths, item=None)
    assert pd.read_parquet(paths.captions)["caption"].tolist() == [
        f"scene number {i}" for i in range(12)
    ]


def test_samples_at_their_own_aspect(paths: ProjectPaths, camvid: dict[str, Any]) -> None:
    native = camvid | {"fit": "native", "max_size": 24, "image_format": "jpeg"}
    native |= {"keep_val_in_train": True}
    config = minimal_config(
        native,
        train_seg={"common": {"resize": "short_side", "short_side": 16, "crop_size": 16}},
    )
    dataset.run(config, paths=paths, item=None)
    train, val, test = (SampleStore(paths.real(s)) for s in SPLITS)
    reader = open_dataset(config.dataset, seed=0, base=paths.root)
    assert set(train.index["width"]) == {24} and set(train.index["height"]) == {18}
    assert train.read_bytes(0, "image")[:3] == b"\xff\xd8\xff"
    for store, split in ((val, "val"), (test, "test")):
        for sample in store:
            published = reader.read(split, sample.metadata["source_key"])  # type: ignore[arg-type]
            np.testing.assert_array_equal(sample.image, published.image)
            np.testing.assert_array_equal(sample.segmentation_map, published.segmentation_map)
    # Shrunk and compressed copies of an image are still found among the training images.
    shared = set(image_digests(val, like=train)) & set(image_digests(train))
    assert len(shared) == len(val)
    assert not set(image_digests(test, like=train)) & set(image_digests(train))
    assert not set(image_digests(val)) & set(image_digests(train))
