"""The user's own folders: names, splits, class lists and kinds of pictures that people bring."""

import json
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import DatasetConfig
from seggen_core.datasets.class_list import read_class_list
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.errors import DatasetError
from tests.datasets.layouts import WRITERS, blocks, picture, save

CLASSES = "id,name\n0,wall\n1,hot dog\n"
VALUES = [0, 1, 1, 0, 0, 0]


def open_(root: Path, **settings: Any) -> DatasetReader:
    tree = {"name": "folder", "root": root} | settings
    return open_dataset(DatasetConfig.model_validate(tree), seed=0)


def write(root: Path, *, stems: str, image: str, mask: str, classes: str = CLASSES) -> None:
    """Write pairs; `image` and `mask` are paths with {} for the stem."""
    for stem in stems:
        save(picture(seed=ord(stem)), root / image.format(stem))
        save(Image.fromarray(blocks(VALUES)), root / mask.format(stem))
    (root / "classes.csv").write_text(classes)


def all_keys(reader: DatasetReader) -> list[str]:
    return sorted(key for split in SPLITS for key in reader.keys(split))


def read_all(reader: DatasetReader) -> None:
    for split in SPLITS:
        assert reader.keys(split)
        for key in reader.keys(split):
            segmentation_map = reader.read(split, key).segmentation_map
            np.testing.assert_array_equal(segmentation_map, blocks(VALUES))


def test_splits_that_are_not_there_are_taken_out_of_train(tmp_path: Path) -> None:
    write(tmp_path, stems="abcdefghij", image="images/{}.jpg", mask="masks/{}.png")
    reader = open_(tmp_path)
    assert all_keys(reader) == list("abcdefghij")
    assert [len(reader.keys(s)) for s in SPLITS] == [8, 1, 1]
    assert any("there is no test split; 1 samples are taken out" in n for n in reader.notes)
    read_all(reader)
    assert [open_(tmp_path).keys(s) for s in SPLITS] == [reader.keys(s) for s in SPLITS]
    assert [len(open_(tmp_path, num_val=200).keys(s)) for s in SPLITS] == [6, 3, 1]

    # The user's own test split stays the test split, whatever its folder is called.
    dataset = tmp_path / "own"
    write(dataset, stems="abcdef", image="images/training/{}.jpg", mask="masks/training/{}.png")
    write(dataset, stems="xy", image="images/testing/{}.jpg", mask="masks/testing/{}.png")
    (dataset / "images" / "extra").mkdir()
    reader = open_(dataset)
    assert reader.keys("test") == ["x", "y"] and len(reader.keys("val")) == 1
    assert "images/extra is no split and isn't read" in reader.notes
    read_all(reader)
    (dataset / "images" / "test").mkdir()
    with pytest.raises(DatasetError, match="holds test and testing; expected one folder a split"):
        open_(dataset)
    few = tmp_path / "few"
    write(few, stems="ab", image="images/{}.jpg", mask="masks/{}.png")
    with pytest.raises(DatasetError, match="no test split and 2 training samples; expected at"):
        open_(few)


@pytest.mark.parametrize("ending", ["_mask", "_seg", "_labelIds", "-gt", ".label"])
@pytest.mark.parametrize("image", ["images/{}.jpg", "images/{}.png", "images/sub/{}.jpg"])
def test_masks_may_have_an_ending(tmp_path: Path, ending: str, image: str) -> None:
    mask = str(Path(image.replace("images", "masks")).with_suffix("")) + f"{ending}.png"
    write(tmp_path, stems="abcdef", image=image, mask=mask)
    reader = open_(tmp_path)
    read_all(reader)
    assert f"masks in masks are called <image>{ending}.png" in reader.notes


def test_endings_may_be_said_and_masks_lie_beside_images(tmp_path: Path) -> None:
    for split, stems in (("train", "abcd"), ("valid", "ef"), ("test", "gh")):  # Roboflow's
        write(tmp_path, stems=stems, image=f"{split}/{{}}.png", mask=f"{split}/{{}}_mask.png")
        listed = "Pixel Value, Class\n0, wall\n1, hot dog\n"
        (tmp_path / split / "_classes.csv").write_text(listed)
    (tmp_path / "classes.csv").unlink()
    reader = open_(tmp_path)
    assert [reader.keys(s) for s in SPLITS] == [list("abcd"), list("ef"), list("gh")]
    read_all(reader)
    (tmp_path / "test" / "_classes.csv").write_text("Pixel Value, Class\n0, wall\n1, cat\n")
    with pytest.raises(DatasetError, match=r"train/_classes\.csv and .*test/_classes\.csv"):
        open_(tmp_path)

    said = tmp_path / "said"
    write(said, stems="abcdef", image="all/{}_sat.jpg", mask="all/{}_m.png")
    place = {"images": "all", "masks": "all", "image_ending": "_sat", "mask_ending": "_m"}
    reader = open_(said, files={"train": place})
    assert all_keys(reader) == list("abcdef")
    read_all(reader)


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.csv", "id;name;is_thing;color\n0; wall;no;1,2,3\n1; hot dog ;yes;4,5,6\n"),
        ("a.csv", "sep=;\r\nid;name;is_thing;color\r\n0;wall;no;1,2,3\r\n1;hot dog;yes;4,5,6\r\n"),
        ("a.csv", "id\tname\tis_thing\tcolor\n0\twall\tno\t1 2 3\n1\thot dog\tyes\t4 5 6\n"),
        ("a.csv", 'id, name, isthing, colour\n0, wall, 0, "1, 2, 3"\n1, hot dog, 1, 4 5 6\n'),
        ("a.json", json.dumps([{"id": 0, "name": "wall"}, {"id": 1, "name": "hot dog"}])),
        ("_classes.csv", "Pixel Value, Class\n0, wall\n1, hot dog\n"),
        ("labelmap.txt", "# label:color_rgb:parts:actions\nwall:1,2,3::\nhot dog:4,5,6::\n"),
        ("class_names.txt", "wall\nhot dog\n"),
        ("labels.txt", "__ignore__\nwall\nhot dog\n"),
    ],
)
def test_class_lists_of_other_tools(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    rows = [row for row in read_class_list(tmp_path / name).rows if not row.is_ignored]
    assert [(row.file_id, row.name) for row in rows] == [(0, "wall"), (1, "hot dog")]
    if "1" in text and name in ("a.csv", "labelmap.txt"):
        assert [row.color for row in rows] == [(1, 2, 3), (4, 5, 6)]
    if name == "a.csv":
        assert [row.is_thing for row in rows] == [False, True]


@pytest.mark.parametrize(
    "text, words",
    [
        ("id,name,color\n1,a,1 2 3\n2,b,1 2 3\n", r"'a' \(id 1\) and 'b' \(id 2\) the same colour"),
        ("id,name\n" + "".join(f"{i},c{i}\n" for i in range(300)), "lists 300 classes; expected 1"),
        ("id,name\n" + "1,a\n" * 2_000_000, "8000008 bytes; expected at most 4194304"),
        ("id,name,ignore\n0,a,yes\n", "holds 1 rows, all with ignore set; expected 1 to 255"),
        ("", "holds nothing; expected 1 to 255 classes"),
        ("id,name\n0,Öl\n1,ol\n", "'Öl' and 'ol' share the slug 'ol'"),
    ],
)
def test_class_lists_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    write(tmp_path, stems="abc", image="images/{}.jpg", mask="masks/{}.png", classes=text)
    with pytest.raises(DatasetError, match=words) as caught:
        open_(tmp_path)
    assert "classes.csv" in str(caught.value)


def test_kinds_of_masks(tmp_path: Path) -> None:
    listed = "id,name,color,ignore\n0,道路,1 2 3,\n1,hot dog,4 5 6,\n9,void,7 8 9,yes\n"
    write(tmp_path, stems="abcdef", image="images/{}.jpg", mask="masks/{}.png", classes=listed)
    ids = blocks(VALUES)
    colors = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)[ids]
    void = colors.copy()
    void[0, 0] = 7, 8, 9
    kinds = [ids > 0, np.stack([ids] * 3, -1), colors, ids.astype(np.uint16), ids]
    for stem, array in zip("abcde", kinds, strict=True):
        Image.fromarray(array).save(tmp_path / "masks" / f"{stem}.png")
    reader = open_(tmp_path)
    assert reader.taxonomy.slugs == ["class_0", "hot_dog"]
    read_all(reader)
    Image.fromarray(void).save(tmp_path / "masks" / "f.png")
    split = next(s for s in SPLITS if "f" in reader.keys(s))
    assert reader.read(split, "f").segmentation_map[0, 0] == 255

    # White is 255 where the list has 255 and not 1.
    (tmp_path / "classes.csv").write_text("id,name\n0,wall\n255,hot dog\n")
    split = next(s for s in SPLITS if "a" in reader.keys(s))
    np.testing.assert_array_equal(open_(tmp_path).read(split, "a").segmentation_map, ids)
    split = next(s for s in SPLITS if "c" in reader.keys(s))
    reader = open_(tmp_path)
    with pytest.raises(DatasetError, match="is an RGB mask with colours, but not every row"):
        reader.read(split, "c")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_grey_masks_of_4_bits_are_refused(tmp_path: Path) -> None:
    """Pillow would scale their ids: 1 becomes 17."""
    write(tmp_path, stems="abcdef", image="images/{}.jpg", mask="masks/{}.png")
    packed = [bytes([0x01] * 12)] * 16
    data = zlib.compress(b"".join(b"\0" + row for row in packed))
    header = struct.pack(">IIBBBBB", 24, 16, 4, 0, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    png = b"\x89PNG\r\n\x1a\n" + chunks
    (tmp_path / "masks" / "a.png").write_bytes(png)
    reader = open_(tmp_path)
    split = next(s for s in SPLITS if "a" in reader.keys(s))
    with pytest.raises(DatasetError, match="is grey with 4 bits a pixel; expected ids in 8 or 16"):
        reader.read(split, "a")


IMAGES = {
    "opaque alpha": lambda rgb: rgb.convert("RGBA"),
    "palette": lambda rgb: rgb.quantize(256, dither=Image.Dither.NONE),
    "CMYK": lambda rgb: rgb.convert("CMYK"),
    "16 bits": lambda rgb: Image.fromarray(np.array(rgb.convert("L")).astype(np.uint16) * 257),
    "1 bit": lambda rgb: rgb.convert("1"),
    "grey and opaque alpha": lambda rgb: rgb.convert("LA"),
}


@pytest.mark.parametrize("kind", IMAGES)
@pytest.mark.parametrize("name", ["folder", "coco_instance"])
def test_kinds_of_images(tmp_path: Path, kind: str, name: str) -> None:
    section = WRITERS[name](tmp_path)
    rgb = picture(seed=3)
    image = IMAGES[kind](rgb)
    is_jpeg = image.mode == "CMYK"
    for path in tmp_path.rglob("*.jpg"):
        image.save(
            path, format="JPEG" if is_jpeg else "PNG", **({"quality": 98} if is_jpeg else {})
        )
    tree = {"root": tmp_path, "splits": "val_as_test", "num_val": 1} | section
    reader = open_dataset(DatasetConfig.model_validate(tree), seed=0)
    pixels = reader.read("test", reader.keys("test")[0]).image
    expected = rgb.convert(
        {"16 bits": "L", "1 bit": "1"}.get(kind, "L" if "grey" in kind else "RGB")
    )
    assert pixels.dtype == np.uint8 and pixels.shape == (16, 24, 3)
    error = np.abs(pixels.astype(int) - np.array(expected.convert("RGB")).astype(int))
    assert np.median(error) <= (4 if is_jpeg else 0)


def test_cityscapes_with_coarse_masks_and_without_instances(tmp_path: Path) -> None:
    section = WRITERS["cityscapes"](tmp_path)
    tree = {"root": tmp_path, "splits": "val_as_test", "num_val": 1} | section
    for path in tmp_path.rglob("*_instanceIds.png"):
        path.unlink()
    reader = open_dataset(DatasetConfig.model_validate(tree), seed=0)
    sample = reader.read("test", reader.keys("test")[0])
    assert sample.instance_map is None
    for path in tmp_path.rglob("*gtFine*.png"):
        path.rename(path.with_name(path.name.replace("gtFine", "gtCoarse")))
    (tmp_path / "gtFine").rename(tmp_path / "gtCoarse")
    reader = open_dataset(DatasetConfig.model_validate(tree), seed=0)
    again = reader.read("test", reader.keys("test")[0])
    np.testing.assert_array_equal(again.segmentation_map, sample.segmentation_map)


def test_links_that_multiply_folders_end(tmp_path: Path) -> None:
    write(tmp_path, stems="abcdef", image="images/{}.jpg", mask="masks/{}.png")
    for name in "xyz":
        (tmp_path / "images" / name).symlink_to(tmp_path / "images", target_is_directory=True)
    assert all_keys(open_(tmp_path)) == list("abcdef")
