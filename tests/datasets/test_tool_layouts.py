"""Exports of annotation tools: what is painted, what is compared, what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.datasets.rle_pack import decode_rle_pack
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX
from tests.datasets.damage import SHAPES, STEM, bad_samples, open_
from tests.datasets.layouts import STEMS, WRITERS
from tests.datasets.tool_layouts import HEIGHT, WALL, WIDTH, brush_runs

WALL_ID, CAR_ID = 0, 1


def expected_map() -> np.ndarray:
    """The wall with the car's polygon on it, and two pixels of a brush where the tool has one."""
    expected = np.full((HEIGHT, WIDTH), IGNORE_INDEX, np.uint8)
    expected[:16, :16] = WALL_ID
    expected[2:6, 2:10] = CAR_ID
    return expected


@pytest.mark.parametrize("name", SHAPES)
def test_shapes_are_painted_in_the_tools_order_and_groups_are_instances(
    tmp_path: Path, name: str
) -> None:
    reader = open_(tmp_path, WRITERS[name](tmp_path))
    names = {c.name: c.train_id for c in reader.taxonomy}
    sample = reader.read("test", next(k for k in reader.keys("test") if k.endswith("c_000000")))
    expected = np.array([names["wall"], names["car"]], np.uint8)[expected_map().clip(max=1)]
    expected[expected_map() == IGNORE_INDEX] = IGNORE_INDEX
    if name != "yolo":
        expected[[3, 4], [13, 12]] = names["car"]
    np.testing.assert_array_equal(sample.segmentation_map, expected)
    assert sample.instance_map is not None
    cars = np.unique(sample.instance_map[expected == names["car"]])
    num_cars = {"cvat": 1, "labelme": 1, "label_studio": 2, "yolo": 1}[name]
    assert len(cars) == num_cars and (cars > 0).all()
    (wall,) = np.unique(sample.instance_map[expected == names["wall"]])
    assert wall not in cars
    if name == "cvat":
        assert reader.palette.tolist() == [[10, 20, 30], [1, 2, 3]]

    # What no shape covers may be a class, which is stuff.
    background = open_(tmp_path, WRITERS[name](tmp_path) | {"background": "floor"})
    floor = background.taxonomy.by_slug("floor")
    sample = background.read("test", background.keys("test")[0])
    assert not floor.is_thing and sample.segmentation_map.max() == floor.train_id
    assert sample.instance_map is not None
    assert not sample.instance_map[sample.segmentation_map == floor.train_id].any()


def test_runs_of_label_studios_brush() -> None:
    rng = np.random.default_rng(0)
    for density in (0, 0.01, 0.5, 1):
        mask = rng.random((37, 23)) < density
        data = bytes(brush_runs(mask))
        values = decode_rle_pack(data, count=4 * mask.size)
        np.testing.assert_array_equal(values.reshape(37, 23, 4)[..., 3] > 0, mask)
        for cut in range(len(data)):
            with pytest.raises(ValueError, match=r"end early|go on behind|expected 3404 of 8"):
                decode_rle_pack(data[:cut], count=4 * mask.size)
    with pytest.raises(ValueError, match="run lengths of 4294967295 values"):
        decode_rle_pack(b"\xff" * 40, count=4)


def change(root: Path, name: str, old: str, new: str) -> None:
    """Replace text in the annotations of all training samples."""
    files = {"cvat": "*.xml", "label_studio": "train.json", "labelme": "train/*.json"}
    for path in root.glob(files.get(name, "train/labels/*.txt")):
        text = path.read_text()
        assert old in text, text[:2000]
        path.write_text(text.replace(old, new))


CHANGES: list[tuple[str, str, str, str]] = [
    ("cvat", 'rle="1, 2, 1"', 'rle="1, 2, 9"', "run lengths of a mask add up to 12; expected 4"),
    ("cvat", 'left="12"', 'left="23"', r"a mask of 2x2 pixels at \(23, 3\) reaches out of"),
    ("cvat", 'left="12" top="3" width="2"', 'left="1" top="3" width="2000000000"', "reaches out"),
    ("cvat", "2.00,2.00;", "1e9,2.00;", "has the coordinate 1e.09"),
    ("cvat", "2.00,2.00;", "nan,2.00;", "has the coordinate nan"),
    ("cvat", "2.00,2.00;10.00,2.00;", "", "expected at least three points"),
    ("cvat", ' points="', ' dots="', "lacks 'points'"),
    ("cvat", 'width="24"', 'width="25"', "is 24x16 but .* is 25x16"),
    ("labelme", '"imageWidth": 24', '"imageWidth": 25', "is 24x16 but .* is 25x16"),
    ("labelme", '"imageWidth": 24', '"imageWidth": "x"', "doesn't give the image's size"),
    ("labelme", "[2, 2]", "[2e9, 2]", "has the coordinate 2e.09"),
    ("labelme", "[2, 2]", "[2]", "expected a shape as labelme writes it"),
    ("labelme", "[[12, 3], [13, 4]]", "[[12, 3], [14, 4]]", "its mask is 2x2"),
    ("labelme", '"mask": "', '"mask": "!', "no PNG file in base 64"),
    ("labelme", "..\\\\train\\\\", "other_", "is about other_a_000001.jpg, but the image beside"),
    ("label_studio", '"original_width": 24', '"original_width": 25', "is 24x16 but .* is 25x16"),
    ("label_studio", '"image_rotation": 0', '"image_rotation": 90', "on a turned image"),
    ("label_studio", '"format": "rle"', '"format": "png"', "a brush has the format png"),
    ("label_studio", '"rle": [0, 0, 6', '"rle": [0, 1, 6', "run lengths of 67072 values"),
    ("label_studio", '["car"]', '["car", "wall"]', "expected one"),
    ("label_studio", '"was_cancelled": false', '"was_cancelled": true', "has 0 annotations"),
    ("yolo", "0.083333", "5", "no share of the image's side"),
    ("yolo", "1 0.083333 0.125000", "1 0.125", "expected lines of a class's number"),
    ("yolo", "1 0.083333", "7 0.083333", "has the class 7; expected 0 to 1"),
]


@pytest.mark.parametrize("name, old, new, words", CHANGES)
def test_a_shape_that_cant_be_right_is_reported_with_its_file(
    tmp_path: Path, name: str, old: str, new: str, words: str
) -> None:
    section = WRITERS[name](tmp_path)
    change(tmp_path, name, old, new)
    reports = bad_samples(open_(tmp_path, section))
    assert STEM in reports and set(reports) <= {s for stems in STEMS.values() for s in stems}
    assert re.search(words, reports[STEM]), reports[STEM]


FILE_CHANGES: list[tuple[str, str, str, str]] = [
    ("cvat", "<annotations>", '<!DOCTYPE a [<!ENTITY b "c">]><annotations>', "a document type"),
    ("cvat", "<annotations>", "<annotations>" + "<a>" * 40, "nests more than 32 deep"),
    ("cvat", 'encoding="utf-8"', 'encoding="latin-1"', "its encoding is 'latin-1'"),
    ("cvat", "<meta>", '<track id="0" label="car"></track><meta>', "it is CVAT for video"),
    ("cvat", "</annotations>", "", "can't be read: no element found"),
    ("cvat", "<name>car</name>", "<name>wall</name>", "lists 'wall' twice"),
]


@pytest.mark.parametrize("name, old, new, words", FILE_CHANGES)
def test_a_file_that_cant_be_right_is_refused(
    tmp_path: Path, name: str, old: str, new: str, words: str
) -> None:
    section = WRITERS[name](tmp_path)
    change(tmp_path, name, old, new)
    with pytest.raises(DatasetError, match=words):
        open_(tmp_path, section)


def test_one_long_element_of_xml_is_refused_without_holding_it(tmp_path: Path) -> None:
    section = WRITERS["cvat"](tmp_path)
    change(tmp_path, "cvat", "<meta>", f"<a>{'<b/>' * (1 << 22)}</a><image>{'x' * (1 << 25)}")
    with pytest.raises(DatasetError, match=r"annotations\.xml can't be read: an element is longer"):
        open_(tmp_path, section)


@pytest.mark.parametrize("name", SHAPES)
def test_labels_and_class_list_have_to_agree(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    (tmp_path / "labels.txt").unlink(missing_ok=True)
    listed = "id,name,is_thing,ignore\n0,wall,no,\n1,car,yes,\n2,tree,yes,\n"
    (tmp_path / "mine.csv").write_text(listed)
    section["classes_file"] = "mine.csv"
    reader = open_(tmp_path, section)
    assert [(c.name, c.is_thing) for c in reader.taxonomy][:2] == [("wall", False), ("car", True)]
    (tmp_path / "mine.csv").write_text(listed.replace("1,car,yes,", "1,Car,yes,"))
    with pytest.raises(DatasetError, match=r"has the label 'car', but .*mine\.csv lists 'Car'"):
        open_(tmp_path, section)
    (tmp_path / "mine.csv").write_text(listed.replace("0,wall,no,", "0,wall,no,yes"))
    sample = open_(tmp_path, section).read("test", open_(tmp_path, section).keys("test")[0])
    assert set(np.unique(sample.segmentation_map)) == {0, IGNORE_INDEX}
    (tmp_path / "mine.csv").write_text(listed)
    with pytest.raises(ConfigError, match=r"dataset\.background is 'CAR'"):
        open_(tmp_path, section | {"background": "CAR"})


BOXES: dict[str, Callable[[Path], None]] = {
    "cvat": lambda root: change(
        root,
        "cvat",
        '<polygon label="wall" source="manual" occluded="0" points="'
        + ";".join(f"{WALL[i]:.2f},{WALL[i + 1]:.2f}" for i in range(0, 8, 2))
        + '" z_order="0"></polygon>',
        '<box label="wall" xtl="0" ytl="0" xbr="16" ybr="16" rotation="0.0" z_order="0"></box>',
    ),
    "labelme": lambda root: change(
        root,
        "labelme",
        '"polygon", "flags": {}, "mask": null, "label": "wall", "points": '
        "[[0, 0], [16, 0], [16, 16], [0, 16]]",
        '"rectangle", "flags": {}, "mask": null, "label": "wall", "points": [[16, 16], [0, 0]]',
    ),
    "yolo": lambda root: [
        path.write_text(path.read_text().splitlines()[0] + f"\n0 {8 / 24} 0.5 {16 / 24} 1\n")
        for path in root.glob("train/labels/*.txt")
    ],
}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_are_no_masks_until_the_user_says_so(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    polygons = open_(tmp_path, section)
    before = {k: polygons.read("train", k).segmentation_map for k in polygons.keys("train")}
    BOXES[name](tmp_path)
    with pytest.raises(DatasetError, match=r"are upright rectangles; .*set dataset\.boxes"):
        open_(tmp_path, section)
    reader = open_(tmp_path, section | {"boxes": "areas"})
    for key in reader.keys("train"):
        np.testing.assert_array_equal(reader.read("train", key).segmentation_map, before[key])
    ignored = open_(tmp_path, section | {"boxes": "ignore"}).read("train", key)
    assert set(np.unique(ignored.segmentation_map)) == {
        reader.taxonomy.by_slug("car").train_id,
        255,
    }


def test_other_shapes_turned_rectangles_and_ellipses(tmp_path: Path) -> None:
    section = WRITERS["cvat"](tmp_path)
    change(
        tmp_path,
        "cvat",
        '<polygon label="wall"',
        '<polyline label="car" points="1,1;2,2" z_order="0"></polyline>'
        '<ellipse label="wall" cx="12" cy="8" rx="4" ry="2" rotation="90.0" z_order="2"></ellipse>'
        '<box label="car" xtl="18" ytl="7" xbr="24" ybr="9" rotation="90.0" z_order="3"></box>'
        '<polygon label="wall"',
    )
    reader = open_(tmp_path, section)
    assert any("shapes without an area aren't read: " in note for note in reader.notes)
    segmentation_map = reader.read("test", reader.keys("test")[0]).segmentation_map
    turned = np.zeros_like(segmentation_map, bool)
    turned[5:11, 20:22] = True
    assert (segmentation_map[turned] == CAR_ID).all() and not (segmentation_map[:, 18:] == CAR_ID)[
        ~turned[:, 18:]
    ].any()
    rows, columns = np.nonzero(segmentation_map[:, 10:16] == WALL_ID)
    y, x = np.mgrid[:16, :24]
    inside = ((x + 0.5 - 12) / 2) ** 2 + ((y + 0.5 - 8) / 4) ** 2 < 0.8
    assert (segmentation_map[inside] == WALL_ID).all() and len(rows) == len(columns)


@pytest.mark.parametrize("name", SHAPES)
def test_images_without_a_shape_are_part_of_the_task_if_there_is_a_background(
    tmp_path: Path, name: str
) -> None:
    section = WRITERS[name](tmp_path)
    empty: dict[str, Callable[[Path], Any]] = {
        "cvat": lambda root: (root / "annotations.xml").write_text(
            re.sub(
                r'(<image id="\d+" name="a_000001[^>]*)>.*?</image>',
                r"\1/>",
                (root / "annotations.xml").read_text(),
            )
        ),
        "labelme": lambda root: change_json(
            root / "train" / f"{STEM}.json", lambda t: t.update(shapes=[])
        ),
        "label_studio": lambda root: change_json(
            root / "train.json", lambda t: t[1]["annotations"][0].update(result=[])
        ),
        "yolo": lambda root: (root / "train" / "labels" / f"{STEM}.txt").write_text(""),
    }
    empty[name](tmp_path)
    reader = open_(tmp_path, section)
    listed = [k.rpartition("/")[2] for s in ("train", "val") for k in reader.keys(s)]
    assert STEM not in listed and any("1 images of train have no shape" in n for n in reader.notes)
    reader = open_(tmp_path, section | {"background": "floor"})
    split, key = next((s, k) for s in ("train", "val") for k in reader.keys(s) if k.endswith(STEM))
    assert (reader.read(split, key).segmentation_map == 2).all()


def change_json(path: Path, edit: Callable[[Any], Any]) -> None:
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize("name", SHAPES)
def test_an_image_or_a_file_without_the_other_is_reported(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    image = next(p for p in tmp_path.rglob(f"{STEM}.jpg"))
    shutil.copy(image, image.with_name("alone.jpg"))
    reports = bad_samples(open_(tmp_path, section | {"num_val": 1}))
    if name == "cvat":  # splits share a folder: an image that no subset lists is in none
        assert reports == {}
        return
    assert list(reports) == ["alone"]
    assert re.search(r"alone\.jpg has no (annotation|label file); expected", reports["alone"])


def test_names_in_either_unicode_form_pair_up(tmp_path: Path) -> None:
    for name in SHAPES:
        root = tmp_path / name
        root.mkdir()
        section = WRITERS[name](root)
        for path in root.rglob(f"{STEM}.*"):
            form = "u\u0308" if path.suffix == ".jpg" else "\u00fc"
            path.rename(path.with_name(f"{form}{path.suffix}"))
        if name in ("cvat", "label_studio"):
            change(root, name, STEM, "\u00fc")
        if name == "labelme":
            change_json(root / "train" / "\u00fc.json", lambda t: t.update(imagePath="u\u0308.jpg"))
        reader = open_(root, section)
        assert bad_samples(reader) == {}
        keys = [k.rpartition("/")[2] for s in ("train", "val") for k in reader.keys(s)]
        assert "\u00fc" in keys


def test_turned_images_are_turned_where_the_file_says_what_was_drawn_on(tmp_path: Path) -> None:
    for name in SHAPES:
        root = tmp_path / name
        root.mkdir()
        section = WRITERS[name](root)
        for path in root.rglob("*.jpg"):
            stored = Image.open(path).transpose(Image.Transpose.ROTATE_90)
            exif = Image.Exif()
            exif[0x0112] = 6
            stored.save(path, exif=exif)
        if name == "yolo":
            assert "doesn't say the size" in bad_samples(open_(root, section))[STEM]
            continue
        reader = open_(root, section)
        assert bad_samples(reader) == {}
        sample = reader.read("test", reader.keys("test")[0])
        assert sample.image.shape == (HEIGHT, WIDTH, 3)
        assert reader.read_header("test", reader.keys("test")[0]) == (WIDTH, HEIGHT)
