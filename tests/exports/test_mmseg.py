import runpy

import numpy as np
import pytest
from PIL import Image

from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore
from tests.exports.conftest import Export
from tests.exports.project import COLORS, TAXONOMY, make_project, make_sample, stored, write_store


def test_folders_and_config_agree(paths: ProjectPaths, export: Export) -> None:
    out = export("--to", "mmseg", "real/train", "real/val", "masksyn")
    config = runpy.run_path(str(out / "mmseg_dataset.py"))
    assert config["metainfo"]["classes"] == tuple(c.name for c in TAXONOMY)
    assert config["metainfo"]["palette"] == COLORS.tolist()
    assert "test_dataset" not in config
    folders = {"train": ("real/train", "synthetic/masksyn/car"), "val": ("real/val",)}
    for split, names in folders.items():
        settings = config[f"{split}_dataset"]
        assert config[f"{split}_dataloader"]["dataset"] is settings
        assert settings["type"] == "BaseSegDataset"
        assert settings["ignore_index"] == 255
        assert not settings["reduce_zero_label"]
        images = out / settings["data_prefix"]["img_path"]
        masks = out / settings["data_prefix"]["seg_map_path"]
        keys = sorted(path.name.removesuffix(settings["img_suffix"]) for path in images.iterdir())
        assert keys == sorted(
            p.name.removesuffix(settings["seg_map_suffix"]) for p in masks.iterdir()
        )
        pairs = [
            (
                np.array(Image.open(images / f"{key}{settings['img_suffix']}")),
                np.array(Image.open(masks / f"{key}.png")),
            )
            for key in keys
        ]
        exported = sorted((image.tobytes(), mask.tobytes()) for image, mask in pairs)
        samples = stored(paths, *names)
        assert exported == sorted(
            (s.image.tobytes(), s.segmentation_map.tobytes()) for s in samples
        )


def test_images_of_two_kinds_become_jpeg(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from seggen_core.cli import main

    paths = make_project(tmp_path)
    jpegs = write_store(
        tmp_path / "jpegs", [make_sample("a", 1)], image_format="jpg", method="masksyn"
    )
    monkeypatch.chdir(tmp_path)
    assert main(["export", "--to", "mmseg", "--out", "out", "real/train", "jpegs"]) == 0
    images = sorted((tmp_path / "out" / "img_dir" / "train").iterdir())
    assert {image.suffix for image in images} == {".jpg"}
    assert len(images) == 1 + len(SampleStore(paths.real("train")))
    # A stored JPEG is copied, not encoded again.
    assert images[0].read_bytes() == SampleStore(jpegs).read_bytes("a", "image")
    config = runpy.run_path(str(tmp_path / "out" / "mmseg_dataset.py"))
    assert config["train_dataset"]["img_suffix"] == ".jpg"
