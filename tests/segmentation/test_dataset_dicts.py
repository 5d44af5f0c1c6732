import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from seggen_core.cli import main
from seggen_core.errors import ConfigError, SampleStoreError
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.dataset_dicts import (
    TASKS,
    DictFormat,
    GroundTruth,
    is_empty,
    metadata,
    store_dicts,
    things_of,
)
from seggen_core.segmentation.geometry import resize_nearest
from seggen_core.segmentation.pairs import Pair
from seggen_core.segmentation.shard_files import ShardFile
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy
from tests.exports.project import COLORS, TAXONOMY, THINGS
from tests.exports.test_coco import expected_things
from tests.segmentation.detectron2_project import make_detectron2_project


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> ProjectPaths:
    return make_detectron2_project(tmp_path_factory.mktemp("detectron2"))


@pytest.fixture(params=["real/train", "real/val", "synthetic/masksyn/car"])
def store(paths: ProjectPaths, request: pytest.FixtureRequest) -> SampleStore:
    return SampleStore(paths.data / request.param)


def read_picture(name: str) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(ShardFile.parse(name).read())))


def read_ids(name: str) -> np.ndarray:
    return read_picture(name).astype(int) @ [1, 256, 65536]


@pytest.mark.parametrize("kind", ["image", "sem_seg", "stuff", "panoptic"])
@pytest.mark.parametrize("changes", [(), ((2, 255),), ((0, 255), (3, 1))])
@pytest.mark.parametrize("size", [None, (17, 40)])
def test_a_name_says_all_of_a_file(paths: ProjectPaths, kind, changes, size) -> None:
    file = ShardFile(paths.real("val"), "val-1", kind, changes, size)
    assert ShardFile.parse(file.name) == file


def test_labels_are_the_stored_ones_hidden_and_resized(store: SampleStore) -> None:
    for sample in store:
        for hidden in ((), (0, 3)):
            changes = tuple((value, 255) for value in hidden)
            for size in (None, (17, 40)):
                mask = sample.segmentation_map
                mask = mask if size is None else resize_nearest(mask, size)
                mask = np.where(np.isin(mask, hidden), 255, mask)
                file = ShardFile(store.folder, sample.key, "sem_seg", changes, size)
                np.testing.assert_array_equal(read_picture(file.name), mask)
                stuff = np.select([mask == 0, mask == 1, mask == 255], [1, 2, 255], 0)
                name = file.shown_as("stuff").name
                np.testing.assert_array_equal(read_picture(name), stuff)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "seggen://",
        "seggen:///folder/imag/key.png",
        "seggen:///folder/sem_seg+map-x/key.png",
        "seggen:///folder/sem_seg+map-3/key.png",
        "seggen:///folder/sem_seg+size-3/key.png",
        "seggen:///folder/sem_seg+turn-3/key.png",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(SampleStoreError, match="names no file in a sample store"):
        ShardFile.parse(name)


@pytest.mark.parametrize("task", TASKS)
def test_dicts_give_images_and_labels_back(store: SampleStore, task, tmp_path: Path) -> None:
    dicts = store_dicts([store], DictFormat(task, THINGS), cache=tmp_path)
    assert [entry["image_id"] for entry in dicts] == list(range(1, len(store) + 1))
    labels = {"semantic": {"sem_seg_file_name"}, "instance": {"annotations"}}
    labels["panoptic"] = {"sem_seg_file_name", "pan_seg_file_name", "segments_info"}
    labels["panoptic_separated"] = labels["panoptic"] | labels["instance"]
    for entry, sample in zip(dicts, store, strict=True):
        assert set(entry) == {"file_name", "height", "width", "image_id"} | labels[task]
        assert (entry["height"], entry["width"]) == sample.segmentation_map.shape
        assert Path(entry["file_name"]).name == f"{sample.key}.png"
        np.testing.assert_array_equal(read_picture(entry["file_name"]), sample.image)
        if task in ("semantic", "panoptic"):
            mask = read_picture(entry["sem_seg_file_name"])
            np.testing.assert_array_equal(mask, sample.segmentation_map)
        if "annotations" in entry:
            check_annotations(entry, sample)
        if "pan_seg_file_name" in entry:
            ids = read_ids(entry["pan_seg_file_name"])
            assert {0, *(info["id"] for info in entry["segments_info"])} == set(np.unique(ids))
            for info in entry["segments_info"]:
                assert set(sample.segmentation_map[ids == info["id"]]) == {info["category_id"]}
    # They are the same when they are read again, and other ones when the store is.
    assert store_dicts([store], DictFormat(task, THINGS), cache=tmp_path) == dicts


def check_annotations(entry: dict, sample) -> None:
    wanted = sorted(expected_things(sample).items())
    assert len(entry["annotations"]) == len(wanted)
    for row, ((train_id, instance), mask) in zip(entry["annotations"], wanted, strict=True):
        assert THINGS[row["category_id"]] == train_id
        assert row["iscrowd"] == int(instance == 0)
        if not row["iscrowd"]:
            runs = coco_mask.frPyObjects(row["segmentation"], *mask.shape)
            drawn = coco_mask.decode(coco_mask.merge(runs)).astype(bool)
            np.testing.assert_array_equal(drawn, mask)


def test_a_picture_of_crowds_alone_is_empty() -> None:
    assert is_empty({"annotations": []})
    assert is_empty({"annotations": [{"iscrowd": 1}]})
    assert not is_empty({"annotations": [{"iscrowd": 1}, {"iscrowd": 0}]})
    assert not is_empty({"sem_seg_file_name": "..."})


def test_without_instances_there_are_semantic_dicts_alone(
    paths: ProjectPaths, tmp_path: Path
) -> None:
    store = SampleStore(paths.synthetic("seediff", "car"))
    assert len(store_dicts([store], DictFormat("semantic", THINGS), cache=tmp_path)) == 3
    for task in TASKS[1:]:
        with pytest.raises(SampleStoreError, match="has no instance map; take samples with"):
            store_dicts([store], DictFormat(task, THINGS), cache=tmp_path)


def test_a_mask_of_another_sample_takes_the_size_of_the_image(paths: ProjectPaths) -> None:
    store = SampleStore(paths.real("train"))
    sizes = {store.read_size(key) for key in ("train-0", "train-1")}
    assert len(sizes) == 2
    pair = Pair((store, "train-0"), (store, "train-1"))
    for task in TASKS:
        entry = DictFormat(task, THINGS).entry(pair, image_id=1)
        for name in ("sem_seg_file_name", "pan_seg_file_name"):
            if name in entry:
                assert read_picture(entry[name]).shape[:2] == store.read_size("train-0")


def test_metadata_number_classes_as_the_dicts_do() -> None:
    for task in TASKS:
        about = metadata(TAXONOMY, colors=COLORS, task=task)
        assert about["ignore_label"] == 255
        for kind in ("thing", "stuff"):
            names, numbers = (
                about.get(f"{kind}_classes"),
                about.get(f"{kind}_dataset_id_to_contiguous_id", {}),
            )
            for dataset_id, contiguous_id in numbers.items():
                expected = "things" if dataset_id == 0 else TAXONOMY[dataset_id - 1].name
                assert names[contiguous_id] == expected
            if names is not None:
                assert len(about[f"{kind}_colors"]) == len(names)
    # COCO's evaluator of instances needs things first.
    kinds = [
        metadata(taxonomy, colors=COLORS[: len(taxonomy)], task="panoptic")["evaluator_type"]
        for taxonomy in (
            TAXONOMY,
            Taxonomy.from_json([c | {"is_thing": True} for c in TAXONOMY.to_json()]),
        )
    ]
    assert kinds == ["ade20k_panoptic_seg", "coco_panoptic_seg"]


def test_tasks_of_things_need_one() -> None:
    stuff = Taxonomy.from_names(stuff=["sky"], things=[])
    assert things_of(stuff, task="panoptic") == ()
    for task in ("instance", "panoptic_separated"):
        with pytest.raises(ConfigError, match="none of the 1 classes is one; take those of the"):
            things_of(stuff, task=task)


def test_labels_are_the_exported_ones(paths: ProjectPaths, tmp_path: Path) -> None:
    truth = GroundTruth.of(SampleStore(paths.real("val")), cache=tmp_path / "cache")
    truth.write()
    truth.write()
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [truth.folder.name]
    out, params = tmp_path / "out", ["--params", str(paths.root / "params.yaml")]
    assert main([*params, "export", "--to", "coco-panoptic", "real/val", "--out", str(out)]) == 0
    exported = json.loads((out / "annotations" / "panoptic_val.json").read_text())
    ours = json.loads((truth.folder / "panoptic.json").read_text())
    assert [row | {"image_id": None} for row in exported["annotations"]] == [
        row
        | {
            "image_id": None,
            "segments_info": [
                {k: v for k, v in info.items() if k != "image_id"} for info in row["segments_info"]
            ],
        }
        for row in ours["annotations"]
    ]
    for row in ours["annotations"]:
        files = out / "annotations" / "panoptic_val", truth.folder / "panoptic"
        one, other = ((folder / row["file_name"]).read_bytes() for folder in files)
        assert one == other
    coco = COCO(str(truth.folder / "instances.json"))
    for image_id, sample in enumerate(SampleStore(paths.real("val")), start=1):
        rows = coco.imgToAnns[image_id]
        wanted = sorted(expected_things(sample).items())
        assert [row["category_id"] for row in rows] == [train_id + 1 for (train_id, _), _ in wanted]
        for row, (_, mask) in zip(rows, wanted, strict=True):
            np.testing.assert_array_equal(coco.annToMask(row).astype(bool), mask)


def test_without_detectron2_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "seggen_core.segmentation.detectron2"
    monkeypatch.delitem(sys.modules, module, raising=False)
    for name in [name for name in sys.modules if name.split(".")[0] == "detectron2"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(
        ConfigError, match=r"docs/detectron2\.md.*git\+https://github\.com"
    ) as caught:
        __import__(module)
    assert "\n" not in str(caught.value)
