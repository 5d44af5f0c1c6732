from pathlib import Path

import numpy as np
import pytest
from pycocotools.coco import COCO

from seggen_core.project.paths import ProjectPaths
from tests.exports.conftest import Export
from tests.exports.project import COLORS, LICENSE, TAXONOMY, THINGS, stored


def expected_things(sample) -> dict[tuple[int, int], np.ndarray]:
    """Masks by (train id, instance id) of a sample, crowds as instance 0."""
    return {
        (train_id, instance): mask
        for train_id in THINGS
        for instance in np.unique(sample.instance_map).tolist()
        if (mask := (sample.segmentation_map == train_id) & (sample.instance_map == instance)).any()
    }


def check_file(coco: COCO, samples: list, images: Path) -> None:
    assert len(coco.imgs) == len(samples)
    for image_id, sample in zip(sorted(coco.imgs), samples, strict=True):
        image = coco.imgs[image_id]
        assert image["file_name"] == f"{sample.key}.png"
        assert (image["height"], image["width"]) == sample.segmentation_map.shape
        assert (images / image["file_name"]).is_file()
        wanted = expected_things(sample)
        entries = coco.loadAnns(coco.getAnnIds(imgIds=[image_id]))
        assert len(entries) == len(wanted)
        for entry, ((train_id, instance), mask) in zip(
            entries, sorted(wanted.items()), strict=True
        ):
            np.testing.assert_array_equal(coco.annToMask(entry).astype(bool), mask)
            assert entry["category_id"] == train_id + 1
            assert entry["iscrowd"] == int(instance == 0)
            assert entry["area"] == mask.sum()
            rows, columns = np.nonzero(mask)
            left, top = columns.min(), rows.min()
            box = [left, top, columns.max() - left + 1, rows.max() - top + 1]
            assert entry["bbox"] == box


@pytest.mark.parametrize("segmentation", ["rle", "polygons", "both"])
def test_masks_boxes_and_areas_come_back(
    segmentation: str, paths: ProjectPaths, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export("--to", "coco", "--segmentation", segmentation, "real/train", "real/val")
    assert "5 train, 3 val samples as coco" in capsys.readouterr().out
    for split in ("train", "val"):
        samples = stored(paths, f"real/{split}")
        files = sorted((out / "annotations").glob(f"instances_{split}*.json"))
        assert len(files) == (2 if segmentation == "both" else 1)
        for file in files:
            coco = COCO(str(file))
            check_file(coco, samples, out / "images" / split)
            uses_polygons = segmentation == "polygons" or file.stem.endswith("_polygons")
            plain = next(a for a in coco.anns.values() if not a["iscrowd"])
            assert isinstance(plain["segmentation"], list) == uses_polygons
    assert [(c["id"], c["name"]) for c in coco.cats.values()] == [(3, "car"), (4, "dog: small")]
    assert [c["color"] for c in coco.cats.values()] == COLORS[2:].tolist()
    assert coco.dataset["licenses"][0]["name"] == LICENSE


def test_components_are_things_where_instances_are_unknown(
    paths: ProjectPaths, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export("--to", "coco", "--components", "seediff/car")
    coco = COCO(str(out / "annotations" / "instances_train.json"))
    sample = stored(paths, "synthetic/seediff/car")[0]
    entries = coco.loadAnns(coco.getAnnIds(imgIds=[1]))
    cars = [entry for entry in entries if entry["category_id"] == 3]
    assert len(cars) == 4  # the ring, the two parts of one object, and the crowd
    assert not any(entry["iscrowd"] for entry in entries)
    together = sum(coco.annToMask(entry) for entry in cars)
    np.testing.assert_array_equal(together, sample.segmentation_map == 2)


@pytest.mark.parametrize("name", ["coco", "coco-panoptic", "yolo"])
def test_without_instances_the_error_says_what_to_do(
    name: str, export: Export, capsys: pytest.CaptureFixture[str]
) -> None:
    out = export("--to", name, "real/train", "seediff", code=2)
    message = capsys.readouterr().err
    assert "3 of 8 samples" in message
    assert "3 of seediff/car" in message
    assert "--components" in message
    assert not out.exists()
    assert list(out.parent.iterdir()) == []


def test_supervision_reads_both_kinds_of_masks(paths: ProjectPaths, export: Export) -> None:
    sv = pytest.importorskip("supervision", reason="too large for the lock; run it by hand")
    out = export("--to", "coco", "--segmentation", "both", "real/val")
    for file in (out / "annotations").glob("*.json"):
        dataset = sv.DetectionDataset.from_coco(
            str(out / "images" / "val"), str(file), force_masks=True
        )
        assert dataset.classes == [c.name for c in TAXONOMY if c.is_thing]
        for path, _, detections in dataset:
            sample = next(s for s in stored(paths, "real/val") if s.key == Path(path).stem)
            wanted = [mask for _, mask in sorted(expected_things(sample).items())]
            assert len(detections) == len(wanted)
            for mask, expected in zip(detections.mask, wanted, strict=True):
                if file.stem.endswith("_polygons"):
                    # supervision rounds corners and fills with the outline: a pixel more.
                    assert np.all(mask[expected])
                else:
                    np.testing.assert_array_equal(mask, expected)
