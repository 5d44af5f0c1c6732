import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from seggen_core.project.paths import ProjectPaths
from tests.exports.conftest import Export
from tests.exports.project import COLORS, TAXONOMY, THINGS, stored
from tests.exports.test_coco import expected_things
from tests.exports.test_coco_panoptic import read_ids


def test_dicts_are_as_documented_and_give_all_maps_back(
    paths: ProjectPaths, export: Export
) -> None:
    out = export("--to", "detectron2", "real/train", "real/val")
    about = json.loads((out / "metadata.json").read_text())
    assert about["stuff_classes"] == [c.name for c in TAXONOMY]
    assert about["thing_classes"] == [TAXONOMY[i].name for i in THINGS]
    assert about["thing_colors"] == COLORS[list(THINGS)].tolist()
    assert about["thing_dataset_id_to_contiguous_id"] == {"2": 0, "3": 1}
    assert about["ignore_label"] == 255
    for split in ("train", "val"):
        dicts = json.loads((out / f"{split}.json").read_text())
        samples = stored(paths, f"real/{split}")
        assert len({entry["image_id"] for entry in dicts}) == len(dicts) == len(samples)
        for entry, sample in zip(dicts, samples, strict=True):
            check_dict(entry, sample)


def check_dict(entry: dict, sample) -> None:
    """Compare with detectron2's table "Standard Dataset Dicts"."""
    assert (entry["height"], entry["width"]) == sample.segmentation_map.shape
    np.testing.assert_array_equal(np.array(Image.open(entry["file_name"])), sample.image)
    sem_seg = np.array(Image.open(entry["sem_seg_file_name"]))
    np.testing.assert_array_equal(sem_seg, sample.segmentation_map)
    wanted = expected_things(sample)
    assert len(entry["annotations"]) == len(wanted)
    for annotation, ((train_id, instance), mask) in zip(
        entry["annotations"], sorted(wanted.items()), strict=True
    ):
        assert annotation["category_id"] == THINGS.index(train_id)
        assert annotation["bbox_mode"] == 1
        assert annotation["iscrowd"] == int(instance == 0)
        decoded = coco_mask.decode(annotation["segmentation"]).astype(bool)
        np.testing.assert_array_equal(decoded, mask)
        rows, columns = np.nonzero(mask)
        left, top, width, height = annotation["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
    ids = read_ids(Path(entry["pan_seg_file_name"]))
    assert {0, *(info["id"] for info in entry["segments_info"])} == set(np.unique(ids))
    for info in entry["segments_info"]:
        assert set(sample.segmentation_map[ids == info["id"]]) == {info["category_id"]}
        assert info["isthing"] == (info["category_id"] in THINGS)


def test_register_finds_the_files_after_a_move(export: Export, tmp_path: Path) -> None:
    out = export("--to", "detectron2", "real/val")
    moved = shutil.move(out, tmp_path / "moved")
    module = runpy.run_path(str(Path(moved) / "register.py"))
    for entry in module["load"]("val"):
        for name in ("file_name", "sem_seg_file_name", "pan_seg_file_name"):
            assert Path(entry[name]).is_file()
            assert Path(entry[name]).is_relative_to(moved)
    assert module["metadata"]()["splits"] == ["val"]


def test_without_instances_the_dicts_are_semantic(
    export: Export, caplog: pytest.LogCaptureFixture
) -> None:
    out = export("--to", "detectron2", "real/train", "seediff")
    for entry in json.loads((out / "train.json").read_text()):
        assert set(entry) == {"file_name", "height", "width", "image_id", "sem_seg_file_name"}
    assert "semantic segmentation alone" in caplog.text


def test_detectron2_registers_the_export(export: Export) -> None:
    data = pytest.importorskip("detectron2.data", reason="not on the package index")
    out = export("--to", "detectron2", "real/val")
    runpy.run_path(str(out / "register.py"))["register"]("export_")
    try:
        assert len(data.DatasetCatalog.get("export_val")) == 3
        assert data.MetadataCatalog.get("export_val").thing_classes == ["car", "dog: small"]
    finally:
        data.DatasetCatalog.remove("export_val")
