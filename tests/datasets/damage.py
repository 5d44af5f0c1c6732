"""Ways to damage a dataset's files, and what its reader then says of them."""

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from seggen_core.config import DatasetConfig
from seggen_core.datasets.decode import MAX_PIXELS
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.errors import DatasetError

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
    "cvat": "images/train/{}.jpg",
    "label_studio": "images/train/{}.jpg",
    "labelme": "train/{}.jpg",
    "voc": "JPEGImages/{}.jpg",
    "yolo": "train/images/{}.jpg",
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
    "voc": "SegmentationClass/{}.png",
}


ID_MASKS = {k: v for k, v in MASKS.items() if k not in ("coco_panoptic", "voc")}
SHAPES = ("cvat", "label_studio", "labelme", "yolo")
"""Readers of shapes, which have no masks."""


def open_(root: Path, section: dict[str, Any]) -> DatasetReader:
    tree = {"root": root, "splits": "val_as_test", "num_val": 1} | section
    return open_dataset(DatasetConfig.model_validate(tree), seed=0)


def bad_samples(reader: DatasetReader, *, headers: bool = False) -> dict[str, str]:
    """What every listed sample that can't be used is refused with, by stem."""
    reports = {}
    for split in SPLITS:
        for key in reader.keys(split):
            try:
                (reader.read_header if headers else reader.read)(split, key)
            except DatasetError as error:
                reports[key.rpartition("/")[2]] = str(error)
    return reports


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


def change_json(path: Path, change: Callable[[dict], Any]) -> None:
    tree = json.loads(path.read_text())
    change(tree)
    path.write_text(json.dumps(tree))


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

FILES_OF_SAMPLES = {
    case: FILES[case]
    for case in (
        "zero bytes",
        "truncated",
        "no picture",
        "transparent",
        "WebP",
        "pointer of Git LFS",
        "huge",
        "decompression bomb",
        "other size",
    )
}
"""What may be wrong with the bytes of a picture, wherever they lie."""
