"""Every kind of bad file is one DatasetError: the file, what it is and what was expected."""

import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from PIL import Image

from seggen_core.config import DatasetConfig
from seggen_core.datasets.decode import MAX_PIXELS, SampleFiles, read_files
from seggen_core.datasets.fit import fit_sample
from seggen_core.datasets.id_maps import IdMapReader
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.sample import RawSample
from seggen_core.errors import ConfigError, DatasetError

STEM = "0016E5_00300"


def _open(root: Path) -> IdMapReader:
    reader = open_dataset(DatasetConfig(name="camvid", root=root, splits="val_as_test"), seed=0)
    assert isinstance(reader, IdMapReader)
    return reader


def _read(root: Path) -> RawSample:
    reader = _open(root)
    return reader.read("train" if STEM in reader.keys("train") else "val", STEM)


def _image(root: Path) -> Path:
    return root / "train" / f"{STEM}.jpg"


def _mask(root: Path) -> Path:
    return root / "trainannot" / f"{STEM}.png"


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit_mask(root: Path, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    Image.fromarray(edit(np.array(Image.open(_mask(root))))).save(_mask(root))


def _set_label(root: Path, label: int) -> None:
    def edit(mask: np.ndarray) -> np.ndarray:
        mask[:2, :3] = label
        return mask

    _edit_mask(root, edit)


def _link_out(root: Path, path: Path) -> None:
    outside = root.parent / path.name
    path.rename(outside)
    path.symlink_to(outside)


def _fade(path: Path) -> None:
    image = Image.open(path).convert("RGBA")
    image.putpixel((3, 3), (1, 2, 3, 254))
    image.save(path, format="PNG")


def _claim_size(path: Path, width: int, height: int) -> None:
    """Write a PNG of a few bytes whose header claims `width` x `height` pixels."""
    Image.new("L", (1, 1)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = struct.pack(">II", width, height)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)


BAD = {
    "image is missing": (
        lambda r: _image(r).unlink(),
        r"trainannot.0016E5_00300\.png has no image",
    ),
    "mask is missing": (lambda r: _mask(r).unlink(), r"train.0016E5_00300\.jpg has no mask"),
    "image is empty": (lambda r: _image(r).write_bytes(b""), r"00300\.jpg is empty \(0 bytes\)"),
    "mask is empty": (lambda r: _mask(r).write_bytes(b""), r"00300\.png is empty \(0 bytes\)"),
    "image is truncated": (lambda r: _truncate(_image(r)), r"00300\.jpg can't be decoded"),
    "mask is truncated": (lambda r: _truncate(_mask(r)), r"00300\.png can't be decoded"),
    "image is no image": (lambda r: _image(r).write_text("<html>"), r"00300\.jpg can't be decoded"),
    "image is a GIF": (
        lambda r: Image.open(_mask(r)).save(_image(r), format="GIF"),
        r"00300\.jpg can't be decoded",
    ),
    "unknown label": (
        lambda r: _set_label(r, 13),
        r"00300\.png has label 13 \(6 pixels\); camvid allows 0-10 or 11 \(ignored\)",
    ),
    "label 255 is no id of camvid": (lambda r: _set_label(r, 255), r"has label 255 \(6 pixels\)"),
    "nothing labelled": (
        lambda r: _edit_mask(r, lambda m: np.full_like(m, 11)),
        r"00300\.png has no labelled pixel",
    ),
    "sizes differ": (
        lambda r: _edit_mask(r, lambda m: m[:, :-1].copy()),
        r"is 48x36 but .*00300\.png is 47x36",
    ),
    "mask has a palette": (
        lambda r: Image.open(_mask(r)).convert("P").save(_mask(r)),
        r"00300\.png has mode P; expected L",
    ),
    "mask has 16 bits": (
        lambda r: _edit_mask(r, lambda m: m.astype(np.uint16)),
        r"00300\.png has mode I;16; expected L",
    ),
    "mask is RGB": (
        lambda r: Image.open(_mask(r)).convert("RGB").save(_mask(r)),
        r"00300\.png has mode RGB; expected L",
    ),
    "image has alpha": (
        lambda r: _fade(_image(r)),
        r"00300\.jpg has transparent pixels \(alpha from 254\)",
    ),
    "two images": (
        lambda r: Image.open(_image(r)).save(_image(r).with_suffix(".png")),
        r"has 2 images called 0016E5_00300",
    ),
    "image links out": (lambda r: _link_out(r, _image(r)), r"00300\.jpg is a link out of"),
    "mask links out": (lambda r: _link_out(r, _mask(r)), r"00300\.png is a link out of"),
    "mask too large": (
        lambda r: _claim_size(_mask(r), 8193, 8192),
        rf"00300\.png is 8193x8192; expected at most {MAX_PIXELS} pixels",
    ),
    "decompression bomb": (
        lambda r: _claim_size(_mask(r), 60_000, 60_000),
        rf"00300\.png.*expected at most {MAX_PIXELS} pixels",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sample_is_listed_and_refused_with_its_file(camvid_root: Path, case: str) -> None:
    assert _read(camvid_root).image.shape == (36, 48, 3)
    spoil, message = BAD[case]
    spoil(camvid_root)
    reader = _open(camvid_root)
    assert STEM in reader.keys("train") + reader.keys("val"), (
        "a bad sample may not vanish from the listing"
    )
    with pytest.raises(DatasetError, match=message):
        _read(camvid_root)


def test_link_inside_the_root_is_followed(camvid_root: Path) -> None:
    before = _read(camvid_root)
    (camvid_root / "elsewhere").mkdir()
    moved = _image(camvid_root).rename(camvid_root / "elsewhere" / "frame.jpg")
    _image(camvid_root).symlink_to(moved)
    np.testing.assert_array_equal(_read(camvid_root).image, before.image)


def test_root_that_is_a_link_is_followed(camvid_root: Path) -> None:
    link = camvid_root.parent / "link"
    link.symlink_to(camvid_root)
    assert _read(link).image.shape == (36, 48, 3)


def test_non_ascii_names_and_hidden_files(camvid_root: Path) -> None:
    for path in (_image(camvid_root), _mask(camvid_root)):
        path.rename(path.with_stem("überfahrt_00001"))
    (camvid_root / "train" / "._0016E5_00330.jpg").write_bytes(b"resource fork")
    reader = _open(camvid_root)
    keys = reader.keys("train") + reader.keys("val")
    assert len(keys) == 30
    assert reader.read(
        "train" if "überfahrt_00001" in reader.keys("train") else "val", "überfahrt_00001"
    ).image.shape == (
        36,
        48,
        3,
    )


def test_grey_image_becomes_rgb(camvid_root: Path) -> None:
    Image.open(_image(camvid_root)).convert("L").save(_image(camvid_root))
    image = _read(camvid_root).image
    assert image.shape == (36, 48, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def _read_rotated(
    folder: Path, *, orientation: int, mask_size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Write and read an image of 40x20, its left half white, with an EXIF tag, and its mask."""
    stored = np.zeros((20, 40, 3), np.uint8)
    stored[:, :20] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(folder / "a.jpg", exif=exif, quality=95)
    Image.new("L", mask_size).save(folder / "a.png")
    decoded = read_files(SampleFiles(folder / "a.jpg", folder / "a.png"))
    return decoded.image, decoded.ids


def test_exif_rotation_is_applied_where_the_mask_was_drawn_upright(tmp_path: Path) -> None:
    image, mask = _read_rotated(tmp_path, orientation=6, mask_size=(20, 40))
    assert image.shape == (40, 20, 3)
    assert mask.shape == (40, 20)
    # Orientation 6 is displayed turned clockwise: what was left is now on top.
    assert image[:18].min() > 200
    assert image[22:].max() < 50


def test_exif_rotation_is_left_where_the_mask_was_drawn_on_the_stored_image(tmp_path: Path) -> None:
    image, _ = _read_rotated(tmp_path, orientation=6, mask_size=(40, 20))
    assert image.shape == (20, 40, 3)
    assert image[:, :18].min() > 200


def test_exif_half_turn_is_refused_because_no_mask_size_can_tell(tmp_path: Path) -> None:
    with pytest.raises(
        DatasetError, match=r"a\.jpg has EXIF orientation 3, and nothing tells whether a\.png"
    ):
        _read_rotated(tmp_path, orientation=3, mask_size=(40, 20))


def test_missing_root_and_missing_folder(camvid_root: Path) -> None:
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        _open(camvid_root / "nowhere")
    with pytest.raises(ConfigError, match=r"dataset\.root is not set"):
        open_dataset(DatasetConfig(name="camvid"), seed=0)
    (camvid_root / "trainannot").rename(camvid_root / "labels")
    with pytest.raises(DatasetError, match="trainannot is missing"):
        _open(camvid_root)


def test_relative_root_starts_from_base(camvid_root: Path) -> None:
    config = DatasetConfig(name="camvid", root=Path("camvid"), splits="val_as_test")
    assert len(open_dataset(config, seed=0, base=camvid_root.parent).keys("test")) == 4


def _scenes(image_size: int, fit: Literal["stretch", "center_crop"]) -> DatasetConfig:
    return DatasetConfig(name="scenes", image_size=image_size, fit=fit)


def test_fit_stretch_keeps_the_whole_frame_and_centre_crop_its_middle() -> None:
    segmentation_map = (
        np.repeat(np.array([[0, 1, 2, 3, 4, 5, 6, 7]], np.uint8), 4, axis=0)
        .repeat(6, 0)
        .repeat(6, 1)
    )
    instances = segmentation_map.astype(np.uint16) * 300
    image = np.stack([segmentation_map * 30] * 3, axis=-1)
    sample = RawSample(image, segmentation_map, instances, {})  # 48 wide, 24 high
    stretched = fit_sample(sample, config=_scenes(8, "stretch"))
    assert stretched.image.shape == (8, 8, 3)
    np.testing.assert_array_equal(
        stretched.segmentation_map, np.tile(np.arange(8, dtype=np.uint8), (8, 1))
    )
    assert stretched.instance_map is not None
    assert stretched.instance_map.dtype == np.uint16
    np.testing.assert_array_equal(
        stretched.instance_map, stretched.segmentation_map.astype(np.uint16) * 300
    )
    cropped = fit_sample(sample, config=_scenes(8, "center_crop"))
    columns = np.array([2, 3, 4, 5], np.uint8).repeat(2)
    np.testing.assert_array_equal(cropped.segmentation_map, np.tile(columns, (8, 1)))
    np.testing.assert_allclose(
        cropped.image[:, :, 0], cropped.segmentation_map * 30.0, atol=16
    )  # Lanczos rings at steps
    assert fit_sample(stretched, config=_scenes(8, "stretch")) is stretched


def test_fit_invents_no_label_between_two_others() -> None:
    segmentation_map = np.where(np.random.default_rng(0).random((50, 70)) < 0.5, 2, 10).astype(
        np.uint8
    )
    image = np.zeros((50, 70, 3), np.uint8)
    for size in (16, 40, 104):
        fitted = fit_sample(
            RawSample(image, segmentation_map, segmentation_map.astype(np.uint16), {}),
            config=_scenes(size, "center_crop"),
        )
        assert set(np.unique(fitted.segmentation_map)) == {2, 10}
        np.testing.assert_array_equal(fitted.instance_map, fitted.segmentation_map)


def test_reader_can_be_pickled_and_used_in_another_process(camvid_root: Path) -> None:
    reader = _open(camvid_root)
    again = pickle.loads(pickle.dumps(reader))
    key = reader.keys("test")[0]
    np.testing.assert_array_equal(again.read("test", key).image, reader.read("test", key).image)
    assert os.fspath(camvid_root) not in str(reader.read("test", key).metadata), (
        "metadata may not hold paths of one machine"
    )


def test_fit_native_keeps_size_and_aspect_and_shrinks_training_samples_alone() -> None:
    ids = np.repeat([[0, 1, 2, 3]], 12, axis=1).repeat(30, 0).astype(np.uint8)  # 48 wide, 30 high
    sample = RawSample(np.stack([ids * 60] * 3, axis=-1), ids, ids.astype(np.uint16) * 300, {})
    native = DatasetConfig(name="scenes", image_size=8, fit="native")
    assert fit_sample(sample, config=native) is sample
    limited = native.model_copy(update={"max_size": 16})
    for split in ("val", "test"):
        assert fit_sample(sample, config=limited, split=split) is sample
    small = fit_sample(sample, config=limited, split="train")
    assert small.image.shape == (10, 16, 3)
    np.testing.assert_array_equal(small.segmentation_map, ids[::3, 1::3])
    assert small.instance_map is not None
    np.testing.assert_array_equal(small.instance_map, ids[::3, 1::3].astype(np.uint16) * 300)
    assert fit_sample(small, config=limited, split="train") is small
    tall = RawSample(*(a.swapaxes(0, 1) for a in (sample.image, ids, ids)), {})
    assert fit_sample(tall, config=limited).image.shape == (16, 10, 3)


def test_a_largest_side_needs_samples_that_keep_their_size() -> None:
    with pytest.raises(ValueError, match=r"dataset\.fit is 'stretch'; set fit: native"):
        DatasetConfig(name="scenes", max_size=16)
