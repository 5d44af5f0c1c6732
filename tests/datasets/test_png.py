"""Damage anywhere in a PNG file is found, and nothing else is."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seggen_core.datasets.decode import SampleFiles, read_files
from seggen_core.datasets.png import check_png
from seggen_core.errors import DatasetError


def mask_file(*, size: int = 12) -> bytes:
    file = io.BytesIO()
    ids = np.random.default_rng(0).integers(0, 9, (size, size), dtype=np.uint8)
    Image.fromarray(ids).save(file, format="PNG")
    return file.getvalue()


def test_every_flipped_bit_of_a_mask_is_found(tmp_path: Path) -> None:
    sound = mask_file()
    image, mask = tmp_path / "a.jpg", tmp_path / "a.png"
    Image.new("RGB", (12, 12)).save(image)
    mask.write_bytes(sound)
    read_files(SampleFiles(image, mask))
    for bit in range(8 * len(sound)):
        damaged = bytearray(sound)
        damaged[bit // 8] ^= 1 << bit % 8
        mask.write_bytes(damaged)
        with pytest.raises(DatasetError, match=r"a\.png (can't be decoded|is|has)"):
            read_files(SampleFiles(image, mask))


def test_the_message_names_the_chunk() -> None:
    sound = mask_file()
    at = sound.index(b"IDAT")
    damaged = sound[: at + 6] + bytes([sound[at + 6] ^ 1]) + sound[at + 7 :]
    with pytest.raises(ValueError, match=rf"chunk 'IDAT' at byte {at - 4} is damaged"):
        check_png(io.BytesIO(damaged))


@pytest.mark.parametrize("missing", [1, 4, 8, 12, 13, 40])
def test_a_file_that_is_cut_is_found(missing: int) -> None:
    with pytest.raises(ValueError, match="ends inside the chunk at byte"):
        check_png(io.BytesIO(mask_file()[:-missing]))


def test_a_claimed_length_is_not_allocated() -> None:
    sound = mask_file()
    claimed = sound[:8] + struct.pack(">I", (1 << 31) - 1) + sound[12:]
    with pytest.raises(ValueError, match="ends inside the chunk at byte 8"):
        check_png(io.BytesIO(claimed))


def test_what_follows_the_end_and_other_chunks_are_no_damage() -> None:
    sound = mask_file(size=300)  # several pieces long
    text = b"tEXtComment\0" + b"x" * 200_000
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    end = sound.index(b"IEND") - 4
    file = io.BytesIO(sound[:end] + chunk + sound[end:] + b"more")
    check_png(file)
    assert file.tell() == 0


def test_other_files_pass() -> None:
    check_png(io.BytesIO(b"\xff\xd8\xff"))
    check_png(io.BytesIO(b""))
