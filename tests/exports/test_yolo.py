from pathlib import Path

import numpy as np
import pytest
import yaml

from seggen_core.project.paths import ProjectPaths
from tests.exports.conftest import Export
from tests.exports.project import THINGS, stored
from tests.exports.test_coco import expected_things
from tests.exports.test_polygons import fill_as_coco


def read_labels(file: Path, *, height: int, width: int) -> list[tuple[int, np.ndarray]]:
    """Read lines as Ultralytics documents them: class, then x and y as shares of the size."""
    things = []
    for line in file.read_text().splitlines():
        class_index, *values = line.split()
        points = np.array(values, np.float64).reshape(-1, 2)
        assert len(points) >= 3
        assert points.min() >= 0
        assert points.max() <= 1
        mask = fill_as_coco([points * (width, height)], (height, width))
        things.append((int(class_index), mask))
    return things


def test_polygons_give_the_instances_back(
    paths: ProjectPaths, export: Export, caplog: pytest.LogCaptureFixture
) -> None:
    out = export("--to", "yolo", "real/train", "real/val")
    tree = yaml.safe_load((out / "data.yaml").read_text())
    assert tree == {
        "train": "images/train",
        "val": "images/val",
        "names": {0: "car", 1: "dog: small"},
    }
    for split in ("train", "val"):
        for sample in stored(paths, f"real/{split}"):
            assert (out / tree[split] / f"{sample.key}.png").is_file()
            height, width = sample.segmentation_map.shape
            labels = out / "labels" / split / f"{sample.key}.txt"
            polygons = read_labels(labels, height=height, width=width)
            wanted = expected_things(sample)
            singles = [(t, m) for (t, i), m in sorted(wanted.items()) if i > 0]
            assert [class_index for class_index, _ in polygons] == [
                THINGS.index(t) for t, _ in singles
            ]
            for (_, mask), (_, expected) in zip(polygons, singles, strict=True):
                np.testing.assert_array_equal(mask, expected)
    assert "8 regions of things that belong to no instance are left out" in caplog.text


def test_a_missing_val_split_is_told(export: Export, caplog: pytest.LogCaptureFixture) -> None:
    out = export("--to", "yolo", "masksyn")
    tree = yaml.safe_load((out / "data.yaml").read_text())
    assert tree["val"] == tree["train"] == "images/train"
    assert "add real/val" in caplog.text


def test_supervision_reads_the_folder(paths: ProjectPaths, export: Export) -> None:
    sv = pytest.importorskip("supervision", reason="too large for the lock; run it by hand")
    out = export("--to", "yolo", "real/val")
    dataset = sv.DetectionDataset.from_yolo(
        str(out / "images" / "val"), str(out / "labels" / "val"), str(out / "data.yaml")
    )
    assert dataset.classes == ["car", "dog: small"]
    for path, _, detections in dataset:
        sample = next(s for s in stored(paths, "real/val") if s.key == Path(path).stem)
        wanted = [m for (_, i), m in sorted(expected_things(sample).items()) if i > 0]
        assert len(detections) == len(wanted)
        for mask, expected in zip(detections.mask.astype(bool), wanted, strict=True):
            # supervision rounds coordinates and fills with the outline: up to a pixel more.
            assert np.all(mask[expected])
