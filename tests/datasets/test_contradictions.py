"""Files that are sound one by one, and contradict one another or what is assumed of them."""

import functools
import json
import operator
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.datasets.class_list import read_class_list
from seggen_core.datasets.recognise import recognise_dataset
from seggen_core.errors import DatasetError
from tests.datasets.damage import IMAGES, STEM, bad_samples, change_json, open_
from tests.datasets.layouts import WRITERS, blocks, picture, save
from tests.datasets.test_cross_checks import PLACES, build, problems, read
from tests.datasets.tool_layouts import change_parquet

COLORS = [[0, 0, 0], [200, 0, 0], [0, 0, 200]]


def palette_mask(order: list[int]) -> Image.Image:
    """Six blocks of three colours, whose order in the palette differs from file to file."""
    image = Image.fromarray(np.argsort(order).astype(np.uint8)[blocks([0, 1, 2, 1, 0, 0])])
    image.putpalette(functools.reduce(operator.iadd, (COLORS[i] for i in order), []))
    return image


@pytest.mark.parametrize("name", ["folder", "huggingface", "voc"])
def test_palettes_that_give_an_id_two_colours_are_refused(tmp_path: Path, name: str) -> None:
    """Programs that write small palettes number colours as they meet them."""
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root)
    (root / "mine.csv").write_text("id,name\n0,a\n1,b\n2,c\n")
    for path in [*root.glob("classes.csv"), *root.glob("labelmap.txt")]:
        path.unlink()
    section |= {"classes_file": "mine.csv"}

    def repaint(orders: list[list[int]]) -> None:
        if name == "huggingface":
            images = iter(orders)

            def change(row: dict[str, Any]) -> None:
                palette_mask(next(images)).save(tmp_path / "x.png")
                row["label"]["bytes"] = (tmp_path / "x.png").read_bytes()

            change_parquet(root, change)
            return
        for path, order in zip(sorted(root.glob(PLACES[name])), orders, strict=True):
            palette_mask(order).save(path)

    repaint([[0, 1, 2]] * 5)
    config, reader = read(root, section)
    assert problems(config, root) == ""
    repaint([[0, 1, 2], [0, 2, 1], *[[0, 1, 2]] * 3])
    config, reader = read(root, section)
    assert "1 is (200, 0, 0) in the palette of " in problems(config, root)
    with pytest.raises(DatasetError, match=r"contradict one another: 1 is .*one colour an id"):
        build(config, reader, tmp_path / "out")


def write_binary(root: Path, values: dict[str, list[int]]) -> dict[str, Any]:
    for split, stems in {"train": "abcd", "val": "ef", "test": "gh"}.items():
        for stem in stems:
            save(picture(seed=ord(stem)), root / "images" / split / f"{stem}.jpg")
            mask = Image.fromarray(blocks(values[split]))
            save(mask, root / "masks" / split / f"{stem}.png")
    (root / "classes.csv").write_text("id,name\n0,background\n1,polyp\n")
    return {"name": "folder", "splits": "published", "num_val": None, "max_unlisted_share": 1.0}


def test_a_split_in_another_encoding_than_train_is_refused(tmp_path: Path) -> None:
    """Train holds 0 and 1, test 0 and 255: the object was ignored there."""
    root = tmp_path / "dataset"
    some = [0, 1, 0, 0, 0, 0]
    sound = {"train": some, "val": some, "test": some}
    config, reader = read(root, write_binary(root, sound))
    assert problems(config, root) == ""
    config, reader = read(root, write_binary(root, sound | {"test": [0, 255, 0, 0, 0, 0]}))
    words = "'polyp': no test pixel, while 16.7% of the test pixels are ignored by convention alone"
    assert f"{words}, and none of train are; they may be these" in problems(config, root)
    with pytest.raises(DatasetError, match=words):
        build(config, reader, tmp_path / "out")


def test_masks_that_stand_in_for_missing_labels_are_a_problem(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    values = {"train": [0, 1, 0, 0, 0, 0], "val": [0, 1, 0, 0, 0, 0], "test": [0] * 6}
    config, _ = read(root, write_binary(root, values))
    (report,) = problems(config, root).splitlines()
    assert report.startswith("test: every labelled test pixel is 'background', so that scores say")


def test_instance_maps_without_an_instance_are_a_problem(tmp_path: Path) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS["folder"](root)
    for path in root.glob("masks/*/*/*.png"):
        empty = Image.fromarray(blocks([0] * 6, dtype=np.uint16))
        save(empty, Path(str(path).replace("masks", "instances")))
    config, _ = read(root, section | {"max_unlisted_share": 1.0})
    assert "show no instance, while 'hot dog' are things" in problems(config, root)


@pytest.mark.parametrize("text", ["1 polyp\n0 background\n", "1: polyp\n2: tool\n", "0,a\n1,b\n"])
def test_a_list_of_names_with_ids_in_front_is_refused(tmp_path: Path, text: str) -> None:
    """The lines would give other ids, and the numbers would be parts of the names."""
    path = tmp_path / "class_names.txt"
    path.write_text(text)
    for of_words in (False, True):
        with pytest.raises(DatasetError, match=r"row 1 is .*columns id and name"):
            read_class_list(path, of_words=of_words)
    path.write_text("3 wheeler\ncar\n")
    assert len(read_class_list(path).rows) == 2


def shares_of_coco(root: Path) -> None:
    def change(tree: dict) -> None:
        for annotation in tree["annotations"]:
            annotation |= {"segmentation": [[0.1, 0.1, 0.9, 0.1, 0.9, 0.9]], "iscrowd": 0}

    change_json(root / "annotations" / "instances_train2017.json", change)


def shares_of_labelme(root: Path) -> None:
    def change(tree: dict) -> None:
        tree["shapes"] = [{"label": "car", "points": [[0, 0], [0.5, 0.1], [1, 1]]}]

    for path in root.glob("train/*.json"):
        change_json(path, change)


@pytest.mark.parametrize(
    "name, change", [("coco_instance", shares_of_coco), ("labelme", shares_of_labelme)]
)
def test_polygons_in_shares_of_the_sides_are_reported(
    tmp_path: Path, name: str, change: Callable[[Path], None]
) -> None:
    section = WRITERS[name](tmp_path)
    change(tmp_path)
    reports = bad_samples(open_(tmp_path, section))
    assert STEM in reports and len(reports) == 3
    assert "coordinates of its polygons are 0 to 1; expected pixels" in reports[STEM]


def test_coco_with_crowds_alone_says_how_they_are_read(tmp_path: Path) -> None:
    section = WRITERS["coco_instance"](tmp_path)

    def change(tree: dict) -> None:
        for annotation in tree["annotations"]:
            annotation["iscrowd"] = 1

    change_json(tmp_path / "annotations" / "instances_train2017.json", change)
    with pytest.raises(DatasetError, match=r"9 crowds, which are ignored.*dataset\.crowds"):
        open_(tmp_path, section)


@pytest.mark.parametrize("name", ["folder", "coco_instance", "yolo"])
def test_images_of_12_bits_in_16_are_reported(tmp_path: Path, name: str) -> None:
    """Of 16 bits the high ones are taken, so they would be nearly black."""
    section = WRITERS[name](tmp_path)
    path = tmp_path / IMAGES[name].format(STEM)
    grey = np.array(Image.open(path).convert("L")).astype(np.uint16)
    for factor, words in ((16, "has 16 bits, and no value above"), (256, "")):
        Image.fromarray(grey * factor).save(path, format="PNG")
        reports = bad_samples(open_(tmp_path, section))
        assert words in reports[STEM] if words else reports == {}


def test_names_with_suffixes_in_a_list_of_samples_are_called_that(tmp_path: Path) -> None:
    section = WRITERS["voc"](tmp_path)
    path = tmp_path / "ImageSets" / "Segmentation" / "Train.txt"
    path.write_text(path.read_text().replace(STEM, f"{STEM}.jpg"))
    reports = bad_samples(open_(tmp_path, section))
    assert "(the list of samples has its suffix; expected" in reports[f"{STEM}.jpg"]


def test_voc_without_sbd_is_told_how_to_do_without(tmp_path: Path) -> None:
    section = WRITERS["voc2012"](tmp_path)
    with pytest.raises(DatasetError, match=r"masks of SBD .*dataset\.use_sbd=false"):
        open_(tmp_path, section | {"use_sbd": True})


@pytest.mark.parametrize("turn", [6, 8])
def test_images_of_coco_are_turned_where_json_lists_them_so(tmp_path: Path, turn: int) -> None:
    """Tools show images as their EXIF tag says, and draw and list them so."""
    section = WRITERS["coco_instance"](tmp_path)
    path = tmp_path / IMAGES["coco_instance"].format(STEM)
    back = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}[turn]
    pixels = np.array(picture(seed=9))
    exif = Image.Exif()
    exif[0x0112] = turn
    Image.fromarray(pixels).transpose(back).save(path, format="PNG", exif=exif)
    reader = open_(tmp_path, section | {"keep_val_in_train": True})
    assert bad_samples(reader) == {}
    sample = reader.read("train", STEM)
    np.testing.assert_array_equal(sample.image, pixels)
    assert reader.read_header("train", STEM) == (24, 16)
    # A file that gives no size doesn't tell.
    json_path = tmp_path / "annotations" / "instances_train2017.json"
    tree = json.loads(json_path.read_text())
    del tree["images"][1]["width"], tree["images"][1]["height"]
    json_path.write_text(json.dumps(tree))
    reports = bad_samples(open_(tmp_path, section), headers=True)
    assert f"EXIF orientation {turn}" in reports[STEM] and "doesn't say the size" in reports[STEM]


def test_folders_of_images_and_masks_in_each_split_are_recognised(tmp_path: Path) -> None:
    for kind in ("images", "masks"):
        (tmp_path / "train" / kind).mkdir(parents=True)
    assert recognise_dataset(tmp_path) == "folder"
