"""A store opens by its folder with `datasets`, and as its card says with webdataset."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from seggen_core.store.card import front_matter, store_card
from seggen_core.store.reader import SampleStore
from tests.exports.project import (
    COLORS,
    LICENSE,
    TAXONOMY,
    make_project,
    make_sample,
    stored,
    write_store,
)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_project(tmp_path_factory.mktemp("cards"))


def test_the_manifest_says_what_masks_hold(paths: Any) -> None:
    for folder in ("real/train", "synthetic/masksyn/sky", "synthetic/seediff/car"):
        manifest = SampleStore(paths.data / folder).manifest
        assert [row["name"] for row in manifest["classes"]] == [c.name for c in TAXONOMY]
        assert [row["color"] for row in manifest["classes"]] == COLORS.tolist()
        assert [row["is_thing"] for row in manifest["classes"]] == [False, False, True, True]
        assert manifest["ignore_index"] == 255
        assert manifest["license"] == (None if "seediff" in folder else LICENSE)
        assert manifest["taxonomy"] == TAXONOMY.digest


def test_load_dataset_takes_a_store_and_a_method_by_their_folders(
    paths: Any, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    for folder, split, stores in (
        ("real/val", "val", ["real/val"]),
        ("synthetic/seediff/car", "train", ["synthetic/seediff/car"]),
        ("synthetic/masksyn/car", "train", ["synthetic/masksyn/car"]),  # a namesake
        ("synthetic/masksyn", "train", ["synthetic/masksyn/car"]),
    ):
        loaded = datasets.load_dataset(
            str(paths.data / folder), split=split, cache_dir=str(tmp_path)
        )
        samples = stored(paths, *stores)
        assert len(loaded) == len(samples)
        for row, sample in zip(loaded, samples, strict=True):
            np.testing.assert_array_equal(np.array(row["png"]), sample.image)
            np.testing.assert_array_equal(np.array(row["mask.png"]), sample.segmentation_map)
            if sample.instance_map is not None:
                np.testing.assert_array_equal(np.array(row["instances.png"]), sample.instance_map)


def test_types_do_not_depend_on_the_first_samples(tmp_path: Path) -> None:
    """Left to itself, `datasets` drops late instances, cuts scores, and fails for late lists."""
    datasets = pytest.importorskip("datasets")
    late = [
        make_sample(
            f"s{i}",
            i,
            instances=i > 6,
            instance_ids=[] if i < 7 else [2**40],
            seed=2**62 + i,
            quality={"whole": 1 if i < 7 else 0.5, "missing": None if i < 7 else 0.25},
        )
        for i in range(9)
    ]
    folder = write_store(tmp_path / "late", late)
    loaded = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert [row["instances.png"] is None for row in loaded] == [True] * 7 + [False] * 2
    np.testing.assert_array_equal(np.array(loaded[8]["instances.png"]), late[8].instance_map)
    assert loaded[8]["json"]["quality"] == {"whole": 0.5, "missing": 0.25}
    assert loaded[8]["json"]["seed"] == 2**62 + 8
    assert loaded[0]["json"]["prompt"] is None


def code_of_card(folder: Path) -> str:
    blocks = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return next(block for block in blocks if "import webdataset" in block)


@pytest.mark.parametrize("decoder", ["rgb8", "pil", "torchrgb"])
def test_the_lines_of_the_card_decode_masks_with_every_image_decoder(
    decoder: str, paths: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("webdataset")
    folder = paths.real("train")
    monkeypatch.chdir(folder)
    lines = code_of_card(folder).replace('"rgb8"', f'"{decoder}"')
    names: dict[str, Any] = {}
    exec(lines.partition("for sample")[0], names)
    rows = list(names["samples"])
    wanted = list(SampleStore(folder))
    assert len(rows) == len(wanted)
    for row, sample in zip(rows, wanted, strict=True):
        assert row["mask.png"].dtype == np.uint8
        np.testing.assert_array_equal(row["mask.png"], sample.segmentation_map)
        assert row["instances.png"].max() > 255
        np.testing.assert_array_equal(row["instances.png"], sample.instance_map)
    image = np.asarray(rows[0]["png"])
    if decoder == "torchrgb":
        np.testing.assert_allclose(image, wanted[0].image.transpose(2, 0, 1) / 255, atol=1e-6)
    else:
        np.testing.assert_array_equal(image, wanted[0].image)


@pytest.mark.parametrize(
    "text, license_name",
    [
        ("cc-by-4.0", "cc-by-4.0"),
        ("Apache-2.0", "apache-2.0"),
        (None, "unknown"),
        ("Cityscapes: own\nterms: x", "other"),
    ],
)
def test_front_matter_is_yaml_whatever_the_licence(text: str | None, license_name: str) -> None:
    matter = front_matter(text, data_files={"train": "shard-*.tar"}, digest="ab")
    tree = yaml.safe_load(matter.strip().strip("-"))
    assert tree["license"] == license_name
    files = [{"split": "train", "path": "shard-*.tar"}]
    assert tree["configs"][0]["data_files"] == files


def test_an_empty_store_says_so(paths: Any) -> None:
    store = SampleStore(paths.synthetic("masksyn", "sky"))
    assert "no shard" in store_card(
        store.manifest, index=(store.folder / "index.parquet").read_bytes()
    )
