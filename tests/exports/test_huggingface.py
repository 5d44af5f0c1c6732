import io
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from seggen_core.config import DatasetConfig
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS
from seggen_core.exports import huggingface
from seggen_core.project.paths import ProjectPaths
from tests.exports.conftest import Export
from tests.exports.project import LICENSE, stored

datasets = pytest.importorskip("datasets")


def check_rows(rows, samples: list) -> None:
    assert len(rows) == len(samples)
    for row, sample in zip(rows, samples, strict=True):
        np.testing.assert_array_equal(np.array(row["image"]), sample.image)
        np.testing.assert_array_equal(np.array(row["mask"]), sample.segmentation_map)
        if sample.instance_map is None:
            assert row["instances"] is None
        else:
            np.testing.assert_array_equal(np.array(row["instances"]), sample.instance_map)
        assert row["prompt"] == sample.metadata.get("prompt")
        assert json.loads(row["metadata"]) == sample.metadata


def test_load_dataset_gives_all_maps_back(
    paths: ProjectPaths, export: Export, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface, "FILE_BYTES", 1)  # a file for each group
    monkeypatch.setattr(huggingface, "_MAX_GROUP", 4)
    out = export("--to", "huggingface", "real", "seediff", "masksyn")
    names = sorted(path.name for path in (out / "data").iterdir())
    assert [name for name in names if name.startswith("train")] == [
        f"train-0000{i}.parquet" for i in range(3)
    ]
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == {"train", "val", "test"}
    train = stored(paths, "real/train", "synthetic/seediff/car", "synthetic/masksyn/car")
    check_rows(loaded["train"], train)
    check_rows(loaded["val"], stored(paths, "real/val"))
    assert loaded["train"]["source"][0] == "real/train"
    # The prompt of a synthetic sample is in a column, and masks are as they are stored.
    table = pq.read_table(out / "data" / "val-00000.parquet").to_pylist()
    mask = Image.open(io.BytesIO(table[0]["mask"]["bytes"]))
    assert (mask.mode, mask.format) == ("L", "PNG")


def test_the_folder_is_a_dataset_for_the_reader(paths: ProjectPaths, export: Export) -> None:
    out = export("--to", "huggingface", "real")
    section = {"name": "huggingface", "root": out, "max_unlisted_share": 1.0}
    reader = open_dataset(DatasetConfig.model_validate(section), seed=0)
    for split in SPLITS:
        for key, sample in zip(reader.keys(split), stored(paths, f"real/{split}"), strict=True):
            raw = reader.read(split, key)
            np.testing.assert_array_equal(raw.segmentation_map, sample.segmentation_map)
            assert (raw.instance_map is None) == (sample.instance_map is None)


def test_the_card_names_licence_classes_models_and_quality(
    paths: ProjectPaths, export: Export
) -> None:
    report = paths.report("judge", "masksyn")
    report.mkdir(parents=True)
    try:
        (report / "metrics.json").write_text('{"miou": 61.25, "classes": {"car": 3}}')
        out = export("--to", "huggingface", "--name", "my|scenes", "real/val", "masksyn")
    finally:
        (report / "metrics.json").unlink()
        report.rmdir()
    card = (out / "README.md").read_text()
    front, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert f"license: {LICENSE}" in front
    for line in (
        r"# my\|scenes",
        "| 2 | car | thing | 70, 80, 90 |",
        "| real/val | val | 3 | real |",
        "| masksyn/car | train | 4 | synthetic, masksyn |",
        "| foundation | some/model | abc123 |  |",
        "| mask2img | trained by this project |  | 1234 |",
        "| masksyn/car | mean score | 0.375 |",
        "| masksyn | judge: miou | 61.25 |",
        f"Of the real data: {LICENSE}",
    ):
        assert line in body


def test_another_export_in_a_folder_of_the_same_name_is_not_read_from_the_cache(
    export: Export, tmp_path
) -> None:
    lengths = []
    for index, source in enumerate(("real/train", "masksyn")):
        out = export("--to", "huggingface", source, out=tmp_path / str(index) / "same")
        loaded = datasets.load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
        lengths.append(len(loaded))
    assert lengths == [5, 4]
