from xml.etree import ElementTree as ET

import numpy as np
from PIL import Image
from torchvision.datasets import VOCSegmentation

from seggen_core.exports.voc import voc_colors
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore
from tests.exports.conftest import Export
from tests.exports.project import COLORS, TAXONOMY, THINGS, make_sample, stored, write_store


def test_torchvision_reads_images_and_masks(paths: ProjectPaths, export: Export) -> None:
    out = export("--to", "voc", "real/train", "real/val")
    (out / "VOCdevkit").mkdir()
    (out / "VOCdevkit" / "VOC2012").symlink_to(out)
    for split in ("train", "val"):
        dataset = VOCSegmentation(str(out), image_set=split, download=False)
        samples = stored(paths, f"real/{split}")
        assert len(dataset) == len(samples)
        for (image, mask), sample in zip(dataset, samples, strict=True):
            assert image.size == mask.size == sample.segmentation_map.shape[::-1]
            assert mask.mode == "P"
            np.testing.assert_array_equal(np.array(mask), sample.segmentation_map)
            colors = np.array(mask.convert("RGB"))
            known = sample.segmentation_map != 255
            wanted = COLORS[sample.segmentation_map[known]]
            np.testing.assert_array_equal(colors[known], wanted)
            np.testing.assert_array_equal(colors[~known], [[224, 224, 192]] * (~known).sum())
    listed = (out / "ImageSets" / "Segmentation" / "trainval.txt").read_text().split()
    assert len(listed) == 8
    labels = (out / "labelmap.txt").read_text().splitlines()[1:]
    assert labels == ["sky:10,20,30::", "road:40,50,60::", "car:70,80,90::", "dog  small:200,0,7::"]


def test_objects_and_boxes_are_the_instances(paths: ProjectPaths, export: Export) -> None:
    out = export("--to", "voc", "real/val")
    for sample in stored(paths, "real/val"):
        objects = np.array(Image.open(out / "SegmentationObject" / f"{sample.key}.png"))
        is_thing = np.isin(sample.segmentation_map, THINGS)
        single = is_thing & (sample.instance_map > 0)
        assert np.all(objects[single] > 0)
        assert np.all(objects[is_thing & ~single] == 255)
        assert np.all(objects[sample.segmentation_map == 255] == 255)
        assert np.all(objects[~is_thing & (sample.segmentation_map != 255)] == 0)
        boxes = ET.parse(out / "Annotations" / f"{sample.key}.xml").findall("object")
        assert len(boxes) == len(np.unique(objects[single]))
        for object_id, box in enumerate(boxes, start=1):
            mask = objects == object_id
            assert len(np.unique(sample.instance_map[mask])) == 1
            train_id = int(sample.segmentation_map[mask][0])
            assert box.findtext("name") == TAXONOMY[train_id].name
            rows, columns = np.nonzero(mask)
            corners = [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]
            assert [int(e.text) for e in box.find("bndbox")] == corners


def test_without_instances_there_are_no_objects(paths: ProjectPaths, export: Export) -> None:
    out = export("--to", "voc", "seediff")
    assert len(list((out / "SegmentationClass").iterdir())) == 3
    assert not (out / "SegmentationObject").exists()


def test_more_instances_than_a_png_holds_are_told(export: Export, tmp_path, caplog) -> None:
    sample = make_sample("many", 3)
    sample.segmentation_map[:] = 2
    sample.instance_map[:] = np.arange(sample.instance_map.size).reshape(sample.instance_map.shape)
    folder = write_store(tmp_path / "many", [sample, make_sample("few", 4)], method="x")
    out = export("--to", "voc", str(folder))
    assert "1 images have more than 254 instances" in caplog.text
    assert [p.stem for p in (out / "SegmentationObject").iterdir()] == ["few"]
    assert len(SampleStore(folder)) == len(list((out / "SegmentationClass").iterdir()))


def test_voc_colors() -> None:
    colors = voc_colors()  # as in the development kit: VOCcolormap.m
    assert colors[[0, 1, 2, 15, 255]].tolist() == [
        [0, 0, 0],
        [128, 0, 0],
        [0, 128, 0],
        [192, 128, 128],
        [224, 224, 192],
    ]
