import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seggen_core.project.paths import ProjectPaths
from seggen_core.taxonomy import IGNORE_INDEX
from tests.exports.conftest import Export
from tests.exports.project import TAXONOMY, THINGS, stored


def read_ids(file: Path) -> np.ndarray:
    """Return segment ids as panopticapi.utils.rgb2id does, int64 [H, W]."""
    return np.array(Image.open(file), dtype=np.int64) @ [1, 256, 65536]


def test_segments_give_classes_and_instances_back(paths: ProjectPaths, export: Export) -> None:
    out = export("--to", "coco-panoptic", "real", "masksyn/car")
    names = {"train": ("real/train", "synthetic/masksyn/car"), "val": ("real/val",)}
    for split, folders in names.items():
        tree = json.loads((out / "annotations" / f"panoptic_{split}.json").read_text())
        samples = stored(paths, *folders)
        assert [c["id"] for c in tree["categories"]] == [1, 2, 3, 4]
        assert [c["isthing"] for c in tree["categories"]] == [0, 0, 1, 1]
        assert [c["name"] for c in tree["categories"]] == [c.name for c in TAXONOMY]
        assert len(tree["annotations"]) == len(tree["images"]) == len(samples)
        for image, entry, sample in zip(tree["images"], tree["annotations"], samples, strict=True):
            assert entry["image_id"] == image["id"]
            assert (out / "images" / split / image["file_name"]).is_file()
            ids = read_ids(out / "annotations" / f"panoptic_{split}" / entry["file_name"])
            check_segments(ids, entry["segments_info"], sample)


def check_segments(ids: np.ndarray, infos: list[dict], sample) -> None:
    assert set(np.unique(ids)) == {0, *(info["id"] for info in infos)}
    np.testing.assert_array_equal(ids == 0, sample.segmentation_map == IGNORE_INDEX)
    objects = set()
    for info in infos:
        mask = ids == info["id"]
        train_id = info["category_id"] - 1
        assert np.all(sample.segmentation_map[mask] == train_id)
        assert info["area"] == mask.sum()
        rows, columns = np.nonzero(mask)
        left, top = columns.min(), rows.min()
        assert info["bbox"] == [left, top, columns.max() - left + 1, rows.max() - top + 1]
        instance = 0
        if train_id in THINGS:
            assert len(set(sample.instance_map[mask].tolist())) == 1
            instance = int(sample.instance_map[mask][0])
        assert info["iscrowd"] == int(train_id in THINGS and instance == 0)
        objects.add((train_id, instance))
    assert len(objects) == len(infos)  # no segment is cut in two


def test_panopticapi_scores_an_export_against_itself_as_perfect(export: Export) -> None:
    evaluation = pytest.importorskip("panopticapi.evaluation", reason="not in the lock")
    out = export("--to", "coco-panoptic", "real/val")
    file = out / "annotations" / "panoptic_val.json"
    tree = json.loads(file.read_text())
    scores = evaluation.pq_compute_single_core(
        0,
        [(entry, entry) for entry in tree["annotations"]],
        str(file.with_suffix("")),
        str(file.with_suffix("")),
        {c["id"]: c for c in tree["categories"]},
    )
    quality, _ = scores.pq_average({c["id"]: c for c in tree["categories"]}, isthing=None)
    assert quality["pq"] == 1
    assert quality["n"] == len(TAXONOMY)


def test_stuff_alone_needs_no_instances(
    paths: ProjectPaths, export: Export, tmp_path: Path
) -> None:
    out = export("--to", "coco-panoptic", "--components", "seediff")
    tree = json.loads((out / "annotations" / "panoptic_train.json").read_text())
    sample = stored(paths, "synthetic/seediff/car")[0]
    infos = tree["annotations"][0]["segments_info"]
    assert sum(info["category_id"] == 3 for info in infos) == 4
    assert not any(info["iscrowd"] for info in infos)
    assert sum(i["area"] for i in infos) == (sample.segmentation_map != IGNORE_INDEX).sum()
