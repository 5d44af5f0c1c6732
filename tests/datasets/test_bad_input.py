"""Bad files of every kind in every layout.

They are listed, refused with file and reason, and counted by validation and by the stage.
"""

import json
import os
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import DatasetConfig, Split
from seggen_core.datasets import coco_instance
from seggen_core.datasets.coco_index import index_coco
from seggen_core.datasets.decode import MAX_PIXELS
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.errors import DatasetError
from tests.datasets.layouts import WRITERS

STEM = "a_000001"

IMAGES = {
    "ade20k": "images/training/{}.jpg",
    "camvid": "train/{}.jpg",
    "cityscapes": "leftImg8bit/train/a/{}_leftImg8bit.png",
    "coco_instance": "train2017/{}.jpg",
    "coco_panoptic": "train2017/{}.jpg",
    "coco_stuff": "train2017/{}.jpg",
    "folder": "images/train/a/{}.jpg",
    "mapillary": "training/images/{}.jpg",
    "voc2012": "VOCdevkit/VOC2012/JPEGImages/{}.jpg",
}
MASKS = {
    "ade20k": "annotations/training/{}.png",
    "camvid": "trainannot/{}.png",
    "cityscapes": "gtFine/train/a/{}_gtFine_labelIds.png",
    "coco_panoptic": "annotations/panoptic_train2017/{}.png",
    "coco_stuff": "stuffthingmaps/train2017/{}.png",
    "folder": "masks/train/a/{}.png",
    "mapillary": "training/labels/{}.png",
    "voc2012": "VOCdevkit/VOC2012/SegmentationClass/{}.png",
}
ID_MASKS = {k: v for k, v in MASKS.items() if k != "coco_panoptic"}


def open_(root: Path, section: dict[str, Any]) -> DatasetReader:
    tree = {"root": root, "splits": "val_as_test", "num_val": 1} | section
    return open_dataset(DatasetConfig.model_validate(tree), seed=0)


def bad_samples(reader: DatasetReader, *, headers: bool = False) -> dict[str, str]:
    """What every listed sample that can't be used is refused with, by stem."""
    found = {}
    for split in SPLITS:
        for key in reader.keys(split):
            try:
                (reader.read_header if headers else reader.read)(split, key)
            except DatasetError as error:
                found[key.rpartition("/")[2]] = str(error)
    return found


def edit(path: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(change(np.array(Image.open(path)))).save(path)


def claim_size(path: Path, width: int, height: int) -> None:
    """Write a PNG of a few bytes whose header claims `width` x `height` pixels."""
    mode = "RGB" if path.parent.name.startswith("panoptic") else "L"
    path.unlink()
    Image.new(mode, (1, 1)).save(path, format="PNG")
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


def link_out(path: Path, root: Path) -> None:
    outside = root.parent / f"outside-{path.name}"
    path.rename(outside)
    path.symlink_to(outside)


def replace(path: Path, make: Callable[[], Any]) -> None:
    path.unlink()
    make()


def flip_bit(path: Path) -> None:
    """Damage the pixels of a PNG file; Pillow alone doesn't see it."""
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 8] ^= 4
    path.write_bytes(data)


def rotate(path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3  # turned by half: no size tells whether the mask was drawn before or after
    Image.open(path).save(path, exif=exif)


# How a file is spoilt, what the message says, and whether its header tells (a tiny file cut short
# may lose its header too).
FILES: dict[str, tuple[Callable[[Path, Path], Any], str, Literal[True] | None]] = {
    "missing": (lambda p, root: p.unlink(), r"has no (image|mask)|is missing", True),
    "zero bytes": (lambda p, root: p.write_bytes(b""), r"is empty \(0 bytes\)", True),
    "truncated": (
        lambda p, root: p.write_bytes(p.read_bytes()[: int(p.stat().st_size * 0.7)]),
        "can't be decoded",
        None,
    ),
    "no picture": (
        lambda p, root: p.write_bytes(b"<html>not found</html>"),
        "can't be decoded",
        True,
    ),
    "transparent": (
        lambda p, root: Image.merge("RGBA", [Image.open(p).convert("L")] * 4).save(p, format="PNG"),
        "has mode RGBA; expected|has transparent pixels",
        None,
    ),
    "WebP": (
        lambda p, root: Image.open(p).convert("RGB").save(p, format="WEBP"),
        "it is a WebP file, whatever its name says",
        True,
    ),
    "pointer of Git LFS": (
        lambda p, root: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
        r"run: git lfs pull",
        True,
    ),
    "huge": (
        lambda p, root: claim_size(p, 8193, 8192),
        rf"is 8193x8192; expected at most {MAX_PIXELS} pixels",
        True,
    ),
    "decompression bomb": (
        lambda p, root: claim_size(p, 60_000, 60_000),
        rf"expected at most {MAX_PIXELS} pixels",
        True,
    ),
    "link out of the root": (link_out, "is a link out of", True),
    "link in a circle": (
        lambda p, root: replace(p, lambda: p.symlink_to(p)),
        "can't be (followed|read)",
        True,
    ),
    "FIFO": (
        lambda p, root: replace(p, lambda: os.mkfifo(p)),
        "is a FIFO; expected a regular file",
        True,
    ),
    "folder": (lambda p, root: replace(p, p.mkdir), "has no (image|mask)", True),
    "other size": (
        lambda p, root: Image.open(p).resize((20, 16)).save(p),
        "expected the same size",
        True,
    ),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize(
    "kind, name", [*(("image", n) for n in IMAGES), *(("mask", n) for n in MASKS)]
)
def test_a_bad_file_is_reported_with_file_and_reason(
    tmp_path: Path, name: str, case: str, kind: str
) -> None:
    places = IMAGES if kind == "image" else MASKS
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS[name](root)
    path = root / places[name].format(STEM)
    spoil, words, in_header = FILES[case]
    spoil(path, root)
    reader = open_(root, section)
    found = bad_samples(reader)
    assert list(found) == [STEM], "the bad sample alone, and it may not vanish from the listing"
    assert STEM in found[STEM]
    with pytest.raises(DatasetError, match=words):
        raise DatasetError(found[STEM])
    if in_header is not None:
        assert list(bad_samples(reader, headers=True)) == [STEM]


@pytest.mark.parametrize("name", MASKS)
def test_a_flipped_bit_of_a_mask_is_reported(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    flip_bit(tmp_path / MASKS[name].format(STEM))
    found = bad_samples(open_(tmp_path, section))
    assert list(found) == [STEM] and "chunk 'IDAT' at byte" in found[STEM]


MODES: dict[str, tuple[Callable[[Path], Any], str, set[str]]] = {
    "an id outside of the taxonomy": (
        lambda p: edit(p, lambda m: np.where(np.arange(m.shape[1]) < 2, 200, m).astype(np.uint8)),
        r"has label 200 \(32 pixels\); \w+ allows ",
        set(ID_MASKS) - {"voc2012", "mapillary"},
    ),
    "16 bits": (
        lambda p: edit(p, lambda m: m.astype(np.uint16)),
        r"has mode I;16 *\S*; expected",
        set(ID_MASKS) - {"folder"},
    ),
    "a palette where ids are expected": (
        lambda p: Image.open(p).convert("P").save(p),
        "has mode P; expected L",
        {"ade20k", "camvid", "cityscapes", "coco_stuff"},
    ),
    "colours where ids are expected": (
        lambda p: Image.open(p).convert("RGB").save(p),
        "has mode RGB; expected",
        set(ID_MASKS) - {"folder"},
    ),
    "nothing labelled": (
        lambda p: edit(
            p,
            lambda m: np.full(m.shape, {"camvid": 11, "ade20k": 0}.get(p.parts[-4], 255), np.uint8),
        ),
        "has no labelled pixel",
        {"coco_stuff", "folder"},
    ),
}


@pytest.mark.parametrize(
    "case, name", [(case, name) for case in MODES for name in sorted(MODES[case][2])]
)
def test_a_mask_of_another_kind_is_reported(tmp_path: Path, case: str, name: str) -> None:
    section = WRITERS[name](tmp_path)
    MODES[case][0](tmp_path / MASKS[name].format(STEM))
    found = bad_samples(open_(tmp_path, section))
    assert list(found) == [STEM]
    with pytest.raises(DatasetError, match=MODES[case][1]):
        raise DatasetError(found[STEM])


@pytest.mark.parametrize("name", [n for n in IMAGES if n not in ("cityscapes", "coco_instance")])
def test_exif_half_turn_is_reported(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    rotate(tmp_path / IMAGES[name].format(STEM))
    found = bad_samples(open_(tmp_path, section), headers=True)
    assert list(found) == [STEM] and "EXIF orientation 3" in found[STEM]


@pytest.mark.parametrize(
    "name", [n for n in IMAGES if not n.startswith("coco_") or n == "coco_stuff"]
)
def test_two_images_of_one_name_are_reported(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    path = tmp_path / IMAGES[name].format(STEM)
    other = path.with_suffix(".jpeg")
    Image.open(path).save(other, format="JPEG")
    found = bad_samples(open_(tmp_path, section))
    assert (
        list(found) == [STEM] and "has 2 images called" in found[STEM] and other.name in found[STEM]
    )


def change_json(path: Path, change: Callable[[dict], Any]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


@pytest.mark.parametrize("name", ["coco_panoptic", "coco_instance"])
def test_coco_entries_taken_twice_missing_or_out_of_the_root_are_reported(
    tmp_path: Path, name: str
) -> None:
    section = WRITERS[name](tmp_path)
    path = next((tmp_path / "annotations").glob("*_train2017.json"))
    sound = json.loads(path.read_text())

    def found(change: Callable[[dict], Any]) -> dict[str, str]:
        tree = json.loads(json.dumps(sound))
        change(tree)
        path.write_text(json.dumps(tree))
        return bad_samples(open_(tmp_path, section))

    twice = found(lambda t: t["images"].append(t["images"][1] | {"id": 99}))
    assert (
        list(twice) == [STEM]
        and "has 2 images called a_000001 (a_000001.jpg (id 6), a_000001.jpg (id 99))"
        in twice[STEM]
    )
    unlisted = found(lambda t: t["images"].pop(1))
    assert list(unlisted) == [STEM] and "has no annotation" in unlisted[STEM]
    outside = found(lambda t: t["images"][1].update(file_name="../../../etc/a_000001.jpg"))
    assert list(outside) == [STEM] and "out of" in outside[STEM]
    foreign = found(lambda t: _first_category(t, 6, 999))
    assert list(foreign) == [STEM] and "category_id 999" in foreign[STEM]
    with pytest.raises(DatasetError, match="lists no images"):
        found(lambda t: t.pop("images"))
    with pytest.raises(DatasetError, match=r"byte \d+: KeyError\('image_id'\)"):
        found(lambda t: t["annotations"][0].pop("image_id"))


def _first_category(tree: dict, image_id: int, category: int) -> None:
    annotation = next(a for a in tree["annotations"] if a["image_id"] == image_id)
    (annotation["segments_info"][0] if "segments_info" in annotation else annotation)[
        "category_id"
    ] = category


POLYGON = [0, 0, 8, 0, 8, 8]
SEGMENTATIONS = {
    "coordinates far away": ([[1e9, 1e9, 2e9, 1e9, 2e9, 2e9]], r"has the coordinate 1e\+09"),
    "a coordinate that is no number": ([[*POLYGON, 0, float("nan")]], "has the coordinate nan"),
    "nested coordinates": ([[POLYGON] * 6], "expected numbers alone"),
    "runs of another size": ({"size": [1 << 40, 1 << 40], "counts": [1]}, r"expected \[16, 24\]"),
    "runs that are cut": ({"size": [16, 24], "counts": "oooooo"}, "end in the middle"),
    "runs that are short": ({"size": [16, 24], "counts": [383]}, "add up to 383; expected 384"),
    "nothing": (None, "expected polygons or run lengths"),
}


@pytest.mark.parametrize("case", SEGMENTATIONS)
@pytest.mark.parametrize("is_crowd", [0, 1])
def test_a_bad_polygon_is_reported_with_its_annotation(
    tmp_path: Path, case: str, is_crowd: int
) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    segmentation, words = SEGMENTATIONS[case]

    def spoil(tree: dict) -> None:
        annotation = next(a for a in tree["annotations"] if a["id"] == 62)
        annotation.update(segmentation=segmentation, iscrowd=is_crowd)

    change_json(tmp_path / "annotations" / "instances_train2017.json", spoil)
    found = bad_samples(open_(tmp_path, section))
    assert list(found) == [STEM] and re.search(words, found[STEM])
    assert "annotation 62 of image 6 (a_000001.jpg)" in found[STEM]


def test_the_polygons_of_an_image_have_a_bounded_boundary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    monkeypatch.setattr(coco_instance, "_MAX_BOUNDARY", 70)  # 64 and 16 pixels
    found = bad_samples(open_(tmp_path, section))
    assert len(found) == 5
    assert "annotation 62 of image 6" in found[STEM] and "boundary of more than 70" in found[STEM]


NUMBERS = {
    "an image id": (lambda t: t["images"][1].update(id=1 << 70), "images"),
    "an image id without end": (lambda t: t["images"][1].update(id=float("inf")), "images"),
    "an annotation's image id": (
        lambda t: t["annotations"][0].update(image_id=-1 << 70),
        "annotations",
    ),
    "iscrowd": (lambda t: t["annotations"][0].update(iscrowd=1 << 70), "annotations"),
    "an image that is a list": (lambda t: t["images"].append([1]), "images"),
    "an annotation that is a number": (lambda t: t["annotations"].append(1), "annotations"),
}


@pytest.mark.parametrize("name", ["coco_panoptic", "coco_instance"])
@pytest.mark.parametrize("case", NUMBERS)
def test_entries_that_no_index_can_hold_are_refused_with_their_place(
    tmp_path: Path, name: str, case: str
) -> None:
    section = WRITERS[name](tmp_path)
    spoil, array = NUMBERS[case]
    change_json(next((tmp_path / "annotations").glob("*_train2017.json")), spoil)
    with pytest.raises(DatasetError, match=rf"byte \d+: .* in an entry of '{array}'"):
        open_(tmp_path, section)


BAD_IDS = [-1, 1.5, "7", 1 << 63, None, [1]]


@pytest.mark.parametrize("value", BAD_IDS)
@pytest.mark.parametrize(
    "name, key",
    [("coco_instance", "id"), ("coco_instance", "category_id"), ("coco_panoptic", "id")],
)
def test_ids_that_no_map_can_hold_are_reported(
    tmp_path: Path, name: str, key: str, value: Any
) -> None:
    section = WRITERS[name](tmp_path)

    def spoil(tree: dict) -> None:
        annotation = next(a for a in tree["annotations"] if a["image_id"] == 6)
        annotation.get("segments_info", [annotation])[0][key] = value

    change_json(next((tmp_path / "annotations").glob("*_train2017.json")), spoil)
    assert list(bad_samples(open_(tmp_path, section))) == [STEM]


def test_names_that_no_file_can_have_are_reported(tmp_path: Path) -> None:
    section = WRITERS["coco_instance"](tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    for name in ("a\0b", "\ud800", "x" * 5000, "../../../etc/passwd", "/dev/zero"):
        change_json(path, lambda t, name=name: t["images"][1].update(file_name=f"{name}.jpg"))
        bad = bad_samples(open_(tmp_path, section))
        assert STEM in bad and len(bad) == 2, name
        assert all(len(message) < 1000 for message in bad.values())


def test_the_index_keeps_the_files_own_categories(tmp_path: Path) -> None:
    WRITERS["coco_instance"](tmp_path)
    path = tmp_path / "annotations" / "instances_train2017.json"
    categories = [{"id": 5, "name": "crack", "supercategory": "wall"}]
    change_json(path, lambda t: t.update(categories=categories))
    index = index_coco(path, image_folder=tmp_path / "train2017")
    assert index.categories == categories


def test_panoptic_segments_that_the_file_does_not_describe_are_reported(tmp_path: Path) -> None:
    section = WRITERS["coco_panoptic"](tmp_path)
    edit(
        tmp_path / MASKS["coco_panoptic"].format(STEM),
        lambda m: np.where(m == m[0, 0], 77, m).astype(np.uint8),
    )
    found = bad_samples(open_(tmp_path, section))
    assert list(found) == [STEM] and "has segment id" in found[STEM] and "image 6" in found[STEM]


@pytest.mark.parametrize("name", [n for n in MASKS if n != "voc2012"])
def test_names_beyond_ascii_pair_up_in_either_unicode_form(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    for split in ("train",):
        for places, form in ((IMAGES, "Stra\u00dfe \u00fc"), (MASKS, "Stra\u00dfe u\u0308")):
            path = tmp_path / places[name].format(STEM)
            path.rename(path.with_name(path.name.replace(STEM, form)))
        if name == "cityscapes":
            path = tmp_path / f"gtFine/{split}/a/{STEM}_gtFine_instanceIds.png"
            path.rename(path.with_name(path.name.replace(STEM, "Stra\u00dfe \u00fc")))
        if name == "mapillary":
            path = tmp_path / f"training/instances/{STEM}.png"
            path.rename(path.with_name("Stra\u00dfe \u00fc.png"))
    if name == "coco_panoptic":
        path = tmp_path / "annotations" / "panoptic_train2017.json"
        tree = json.loads(path.read_text())
        tree["images"][1]["file_name"] = "Stra\u00dfe u\u0308.jpg"
        tree["annotations"][1]["file_name"] = "Stra\u00dfe u\u0308.png"
        path.write_text(json.dumps(tree, ensure_ascii=False), encoding="utf-8")
    reader = open_(tmp_path, section)
    assert bad_samples(reader) == {}
    listed = [key.rpartition("/")[2] for split in SPLITS for key in reader.keys(split)]
    assert "Stra\u00dfe \u00fc" in listed and len(listed) == 5


def test_a_huge_jpeg_is_decoded_at_a_fraction_of_its_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from seggen_core.datasets import decode

    Image.new("RGB", (640, 480), "red").save(tmp_path / "a.jpg")
    mask = np.zeros((480, 640), np.uint8)
    mask[240:] = 1
    Image.fromarray(mask).save(tmp_path / "a.png")
    monkeypatch.setattr(decode, "DRAFT_PIXELS", 160 * 120)
    found = decode.read_files(decode.SampleFiles(tmp_path / "a.jpg", tmp_path / "a.png"))
    assert (
        found.image.shape == (120, 160, 3)
        and found.ids.shape == (120, 160)
        and found.stored_size == (640, 480)
    )
    assert (found.ids[:60] == 0).all() and (found.ids[60:] == 1).all()
    assert found.image[..., 0].min() > 250


def test_a_folder_that_links_in_a_circle_ends(tmp_path: Path) -> None:
    section = WRITERS["folder"](tmp_path)
    (tmp_path / "images" / "train" / "a" / "again").symlink_to(
        tmp_path / "images" / "train", target_is_directory=True
    )
    reader = open_(tmp_path, section)
    assert {"a/a_000000", "a/a_000001", "b/b_000000"} <= {
        k for s in ("train", "val") for k in reader.keys(s)
    }


@pytest.mark.parametrize(
    "content, words",
    [
        ("id,name\n1,wall\n1,floor\n", "gives id 1 twice"),
        ("id,name\n1,wall\n2,Wall\n", "share the slug 'wall'"),
        ("number,name\n1,wall\n", "row 1 is"),
        ("id,name\n-1,wall\n", "has id '-1'; expected a whole number"),
        ("id,name,color\n1,wall,10 20\n", "has color '10 20'; expected three numbers"),
        ("id,name,is_thing\n1,wall,perhaps\n", "has is_thing 'perhaps'; expected true or false"),
        ("", "1 to 255 classes, got 0"),
        ("id,name,id\n1,wall,2\n", "column 'id' stands twice"),
        ("id,name\n1," + "x" * 200_000, "is no CSV table: field larger"),
        ("id,name\n" + "9" * 5000 + ",wall\n", "row 1 has id '9999"),
        ("id,name\n" + "".join(f"{i},c{i}\n" for i in range(70_000)), "has more than 65536 rows"),
        ("id,name\n" + "".join(f"{i % 300},c{i}\n" for i in range(60_000)), "gives id 0, 1,"),
    ],
)
def test_a_bad_class_list_is_reported_with_its_row(
    tmp_path: Path, content: str, words: str
) -> None:
    section = WRITERS["folder"](tmp_path)
    (tmp_path / "classes.csv").write_text(content)
    with pytest.raises(DatasetError, match=words) as caught:
        open_(tmp_path, section)
    assert "classes.csv" in str(caught.value)


@pytest.mark.parametrize(
    "content, words",
    [
        ("[" * 100_000, "it nests too deep"),
        ('{"1": "wall", "1": "floor"}', "the key '1' stands twice"),
        ('[{"id": ' + "9" * 5000 + "}]", "4300 digits"),
        ('[{"id": 1, "name": "wall"}] x', "Extra data"),
        ('[{"id": 1, "name": ["wall"]}]', "row 1 is"),
        ('[{"id": 1e999, "name": "wall"}]', "row 1 has id inf"),
        ('[{"id": 1, "name": "wall", "color": [1e999, 0, 0]}]', "row 1 has color"),
        ("3", "holds int"),
    ],
)
@pytest.mark.parametrize("name, file", [("folder", "classes.json"), ("mapillary", "config.json")])
def test_a_bad_json_class_list_is_reported(
    tmp_path: Path, name: str, file: str, content: str, words: str
) -> None:
    section = WRITERS[name](tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(DatasetError, match=words if name == "folder" else "config.json") as caught:
        open_(tmp_path, section)
    assert file in str(caught.value) and len(str(caught.value)) < 600


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """Class lists, lists of samples and annotations, each in turn a FIFO."""
    section = WRITERS[name](tmp_path)
    texts = [p for p in tmp_path.rglob("*") if p.suffix in (".json", ".csv", ".txt")]
    for path in texts:
        content = path.read_bytes()
        replace(path, lambda path=path: os.mkfifo(path))
        with pytest.raises(DatasetError, match="is a FIFO; expected a regular file"):
            open_(tmp_path, section)
        replace(path, lambda path=path, content=content: path.write_bytes(content))
    open_(tmp_path, section)


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (24, 16)).save(path)


ABSENT: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another suffix": (
        lambda p: replace(p, lambda: write(p.with_suffix(".tif"))),
        r"found there: .*a_000001\S*\.tif \(\.tif is no suffix of a (image|mask)\)",
    ),
    "another folder": (
        lambda p: replace(p, lambda: write(p.parent / "deep" / "er" / p.name)),
        r"found there: .*a_000001\S* \(in another folder\)",
    ),
    "upper case": (
        lambda p: replace(p, lambda: write(p.with_name(p.name.replace(STEM, STEM.upper())))),
        r"found there: .*A_000001\S* \(another name: upper and lower case differ",
    ),
    "a longer number": (
        lambda p: replace(p, lambda: write(p.with_name(p.name.replace(STEM, f"{STEM}0")))),
        "",
    ),
}


@pytest.mark.parametrize("case", ABSENT)
@pytest.mark.parametrize("name", MASKS)
def test_a_message_about_absence_names_what_is_there(tmp_path: Path, name: str, case: str) -> None:
    section = WRITERS[name](tmp_path)
    path = tmp_path / MASKS[name].format(STEM)
    change, words = ABSENT[case]
    change(path)
    message = bad_samples(open_(tmp_path, section))[STEM]
    assert re.search(r"has no (mask|image); expected", message)
    assert re.search(words, message), message
    assert f"{STEM}0" not in message


def test_coarse_masks_of_cityscapes_are_named_where_the_fine_ones_are_missing(
    tmp_path: Path,
) -> None:
    section = WRITERS["cityscapes"](tmp_path)
    path = tmp_path / MASKS["cityscapes"].format(STEM)
    path.rename(path.with_name(path.name.replace("gtFine", "gtCoarse")))
    message = bad_samples(open_(tmp_path, section))[STEM]
    assert f"a/{STEM}_gtCoarse_labelIds.png (doesn't end in _gtFine_labelIds)" in message


def test_missing_folders_and_files_say_what_lies_there_instead(tmp_path: Path) -> None:
    section = WRITERS["folder"](tmp_path)
    (tmp_path / "classes.csv").rename(tmp_path / "mine.txt")
    with pytest.raises(DatasetError, match=r"holds 1 file\(s\): 1 \.txt and folders images, masks"):
        open_(tmp_path, section)
    (tmp_path / "mine.txt").rename(tmp_path / "classes.csv")
    (tmp_path / "masks" / "train").rename(tmp_path / "masks" / "training")
    with pytest.raises(DatasetError, match=r"train is missing.*masks holds folders training, val"):
        open_(tmp_path, section)
    (tmp_path / "masks" / "train").mkdir()
    for path in (tmp_path / "images" / "train").rglob("*.jpg"):
        path.rename(path.with_suffix(".bmp"))
    with pytest.raises(DatasetError, match=r"hold no samples.*holds folders a, b; .*holds nothing"):
        open_(tmp_path, section)


@pytest.mark.skipif(
    "SEGGEN_REAL_DATA" not in os.environ, reason="SEGGEN_REAL_DATA names no folder of real samples"
)
def test_damage_in_a_copy_of_real_camvid_is_found(tmp_path: Path) -> None:
    real = Path(os.environ["SEGGEN_REAL_DATA"]).resolve() / "camvid"
    stems = sorted(p.stem for p in (real / "val").iterdir())[:4]
    for folder in ("train", "val"):
        for name, suffix in ((folder, "jpg"), (f"{folder}annot", "png")):
            (tmp_path / name).mkdir()
            for stem in stems:
                source = real / name.replace("train", "val") / f"{stem}.{suffix}"
                (tmp_path / name / source.name).write_bytes(source.read_bytes())
    broken = tmp_path / "train" / f"{stems[1]}.jpg"
    broken.write_bytes(broken.read_bytes()[:9000])
    edit(tmp_path / "valannot" / f"{stems[2]}.png", lambda m: m + 1)
    reader = open_(tmp_path, {"name": "camvid"})
    splits: tuple[Split, ...] = SPLITS
    found = {}
    for split in splits:
        for key in reader.keys(split):
            try:
                reader.read(split, key)
            except DatasetError as error:
                found[key] = str(error)
    assert set(found) == {stems[1], stems[2]}
    assert "can't be decoded" in found[stems[1]] and "has label 12" in found[stems[2]]
