"""Every reader on a tiny dataset laid out as the real one.

Where SEGGEN_REAL_DATA names a folder of real samples, they are read too.
"""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import DatasetConfig
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.datasets.sample import RawSample
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX
from tests.datasets import tool_layouts
from tests.datasets.layouts import BLOCK, HEIGHT, STEMS, WIDTH, WRITERS, blocks, save

real_data = pytest.mark.skipif(
    "SEGGEN_REAL_DATA" not in os.environ, reason="SEGGEN_REAL_DATA names no folder of real samples"
)


def open_(root: Path, section: dict[str, Any], **settings: Any) -> DatasetReader:
    tree = {"root": root, "splits": "val_as_test", "keep_val_in_train": True} | section | settings
    return open_dataset(DatasetConfig.model_validate(tree), seed=0)


def first(reader: DatasetReader) -> RawSample:
    return reader.read("train", reader.keys("train")[0])


def at_blocks(array: np.ndarray) -> list[int]:
    """The values of the six blocks; each must be uniform."""
    small = array[BLOCK // 2 :: BLOCK, BLOCK // 2 :: BLOCK]
    assert (small.repeat(BLOCK, 0).repeat(BLOCK, 1) == array).all()
    return small.ravel().tolist()


@pytest.mark.parametrize("name", WRITERS)
def test_every_reader_lists_decodes_and_checks_headers(tmp_path: Path, name: str) -> None:
    reader = open_(tmp_path, WRITERS[name](tmp_path))
    stems = {split: [key.rpartition("/")[2] for key in reader.keys(split)] for split in SPLITS}
    assert (
        stems["train"] == STEMS["train"]
        and stems["test"] == STEMS["val"]
        and set(stems["val"]) < set(STEMS["train"])
    )
    assert reader.palette.shape == (len(reader.taxonomy), 3) and reader.palette.dtype == np.uint8
    for split in SPLITS:
        for key in reader.keys(split):
            sample = reader.read(split, key)
            assert reader.read_header(split, key) == (WIDTH, HEIGHT)
            assert sample.image.shape == (HEIGHT, WIDTH, 3) and sample.image.dtype == np.uint8
            assert (
                sample.segmentation_map.shape == (HEIGHT, WIDTH)
                and sample.segmentation_map.dtype == np.uint8
            )
            assert set(np.unique(sample.segmentation_map)) <= {
                *range(len(reader.taxonomy)),
                IGNORE_INDEX,
            }
            if sample.instance_map is not None:
                assert sample.instance_map.dtype == np.uint16
                ids = sample.metadata["instance_ids"]
                assert set(np.unique(sample.instance_map)) <= set(range(len(ids) + 1))
            assert str(tmp_path) not in json.dumps(sample.metadata), "no path of one machine"
            assert (tmp_path / sample.metadata["file"]).is_file()
    again = pickle.loads(pickle.dumps(reader))
    assert (first(again).segmentation_map == first(reader).segmentation_map).all()


@pytest.mark.parametrize("name", WRITERS)
def test_train_without_its_validation_samples(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    reader = open_(tmp_path, section, keep_val_in_train=False)
    assert sorted(reader.keys("train") + reader.keys("val")) == open_(tmp_path, section).keys(
        "train"
    )
    if name == "folder" or name in tool_layouts.WRITERS:
        # The user's own data: what isn't there is taken out of train.
        reader = open_(tmp_path, section, splits="published", keep_val_in_train=False)
        assert [len(reader.keys(split)) for split in SPLITS] == [2, 2, 1]
        assert any("there is no test split; 1 samples" in note for note in reader.notes)
        return
    with pytest.raises(
        DatasetError, match=r"test(ing|2017|annot)?(\.txt|\.json|/images)? is missing"
    ):
        open_(tmp_path, section, splits="published", keep_val_in_train=False)


def test_ade20k_reduces_the_zero_label(tmp_path: Path) -> None:
    sample = first(open_(tmp_path, WRITERS["ade20k"](tmp_path)))
    assert at_blocks(sample.segmentation_map) == [IGNORE_INDEX, 0, 12, 12, 149, 0]
    assert sample.instance_map is None


def test_ade20k_instances_come_from_mask2formers_preparation(tmp_path: Path) -> None:
    section = WRITERS["ade20k"](tmp_path)
    for folder, stems in (("training", STEMS["train"]), ("validation", STEMS["val"])):
        for stem in stems:
            red, green = (
                blocks([0, 0, 13, 13, 0, 0]),
                blocks([0, 3, 1, 2, 0, 0]),
            )  # the 3 lies on a wall, which is stuff
            rgb = np.stack([red, green, np.zeros_like(red)], -1)
            save(Image.fromarray(rgb), tmp_path / "annotations_instance" / folder / f"{stem}.png")
    sample = first(open_(tmp_path, section))
    assert sample.instance_map is not None
    assert at_blocks(sample.instance_map) == [0, 0, 1, 2, 0, 0]
    assert sample.metadata["instance_ids"] == [13 * 256 + 1, 13 * 256 + 2]


def test_voc_masks_are_palette_indexes_and_borders_are_ignored(tmp_path: Path) -> None:
    reader = open_(tmp_path, WRITERS["voc2012"](tmp_path))
    sample = first(reader)
    assert at_blocks(sample.segmentation_map) == [0, 15, IGNORE_INDEX, 15, 1, 0]
    assert sample.instance_map is not None and at_blocks(sample.instance_map) == [0, 1, 0, 2, 3, 0]
    assert (
        reader.taxonomy[0].name == "background"
        and not reader.taxonomy[0].is_thing
        and reader.taxonomy[15].name == "person"
    )
    assert reader.palette[15].tolist() == [192, 128, 128]


def test_voc_with_sbd_trains_on_the_augmented_list(tmp_path: Path) -> None:
    section = WRITERS["voc2012"](tmp_path)
    below = tmp_path / "VOCdevkit" / "VOC2012"
    for stem in (*STEMS["train"], "2008_000001"):
        save(
            Image.fromarray(blocks([0, 5, 5, 0, 0, 0])),
            below / "SegmentationClassAug" / f"{stem}.png",
        )
    (below / "JPEGImages" / "2008_000001.jpg").write_bytes(
        (below / "JPEGImages" / "a_000000.jpg").read_bytes()
    )
    listed = below / "ImageSets" / "SegmentationAug" / "trainaug.txt"
    listed.parent.mkdir()
    listed.write_text("2008_000001\r\na_000001\n\n")
    reader = open_(tmp_path, section | {"use_sbd": True})
    assert (
        reader.keys("train") == ["2008_000001", "a_000001"] and reader.keys("test") == STEMS["val"]
    )
    sample = first(reader)
    assert at_blocks(sample.segmentation_map) == [0, 5, 5, 0, 0, 0] and sample.instance_map is None
    assert reader.read("test", "c_000000").instance_map is not None
    listed.write_text("a_000001\na_000001\n")
    with pytest.raises(DatasetError, match=r"trainaug\.txt names a_000001 twice"):
        open_(tmp_path, section | {"use_sbd": True})
    with pytest.raises(ConfigError, match=r"dataset\.use_sbd is set, but means nothing to camvid"):
        open_(tmp_path, {"name": "camvid", "use_sbd": True})


def test_cityscapes_label_ids_become_train_ids_and_groups_are_no_instances(tmp_path: Path) -> None:
    reader = open_(tmp_path, WRITERS["cityscapes"](tmp_path))
    sample = first(reader)
    names = [
        None if i == IGNORE_INDEX else reader.taxonomy[i].name
        for i in at_blocks(sample.segmentation_map)
    ]
    assert names == ["road", "car", "car", "person", None, "car"]
    assert sample.instance_map is not None and at_blocks(sample.instance_map) == [0, 3, 2, 1, 0, 0]
    assert (
        sample.metadata["instance_ids"] == [24000, 26000, 26001] and sample.metadata["city"] == "a"
    )


def test_coco_stuff_ids_are_one_less_than_the_category(tmp_path: Path) -> None:
    reader = open_(tmp_path, WRITERS["coco_stuff"](tmp_path))
    names = [
        None if i == IGNORE_INDEX else reader.taxonomy[i].name
        for i in at_blocks(first(reader).segmentation_map)
    ]
    assert names == ["person", "toothbrush", "banner", "wood", None, "person"]
    assert len(reader.taxonomy) == 171 and sum(c.is_thing for c in reader.taxonomy) == 80


def test_mapillary_reads_its_classes_from_config_json(tmp_path: Path) -> None:
    section = WRITERS["mapillary"](tmp_path)
    reader = open_(tmp_path, section)
    sample = first(reader)
    assert [(c.name, c.is_thing) for c in reader.taxonomy] == [("road", False), ("car", True)]
    assert at_blocks(sample.segmentation_map) == [0, 1, IGNORE_INDEX, 1, 0, 0]
    assert sample.instance_map is not None and at_blocks(sample.instance_map) == [0, 1, 0, 2, 0, 0]
    (tmp_path / "config.json").rename(tmp_path / "mine.json")
    with pytest.raises(DatasetError, match=r"config\.json is missing"):
        open_(tmp_path, section)
    assert len(open_(tmp_path, section | {"classes_file": "mine.json"}).taxonomy) == 2
    (tmp_path / "mine.json").write_text('{"labels": [{"readable": "Road"}]}')
    with pytest.raises(DatasetError, match=r"mine\.json can't be read"):
        open_(tmp_path, section | {"classes_file": "mine.json"})


def test_coco_panoptic_segments_become_classes_and_instances(tmp_path: Path) -> None:
    reader = open_(tmp_path, WRITERS["coco_panoptic"](tmp_path))
    sample = first(reader)
    names = [
        None if i == IGNORE_INDEX else reader.taxonomy[i].name
        for i in at_blocks(sample.segmentation_map)
    ]
    assert names == ["person", "person", "car", "sky", None, "sky"]
    assert sample.instance_map is not None and at_blocks(sample.instance_map) == [2, 1, 0, 0, 0, 0]
    assert sample.metadata["instance_ids"] == [300, 1000000] and sample.metadata["image_id"] == 5


def test_coco_instances_lie_on_top_of_larger_ones_and_crowds_are_ignored(tmp_path: Path) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    reader = open_(tmp_path, section)
    sample = first(reader)
    car, brush = (
        reader.taxonomy.by_slug("car").train_id,
        reader.taxonomy.by_slug("toothbrush").train_id,
    )
    expected = np.full((HEIGHT, WIDTH), IGNORE_INDEX)
    expected[:, :16] = car
    expected[2:6, 2:6] = brush
    np.testing.assert_array_equal(sample.segmentation_map, expected)
    assert sample.instance_map is not None
    np.testing.assert_array_equal(
        sample.instance_map, np.select([expected == brush, expected == car], [1, 2])
    )
    assert sample.metadata["instance_ids"] == [51, 52]
    # An image without instances, or with crowds alone, is no sample, and is counted.
    path = tmp_path / "annotations" / "instances_train2017.json"
    tree = json.loads(path.read_text())
    others = [a for a in tree["annotations"] if a["image_id"] != 5]
    crowds = [a | {"iscrowd": 1} for a in tree["annotations"] if a["image_id"] == 5]
    for annotations in (others, crowds + others):
        path.write_text(json.dumps(tree | {"annotations": annotations}))
        reader = open_(tmp_path, section)
        assert reader.keys("train") == STEMS["train"][1:]
        words = (
            "1 images of instances_train2017.json have no instance, or a crowd alone, and are no "
            "part of the task"
        )
        assert reader.notes == [words]


def test_folder_with_ids_colours_and_instances(tmp_path: Path) -> None:
    section = WRITERS["folder"](tmp_path)
    reader = open_(tmp_path, section)
    assert reader.keys("train") == ["a/a_000000", "a/a_000001", "b/b_000000"]
    sample = first(reader)
    assert at_blocks(sample.segmentation_map) == [0, 1, 1, IGNORE_INDEX, 0, IGNORE_INDEX]
    assert [(c.slug, c.is_thing) for c in reader.taxonomy] == [("wall", False), ("hot_dog", True)]
    # The same masks as colours, 16-bit instance maps, and a JSON list.
    colors = {7: (10, 20, 30), 9: (1, 2, 3)}
    rgb = np.array([[colors[v] for v in row] for row in blocks([7, 9, 9, 7, 7, 7])], np.uint8)
    for split, stems in STEMS.items():
        for stem in stems:
            save(Image.fromarray(rgb), tmp_path / "masks" / split / stem[0] / f"{stem}.png")
            numbers = blocks([0, 500, 20, 0, 0, 0], dtype=np.uint16)
            save(Image.fromarray(numbers), tmp_path / "instances" / split / stem[0] / f"{stem}.png")
    classes = [
        {"id": k, "name": n, "is_thing": k == 9, "color": c}
        for (k, c), n in zip(colors.items(), "xy", strict=True)
    ]
    (tmp_path / "list.json").write_text(json.dumps(classes))
    sample = first(open_(tmp_path, section | {"classes_file": "list.json"}))
    assert at_blocks(sample.segmentation_map) == [0, 1, 1, 0, 0, 0]
    assert sample.instance_map is not None and at_blocks(sample.instance_map) == [0, 2, 1, 0, 0, 0]
    rgb[0, 0] = 10, 20, 31
    save(Image.fromarray(rgb), tmp_path / "masks" / "train" / "a" / "a_000000.png")
    with pytest.raises(DatasetError, match=r"a_000000\.png has colour \(10, 20, 31\) in 1 pixel"):
        first(open_(tmp_path, section | {"classes_file": "list.json"}))


def test_files_may_lie_elsewhere(tmp_path: Path) -> None:
    section = WRITERS["camvid"](tmp_path)
    (tmp_path / "trainannot").rename(tmp_path / "labels")
    (tmp_path / "some.txt").write_text("a_000001\nb_000000\n")
    files = {"train": {"masks": "labels", "keys": "some.txt"}}
    reader = open_(tmp_path, section | {"files": files})
    assert reader.keys("train") == ["a_000001", "b_000000"]
    assert first(reader).metadata["file"] == "train/a_000001.jpg"


def test_subsets_and_limits_are_fixed_by_the_seed(tmp_path: Path) -> None:
    section = WRITERS["ade20k"](tmp_path)

    def keys(seed: int) -> list[str]:
        tree = {
            "root": tmp_path,
            "splits": "val_as_test",
            "num_train": 1,
            "num_val": 1,
            "num_test": 1,
        } | section
        reader = open_dataset(DatasetConfig.model_validate(tree), seed=seed)
        return [*reader.keys("train"), *reader.keys("val"), *reader.keys("test")]

    assert keys(3) == keys(3) and len({tuple(keys(s)) for s in range(12)}) > 1
    assert len(keys(0)) == 3


@real_data
def test_the_real_coco_panoptic_files() -> None:
    root = Path(os.environ["SEGGEN_REAL_DATA"]).resolve() / "coco_panoptic_sample"
    place = {
        "images": "input_images",
        "masks": "panoptic_examples",
        "annotations": "panoptic_examples.json",
    }
    reader = open_(
        root, {"name": "coco_panoptic", "files": {"train": place, "val": place}, "num_val": 1}
    )
    tree = json.loads((root / "panoptic_examples.json").read_text())
    assert len(reader.keys("train")) == len(tree["annotations"]) == 2
    for annotation in tree["annotations"]:
        sample = reader.read("train", Path(annotation["file_name"]).stem)
        assert sample.instance_map is not None
        for segment in annotation["segments_info"]:
            ids = np.array(Image.open(root / "panoptic_examples" / annotation["file_name"])).astype(
                int
            ) @ [1, 256, 65536]
            where = ids == segment["id"]
            assert where.sum() == segment["area"]
            (train_id,) = np.unique(sample.segmentation_map[where])
            (instance,) = np.unique(sample.instance_map[where])
            thing = reader.taxonomy[int(train_id)].is_thing
            assert (instance > 0) == (thing and not segment["iscrowd"])
            if instance:
                assert sample.metadata["instance_ids"][instance - 1] == segment["id"]


@real_data
def test_the_real_ade20k_files() -> None:
    root = Path(os.environ["SEGGEN_REAL_DATA"]).resolve() / "ade20k_sample"
    place = {"images": "images", "masks": "annotations"}
    reader = open_(root, {"name": "ade20k", "files": {"train": place, "val": place}, "num_val": 1})
    assert len(reader.keys("train")) == 3
    for key in reader.keys("train"):
        sample = reader.read("train", key)
        stored = np.array(Image.open(root / "annotations" / f"{key}.png"))
        np.testing.assert_array_equal(sample.segmentation_map, (stored.astype(int) - 1) % 256)
    lines = [line.split("\t") for line in (root / "objectInfo150.txt").read_text().splitlines()[1:]]
    table = json.loads(
        (Path(__file__).parents[2] / "seggen_core/datasets/taxonomies/ade20k.json").read_text()
    )["classes"]
    for (class_id, *_, synonyms), row in zip(lines, table, strict=True):
        assert int(class_id) == row["id"]
        assert row.get("official_name", row["name"]) == synonyms.split(",")[0].strip()
        assert row["name"] in [s.strip() for s in synonyms.split(",")], (
            "the plainer name is one of the synonyms"
        )


@real_data
def test_coco_tables_agree_with_the_published_categories() -> None:
    path = (
        Path(os.environ["SEGGEN_REAL_DATA"]).resolve()
        / "coco_panoptic_sample"
        / "panoptic_coco_categories.json"
    )
    published = json.loads(path.read_text())
    folder = Path(__file__).parents[2] / "seggen_core" / "datasets" / "taxonomies"
    for name, wanted in (
        ("coco_panoptic", published),
        ("coco_instance", [c for c in published if c["isthing"]]),
    ):
        rows = json.loads((folder / f"{name}.json").read_text())["classes"]
        assert [
            (r["id"], r.get("official_name", r["name"]), r["is_thing"], r["color"]) for r in rows
        ] == [(c["id"], c["name"], bool(c["isthing"]), c["color"]) for c in wanted]
