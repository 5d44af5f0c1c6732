"""Whatever two places say about the same thing is compared, in every reader."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import SegGenConfig
from seggen_core.datasets.build import build_dataset
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.datasets.validate import validate_project
from seggen_core.errors import DatasetError
from seggen_core.project.paths import ProjectPaths
from tests.datasets import tool_layouts
from tests.datasets.damage import SHAPES
from tests.datasets.layouts import WRITERS, blocks, picture, save
from tests.minimal_config import minimal_config

PLACES = {
    "ade20k": "annotations/*/*.png",
    "camvid": "*annot/*.png",
    "cityscapes": "gtFine/*/*/*_labelIds.png",
    "coco_panoptic": "annotations/panoptic_*2017/*.png",
    "coco_stuff": "stuffthingmaps/*/*.png",
    "folder": "masks/*/*/*.png",
    "mapillary": "*/labels/*.png",
    "voc": "SegmentationClass/*.png",
    "voc2012": "VOCdevkit/VOC2012/SegmentationClass/*.png",
}


def read(root: Path, section: dict[str, Any], **settings: Any) -> tuple[SegGenConfig, Any]:
    tree = {"root": root, "splits": "val_as_test", "num_val": 1} | section | settings
    config = minimal_config(tree)
    reader = open_dataset(config.dataset, seed=0)
    return minimal_config(tree, classes=reader.taxonomy.slugs), reader


def problems(config: SegGenConfig, root: Path) -> str:
    report = validate_project(config, paths=ProjectPaths(root.parent))
    return "\n".join(f"{p.where}: {p.what}" for p in report.problems)


def build(config: SegGenConfig, reader: DatasetReader, folder: Path) -> None:
    build_dataset(reader, config=config, folder=folder, log_metrics=lambda _: None)


def repaint(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the values of a mask and keep its palette."""
    image = Image.open(path)
    changed = Image.fromarray(change(np.array(image)))
    if image.mode == "P":
        palette = image.getpalette()
        assert palette is not None
        changed.putpalette(palette)
    changed.save(path)


def change_annotations(root: Path, change: Callable[[dict], None]) -> None:
    for path in (root / "annotations").glob("*.json"):
        tree = json.loads(path.read_text())
        change(tree)
        path.write_text(json.dumps(tree))


def one_class(name: str, root: Path) -> None:
    """Leave labelled pixels of one class alone."""
    if name.startswith("coco_") and name != "coco_stuff":

        def change(tree: dict) -> None:
            for annotation in tree["annotations"]:
                for segment in annotation.get("segments_info", [annotation]):
                    segment["category_id"] = 3

        change_annotations(root, change)
        return
    if name in SHAPES:
        relabel(name, root)
        return
    value = {"cityscapes": 7, "folder": 7}.get(name, 1)
    repaint_all(name, root, lambda mask: np.full_like(mask, value))


def relabel(name: str, root: Path) -> None:
    """Call every shape a wall."""
    files = {"cvat": "*.xml", "label_studio": "*.json", "labelme": "*/*.json", "yolo": "*/*/*.txt"}
    for path in root.glob(files[name]):
        text = path.read_text()
        if name == "yolo":
            text = "".join(f"0{line[1:]}\n" for line in text.splitlines())
        old, new = ('label="car"', 'label="wall"') if name == "cvat" else ('"car"', '"wall"')
        path.write_text(text.replace(old, new))


def repaint_all(name: str, root: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change all masks of a dataset."""
    if name == "huggingface":
        tool_layouts.repaint_parquet(root, change)
    if name == "voc":  # colours become indexes of a palette, in which 255 is possible
        colors = np.array([[0, 0, 0], [10, 20, 30], [1, 2, 3]], np.uint8)
        for path in root.glob(PLACES[name]):
            rgb = np.array(Image.open(path))
            ids = (rgb[:, :, None] == colors).all(-1).argmax(-1).astype(np.uint8)
            image = Image.fromarray(change(ids))
            image.putpalette(colors.tobytes() + bytes(3 * 253))
            image.save(path)
        return
    for path in root.glob(PLACES.get(name, "*.none")):
        repaint(path, change)


@pytest.mark.parametrize("name", WRITERS)
def test_a_split_of_one_class_is_a_problem_and_refused(tmp_path: Path, name: str) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root) | {"max_unlisted_share": 1.0}
    config, reader = read(root, section)
    build(config, reader, tmp_path / "sound")
    assert "no score can be wrong" not in problems(config, root)
    one_class(name, root)
    config, reader = read(root, section)
    assert "train: every labelled training pixel is" in problems(config, root)
    with pytest.raises(DatasetError, match="no score can be wrong"):
        build(config, reader, tmp_path / "out")


IGNORED = {"ade20k": 0, "camvid": 11, "cityscapes": 3, "coco_panoptic": 0, "folder": 255}
STATED = {"mapillary", "coco_instance", *SHAPES}
"""What is ignored stands in the files, or is the dataset's definition."""


@pytest.mark.parametrize("name", sorted(set(WRITERS) - STATED))
def test_what_only_a_convention_ignores_may_not_be_much(tmp_path: Path, name: str) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root)

    def most(mask: np.ndarray) -> np.ndarray:
        mask = mask.copy()
        mask[:, :12] = IGNORED.get(name, 255)
        return mask

    repaint_all(name, root, most)
    config, reader = read(root, section)
    for split in SPLITS:
        assert f"{split}: " in problems(config, root)
    assert "of the train pixels are ignored by convention alone" in problems(config, root)
    with pytest.raises(DatasetError, match=r"\d\d\.\d% of the train pixels are ignored"):
        build(config, reader, tmp_path / "out")
    config, reader = read(root, section, max_unlisted_share=1.0)
    assert "of the train pixels are ignored" not in problems(config, root)


def binary(root: Path, *, classes: str) -> dict[str, Any]:
    for split, stems in {"train": "abcd", "val": "ef", "test": "gh"}.items():
        for stem in stems:
            save(picture(seed=ord(stem)), root / "images" / split / f"{stem}.jpg")
            mask = blocks([0, 0, 255, 255, 0, 0])
            save(Image.fromarray(mask), root / "masks" / split / f"{stem}.png")
    (root / "classes.csv").write_text(classes)
    return {"name": "folder", "splits": "published", "num_val": None}


def test_masks_of_0_and_255_are_refused_until_the_list_says_what_255_is(tmp_path: Path) -> None:
    """Case 02g: they scored 100."""
    root = tmp_path / "dataset"
    config, reader = read(root, binary(root, classes="id,name\n0,background\n1,polyp\n"))
    report = problems(config, root)
    assert "33.3% of the train pixels are ignored by convention alone" in report
    assert "which classes.csv doesn't list" in report and "255,polyp" in report
    assert "'polyp': no training pixel" in report
    with pytest.raises(DatasetError, match=r"33\.3% of the train pixels"):
        build(config, reader, tmp_path / "out")

    # The object's id is 255.
    config, reader = read(root, binary(root, classes="id,name\n0,background\n255,polyp\n"))
    assert problems(config, root) == ""
    build(config, reader, tmp_path / "out")
    assert np.unique(reader.read("train", "a").segmentation_map).tolist() == [0, 1]

    # A trace of it, while a class has no pixel, is suspicious as well; said, it is not.
    for path in (root / "masks").rglob("*.png"):
        mask = blocks([0, 1, 1, 1, 0, 0])
        mask[0, 0] = 255
        Image.fromarray(mask).save(path)
    text = "id,name\n0,background\n1,polyp\n2,tool\n"
    config, reader = read(root, binary_list(root, text))
    with pytest.raises(DatasetError, match="'tool': no training pixel, while"):
        build(config, reader, tmp_path / "out")
    config, reader = read(
        root, binary_list(root, text.replace("name\n", "name,ignore\n") + "255,v,yes\n")
    )
    build(config, reader, tmp_path / "out")
    assert "'tool': no training pixel; expected some" in problems(config, root)


def binary_list(root: Path, text: str) -> dict[str, Any]:
    (root / "classes.csv").write_text(text)
    return {"name": "folder", "splits": "published", "num_val": None}


def own_categories(tree: dict) -> None:
    tree["categories"] = [
        {"id": 0, "name": "damages", "supercategory": "none"},
        {"id": 1, "name": "crack", "isthing": 1, "supercategory": "damages"},
        {"id": 3, "name": "rust", "isthing": 1, "supercategory": "damages"},
        {"id": 90, "name": "spalling", "isthing": 1, "supercategory": "damages"},
        {"id": 187, "name": "wall", "isthing": 0, "supercategory": "damages"},
    ]
    for annotation in tree["annotations"]:
        annotation["iscrowd"] = 0


@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
def test_coco_files_are_read_with_the_classes_that_they_list(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    published = read(tmp_path, section)[1].taxonomy
    assert len(published) == {"coco_instance": 80, "coco_panoptic": 133}[name]
    change_annotations(tmp_path, own_categories)
    reader = read(tmp_path, section)[1]
    classes = [(c.name, c.is_thing) for c in reader.taxonomy]
    assert classes == [("crack", True), ("rust", True), ("spalling", True), ("wall", False)]
    assert "category 'damages' is the supercategory of the others" in reader.notes[0]
    assert reader.read("test", "c_000000").segmentation_map.max() > 0

    # The user's class list has to agree; an ignored row is no class.
    listed = "id,name,ignore\n1,crack,\n3,rust,\n90,spalling,yes\n187,wall,\n"
    (tmp_path / "mine.csv").write_text(listed)
    section |= {"classes_file": "mine.csv"}
    assert [c.name for c in read(tmp_path, section)[1].taxonomy] == ["crack", "rust", "wall"]
    for old, new, words in (
        ("rust", "paint", r"category 3 as 'rust', but .*mine\.csv as 'paint'"),
        ("3,rust,\n", "", r"category 3, 'rust', but .*mine\.csv doesn't"),
        (
            "3,rust",
            "4,soot,\n3,rust",
            r"mine\.csv lists id 4, 'soot', but .*2017\.json has no such",
        ),
    ):
        (tmp_path / "mine.csv").write_text(listed.replace(old, new))
        with pytest.raises(DatasetError, match=words):
            read(tmp_path, section)


@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
@pytest.mark.parametrize(
    "change, words",
    [
        (lambda c: c.pop(), "train2017.json and .*val2017.json list different categories: "),
        (lambda c: c[0].update(name="x"), "list different categories: 1 is"),
        (lambda c: c.append(c[0]), "lists category 1 twice"),
        (lambda c: c[1].update(name=c[0]["name"]), "lists 'person' twice"),
        (lambda c: c[0].update(id="1"), r"id '1'"),
        (lambda c: c[0].pop("name"), r"KeyError\('name'\)"),
        (lambda c: c[0].update(isthing=2), "isthing 2"),
    ],
)
def test_categories_that_contradict_one_another_are_refused(
    tmp_path: Path, name: str, change: Callable[[list], Any], words: str
) -> None:
    section = WRITERS[name](tmp_path)
    path = next((tmp_path / "annotations").glob("*val2017.json"))
    tree = json.loads(path.read_text())
    change(tree["categories"])
    path.write_text(json.dumps(tree))
    with pytest.raises(DatasetError, match=words):
        read(tmp_path, section)


def test_crowds_may_be_instances_and_ids_start_at_0(tmp_path: Path) -> None:
    section = WRITERS["coco_instance"](tmp_path)

    def change(tree: dict) -> None:
        own_categories(tree)
        for i, annotation in enumerate(tree["annotations"]):
            annotation |= {"id": i, "iscrowd": int(isinstance(annotation["segmentation"], dict))}

    change_annotations(tmp_path, change)
    with pytest.raises(DatasetError, match=r"iscrowd set in 3 of 9.*set dataset\.crowds"):
        read(tmp_path, section)
    as_instances = read(tmp_path, section | {"crowds": "instances"})[1].read("test", "c_000000")
    ignored = read(tmp_path, section | {"crowds": "ignore"})[1].read("test", "c_000000")
    assert as_instances.metadata["instance_ids"] == [0, 1, 2]
    assert ignored.metadata["instance_ids"] == [0, 1]
    assert (ignored.segmentation_map[:, 20:] == 255).all()
    assert (as_instances.segmentation_map[:, 20:] == 0).all()
    reader = read(tmp_path, section | {"crowds": "ignore", "background": "backdrop"})[1]
    assert reader.taxonomy[4].name == "backdrop" and len(reader.palette) == 5
    sample = reader.read("test", "c_000000")
    assert (sample.segmentation_map == 4).any() and (sample.segmentation_map == 255).any()


@pytest.mark.parametrize("name", ["coco_instance", "coco_panoptic"])
@pytest.mark.parametrize(
    "change, words",
    [
        ({"width": 25}, "is 24x16 but .* says 25x16"),
        ({"height": 1 << 70}, "says no numbers of pixels"),
        ({"width": "wide"}, "says no numbers of pixels"),
        ({"file_name": "elsewhere/a_000001.jpg"}, "names elsewhere/a_000001.jpg, but the image"),
        ({"file_name": "a_000001.png"}, "names a_000001.png, but the image found is"),
        ({"id": 5}, "gives image id 5 to"),
    ],
)
def test_what_json_says_of_a_picture_is_compared_with_it(
    tmp_path: Path, name: str, change: dict[str, Any], words: str
) -> None:
    section = WRITERS[name](tmp_path)
    path = next((tmp_path / "annotations").glob("*train2017.json"))
    tree = json.loads(path.read_text())
    tree["images"][1].update(change)
    path.write_text(json.dumps(tree))
    reader = read(tmp_path, section | {"keep_val_in_train": True})[1]
    with pytest.raises(DatasetError, match=words):
        reader.read("train", "a_000001")


@pytest.mark.parametrize("name", ["folder", "mapillary", "voc2012"])
def test_a_palette_with_other_colours_than_the_classes_is_refused(
    tmp_path: Path, name: str
) -> None:
    section = WRITERS[name](tmp_path)
    for path in tmp_path.glob(PLACES[name]):
        image = Image.fromarray(np.array(Image.open(path)))
        image.putpalette([7, 7, 7] * 256)
        image.save(path)
    reader = read(tmp_path, section)[1]
    with pytest.raises(DatasetError, match=r"palette in which \d+ is \(7, 7, 7\), but \w+ gives"):
        reader.read("test", reader.keys("test")[0])


@pytest.mark.parametrize("name", ["ade20k", "cityscapes", "voc2012", "folder"])
def test_instances_that_cover_several_classes_are_refused(tmp_path: Path, name: str) -> None:
    values, numbers = {
        "ade20k": ([13, 13, 21, 21, 1, 1], [1] * 6),
        "cityscapes": ([26, 26, 24, 24, 7, 7], [26001] * 6),
        "voc2012": ([15, 15, 1, 1, 0, 0], [1] * 6),
        "folder": ([7, 7, 9, 9, 7, 7], [1] * 6),
    }[name]
    section = WRITERS[name](tmp_path)
    for path in tmp_path.glob(PLACES[name]):
        repaint(path, lambda mask: blocks(values))
        if name == "ade20k":
            map_path = Path(str(path).replace("annotations", "annotations_instance"))
            image = np.stack([blocks([13] * 6), blocks(numbers), blocks([0] * 6)], -1)
        elif name == "voc2012":
            map_path, image = Path(str(path).replace("Class", "Object")), blocks(numbers)
        elif name == "cityscapes":
            map_path = Path(str(path).replace("labelIds", "instanceIds"))
            image = blocks(numbers, dtype=np.uint16)
        else:
            map_path = Path(str(path).replace("masks", "instances"))
            image = blocks(numbers, dtype=np.uint16)
        save(Image.fromarray(image), map_path)
    reader = read(tmp_path, section)[1]
    with pytest.raises(DatasetError, match="contradicts its mask"):
        reader.read("test", reader.keys("test")[0])


def test_two_class_lists_that_differ_are_refused(tmp_path: Path) -> None:
    section = WRITERS["folder"](tmp_path)
    (tmp_path / "_classes.csv").write_text("Pixel Value, Class\n7, wall\n9, hot dog\n")
    with pytest.raises(DatasetError, match=r"classes\.csv and .*_classes\.csv .* differ: id 0 is"):
        read(tmp_path, section)
    (tmp_path / "_classes.csv").write_text(
        "Pixel Value, Class, ignore\n7, wall\n9, hot dog\n0, n, 1"
    )
    assert len(read(tmp_path, section)[1].taxonomy) == 2
