"""What the header of a picture says about its bits and its orientation, in every reader."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.datasets.damage import IMAGES, MASKS, STEM, bad_samples, open_
from tests.datasets.layouts import WRITERS
from tests.datasets.tool_layouts import change_parquet

ORIENTATION = 0x0112
WITH_SIZES = [name for name in IMAGES if name != "yolo"]
"""Readers whose masks, or files of shapes, say the image's size."""
COLOR_TYPES = {2: 4, 3: 2, 4: 6}
"""PNG's name of grey with alpha, RGB, and RGB with alpha."""


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG file of 16 bits a channel, [H, W, 2 to 4]; Pillow writes none."""
    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, COLOR_TYPES[channels], 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )


def rewrite(root: Path, name: str, change: Callable[[Path], Any], *, masks: bool) -> None:
    """Change the file of one sample's mask or image; of Parquet files, that of all samples."""
    if name != "huggingface":
        path = root / (MASKS if masks else IMAGES)[name].format(STEM)
        change(path)
        return

    def change_row(row: dict[str, Any]) -> None:
        picture = root.parent / "x.png"
        column = row["label" if masks else "image"]
        picture.write_bytes(column["bytes"])
        change(picture)
        column["bytes"] = picture.read_bytes()

    change_parquet(root, change_row)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "dataset").mkdir()
    return tmp_path / "dataset"


@pytest.mark.parametrize("name", [*MASKS, "huggingface"])
def test_masks_of_16_bits_a_channel_are_reported(root: Path, name: str) -> None:
    """Pillow takes the high 8 bits alone, so that every id becomes 0."""
    section = WRITERS[name](root)

    def change(path: Path) -> None:
        mask = np.asarray(Image.open(path).convert("RGB"))
        path.write_bytes(png_of_16_bits(mask))

    rewrite(root, name, change, masks=True)
    for headers in (False, True):
        report = bad_samples(open_(root, section), headers=headers)[STEM]
        assert "has 16 bits in each of several channels, of which 8 would be lost" in report


@pytest.mark.parametrize("channels", [2, 3, 4])
@pytest.mark.parametrize("name", [*IMAGES, "huggingface"])
def test_colour_images_of_12_bits_in_16_are_reported(root: Path, name: str, channels: int) -> None:
    section = WRITERS[name](root)

    def change(path: Path) -> None:
        with Image.open(path) as image:
            values = np.full((image.height, image.width, channels), 4000)
        if channels % 2 == 0:
            values[..., -1] = 65535  # opaque
        path.write_bytes(png_of_16_bits(values))

    rewrite(root, name, change, masks=False)
    assert "has 16 bits, and no value above 4095" in bad_samples(open_(root, section))[STEM]


@pytest.mark.parametrize("channels", [2, 3, 4])
def test_bright_colour_images_of_16_bits_are_images(root: Path, channels: int) -> None:
    section = WRITERS["folder"](root)
    values = np.full((16, 24, channels), 65535)
    values[..., 0] = 0x1234
    (root / IMAGES["folder"].format(STEM)).write_bytes(png_of_16_bits(values))
    reader = open_(root, section)
    assert bad_samples(reader) == {}
    (key,) = (k for s in ("train", "val") for k in reader.keys(s) if k.endswith(STEM))
    split = next(s for s in ("train", "val") if key in reader.keys(s))
    assert reader.read(split, key).image[0, 0, 0] == 0x12


@pytest.mark.parametrize("name", [*MASKS, "huggingface"])
def test_a_turned_mask_is_reported(root: Path, name: str) -> None:
    """Nobody turns a mask when it is read, so that a square one would lie on its side."""
    section = WRITERS[name](root)

    def change(path: Path) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 6
        Image.open(path).save(path, exif=exif)

    rewrite(root, name, change, masks=True)
    for headers in (False, True):
        report = bad_samples(open_(root, section), headers=headers)[STEM]
        assert "has EXIF orientation 6; expected a map of ids without one" in report


@pytest.mark.parametrize(
    "name", [*sorted(IMAGES.keys() - {"yolo"}), "huggingface"]
)  # it has no sizes
def test_an_orientation_that_does_not_exist_turns_nothing(root: Path, name: str) -> None:
    """Viewers show such an image as it is stored; a mask of another size was squashed onto it."""
    section = WRITERS[name](root)

    def change(path: Path) -> None:
        exif = Image.Exif()
        exif[ORIENTATION] = 9
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)

    rewrite(root, name, change, masks=False)
    assert "expected the same size" in bad_samples(open_(root, section)).get(STEM, "")
