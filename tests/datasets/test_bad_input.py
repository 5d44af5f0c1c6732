"""Bad files of every kind in every layout.

They are listed, refused with file and reason, and counted by validation and by the stage.
"""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from seggen_core.datasets.reader import SPLITS
from seggen_core.errors import DatasetError
from tests.datasets.damage import (
    FILES,
    ID_MASKS,
    IMAGES,
    MASKS,
    STEM,
    bad_samples,
    edit,
    flip_bit,
    open_,
    replace,
    rotate,
)
from tests.datasets.layouts import WRITERS

UNSAID = {("image", "yolo", "other size")}
"""YOLO's files have shares of the sides; nothing in them says how large an image was."""


@pytest.mark.parametrize(
    "kind, name, case",
    [
        (kind, name, case)
        for kind, names in (("image", IMAGES), ("mask", MASKS))
        for name in names
        for case in FILES
        if (kind, name, case) not in UNSAID
    ],
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
    reports = bad_samples(reader)
    assert list(reports) == [STEM], "the bad sample alone, and it may not vanish from the listing"
    assert STEM in reports[STEM]
    with pytest.raises(DatasetError, match=words):
        raise DatasetError(reports[STEM])
    if in_header is not None:
        assert list(bad_samples(reader, headers=True)) == [STEM]


@pytest.mark.parametrize("name", MASKS)
def test_a_flipped_bit_of_a_mask_is_reported(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    flip_bit(tmp_path / MASKS[name].format(STEM))
    reports = bad_samples(open_(tmp_path, section))
    assert list(reports) == [STEM] and "chunk 'IDAT' at byte" in reports[STEM]


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
    reports = bad_samples(open_(tmp_path, section))
    assert list(reports) == [STEM]
    with pytest.raises(DatasetError, match=MODES[case][1]):
        raise DatasetError(reports[STEM])


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_saved_as_jpeg_is_reported(tmp_path: Path, name: str) -> None:
    """It would hold other ids, which may be classes, too."""
    section = WRITERS[name](tmp_path)
    path = tmp_path / MASKS[name].format(STEM)
    image = Image.open(path)
    (image.convert("L") if image.mode == "P" else image).save(path, format="JPEG")
    for headers in (False, True):
        reports = bad_samples(open_(tmp_path, section), headers=headers)
        assert list(reports) == [STEM]
        assert "is a JPEG file, whatever its name says; expected a PNG file" in reports[STEM]


@pytest.mark.parametrize("name", IMAGES)
def test_exif_half_turn_is_reported(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    rotate(tmp_path / IMAGES[name].format(STEM))
    reports = bad_samples(open_(tmp_path, section), headers=True)
    assert list(reports) == [STEM] and "EXIF orientation 3" in reports[STEM]


@pytest.mark.parametrize(
    "name", [n for n in IMAGES if not n.startswith("coco_") or n == "coco_stuff"]
)
def test_two_images_of_one_name_are_reported(tmp_path: Path, name: str) -> None:
    section = WRITERS[name](tmp_path)
    path = tmp_path / IMAGES[name].format(STEM)
    other = path.with_suffix(".jpeg")
    Image.open(path).save(other, format="JPEG")
    reports = bad_samples(open_(tmp_path, section))
    assert (
        list(reports) == [STEM]
        and "has 2 images called" in reports[STEM]
        and other.name in reports[STEM]
    )


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
        if name == "voc":
            path = tmp_path / f"SegmentationObject/{STEM}.png"
            path.rename(path.with_name("Stra\u00dfe \u00fc.png"))
            listed = tmp_path / "ImageSets" / "Segmentation" / "Train.txt"
            listed.write_text(listed.read_text().replace(STEM, "Stra\u00dfe u\u0308"))
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
    sample = decode.read_files(decode.SampleFiles(tmp_path / "a.jpg", tmp_path / "a.png"))
    assert (
        sample.image.shape == (120, 160, 3)
        and sample.ids.shape == (120, 160)
        and sample.stored_size == (640, 480)
    )
    assert (sample.ids[:60] == 0).all() and (sample.ids[60:] == 1).all()
    assert sample.image[..., 0].min() > 250


def test_a_folder_that_links_in_a_circle_ends(tmp_path: Path) -> None:
    section = WRITERS["folder"](tmp_path)
    (tmp_path / "images" / "train" / "a" / "again").symlink_to(
        tmp_path / "images" / "train", target_is_directory=True
    )
    reader = open_(tmp_path, section)
    assert {"a/a_000000", "a/a_000001", "b/b_000000"} <= {
        k for s in ("train", "val") for k in reader.keys(s)
    }


@pytest.mark.parametrize("name", WRITERS)
def test_what_is_no_regular_file_is_not_waited_for(tmp_path: Path, name: str) -> None:
    """Class lists, lists of samples and annotations, each in turn a FIFO."""
    section = WRITERS[name](tmp_path)
    kinds = (".json", ".csv", ".txt", ".xml", ".yaml", ".parquet")
    for path in [p for p in tmp_path.rglob("*") if p.suffix in kinds]:
        if name in ("labelme", "yolo") and path.parent != tmp_path:
            continue  # of one sample each
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
        r"found there: .*a_000001\S*\.tif \(\.tif is no suffix that is read for (image|mask)s\)",
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
    splits = SPLITS
    reports = {}
    for split in splits:
        for key in reader.keys(split):
            try:
                reader.read(split, key)
            except DatasetError as error:
                reports[key] = str(error)
    assert set(reports) == {stems[1], stems[2]}
    assert "can't be decoded" in reports[stems[1]] and "has label 12" in reports[stems[2]]
