"""The interface of a real dataset, and the way from its files to checked, square arrays.

A reader lists every sample that has an image or a mask, and `read` either returns a sound sample or raises DatasetError
saying what is wrong with it. So nothing is left out in silence: whoever goes through `keys` meets every bad sample.
"""

import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image, ImageOps

from seggen_core.config import DatasetConfig
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

MAX_PIXELS = 1 << 26
"""Largest image that is decoded (8192 x 8192); a few bytes on disk can claim any size (decompression bomb)."""

_EXIF_ORIENTATION = 0x0112
_CHECK = "(run: seggen validate)"
# What Pillow raises on damaged files, by decoder.
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error, zlib.error)


@dataclass(frozen=True)
class RawSample:
    """One real sample.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        instance_map: uint16 [H, W], 0 where there is no instance; None where the dataset has none.
        metadata: JSON-ready facts about the sample.
    """

    image: np.ndarray
    segmentation_map: np.ndarray
    instance_map: np.ndarray | None
    metadata: dict


class DatasetReader(Protocol):
    """A real dataset with its three splits. Readers are picklable and hold no pixels."""

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes that segmentation maps are in."""

    def keys(self, split: Split) -> list[str]:
        """Return the keys of `split` in a fixed order, those of bad samples among them."""

    def read(self, split: Split, key: str) -> RawSample:
        """Return one sample; DatasetError where it is missing a part, can't be decoded, or holds something invalid."""


def open_dataset(config: DatasetConfig, *, seed: int, base: Path = Path()) -> DatasetReader:
    """Return the reader of `config.name`.

    Args:
        config: which dataset, where, and how many samples.
        seed: what is drawn at random (scenes, a validation slice) follows from it.
        base: folder that a relative `config.root` starts from.

    Raises:
        ConfigError: a setting that the dataset needs is missing, or one that means nothing to it is given.
        DatasetError: a folder of the dataset is missing.
    """
    if config.name == "scenes":
        from seggen_core.datasets.scenes import ScenesReader

        return ScenesReader(config, seed=seed)
    from seggen_core.datasets.camvid import CamVidReader

    return CamVidReader(config, root=dataset_root(config, base=base), seed=seed)


def dataset_root(config: DatasetConfig, *, base: Path) -> Path:
    """Return the folder of a dataset on disk; ConfigError where none is named, DatasetError where it doesn't exist."""
    if config.root is None:
        raise ConfigError(f"dataset.root is not set; {config.name} is read from disk: set it to the folder of the dataset")
    root = base / config.root
    if not root.is_dir():
        raise DatasetError(f"{root} is not a folder; expected the {config.name} dataset there: set dataset.root to where it is")
    return root


@dataclass(frozen=True)
class FilePair:
    """The files that share a stem in an image folder and a mask folder. A sound pair has one of each."""

    key: str
    root: Path
    image_folder: Path
    mask_folder: Path
    images: tuple[Path, ...]
    masks: tuple[Path, ...]

    def checked(self) -> tuple[Path, Path]:
        """Return (image, mask); DatasetError where one is missing, doubled or lies outside the dataset's root."""
        for found, kind, folder, other in (
            (self.images, "image", self.image_folder, self.masks),
            (self.masks, "mask", self.mask_folder, self.images),
        ):
            if not found:
                raise DatasetError(f"{other[0]} has no {kind}; expected {self.key}.* in {folder} {_CHECK}")
            if len(found) > 1:
                names = ", ".join(p.name for p in found)
                raise DatasetError(
                    f"{folder} has {len(found)} {kind}s called {self.key} ({names}); expected one: rename or remove the others"
                )
            if not found[0].resolve().is_relative_to(self.root.resolve()):
                raise DatasetError(
                    f"{found[0]} is a link out of {self.root}; expected a file inside it: copy the file there {_CHECK}"
                )
        return self.images[0], self.masks[0]


def pair_files(
    image_folder: Path,
    *,
    mask_folder: Path,
    root: Path,
    image_suffixes: Sequence[str] = (".jpg", ".jpeg", ".png"),
    mask_suffixes: Sequence[str] = (".png",),
) -> dict[str, FilePair]:
    """Return the files of two folders by stem, sorted by it; hidden files and other suffixes are not samples.

    Raises:
        DatasetError: a folder is missing, or both are empty.
    """
    images, masks = _by_stem(image_folder, image_suffixes), _by_stem(mask_folder, mask_suffixes)
    if not images and not masks:
        raise DatasetError(
            f"{image_folder} and {mask_folder} hold no samples; expected {', '.join(image_suffixes)} images "
            f"with {', '.join(mask_suffixes)} masks of the same name"
        )
    return {
        key: FilePair(key, root, image_folder, mask_folder, images.get(key, ()), masks.get(key, ()))
        for key in sorted(images.keys() | masks.keys())
    }


def _by_stem(folder: Path, suffixes: Sequence[str]) -> dict[str, tuple[Path, ...]]:
    if not folder.is_dir():
        raise DatasetError(f"{folder} is missing; expected a folder with {', '.join(suffixes)} files: check dataset.root")
    found: dict[str, tuple[Path, ...]] = {}
    with os.scandir(folder) as entries:
        paths = [folder / name for name in sorted(e.name for e in entries) if not name.startswith(".")]
    for path in paths:
        if path.suffix.lower() in suffixes:
            found[path.stem] = (*found.get(path.stem, ()), path)
    return found


def read_pair(image_path: Path, *, mask_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Decode an image and its mask of ids, the image turned as its EXIF tag says where the mask shows that it should be.

    A mask carries no EXIF tag. It was drawn on the image either as stored or as displayed, and its size tells which,
    except where both have the same size: such a pair is refused.

    Returns:
        The image, uint8 [H, W, 3] RGB, and the ids as they are in the file, uint8 [H, W].

    Raises:
        DatasetError: a file can't be decoded, has the wrong mode, is too large, or the sizes differ.
    """
    stored = _decode(image_path, modes=("RGB", "L"))
    mask = _decode(mask_path, modes=("L",))
    if stored.getexif().get(_EXIF_ORIENTATION, 1) in (0, 1):
        image = stored
    else:
        image = ImageOps.exif_transpose(stored)
        if image.size == stored.size:
            raise DatasetError(
                f"{image_path} has EXIF orientation {stored.getexif()[_EXIF_ORIENTATION]}, and nothing tells whether "
                f"{mask_path.name} was drawn on the image as stored or as displayed; "
                "expected no orientation tag: save the image upright without it"
            )
        if stored.size == mask.size:
            image = stored
    if image.size != mask.size:
        raise DatasetError(
            f"{image_path} is {image.width}x{image.height} but {mask_path} is {mask.width}x{mask.height}; "
            f"expected the same size {_CHECK}"
        )
    return np.asarray(image.convert("RGB")), np.asarray(mask)


def _decode(path: Path, *, modes: tuple[str, ...]) -> Image.Image:
    wanted = {"RGB": "8-bit RGB", "L": "8-bit grey"}
    try:
        if path.stat().st_size == 0:
            raise DatasetError(f"{path} is empty (0 bytes); expected a JPEG or PNG file: copy it again {_CHECK}")
        with Image.open(path, formats=("JPEG", "PNG")) as image:
            # The header is read, no pixels yet.
            if image.width * image.height > MAX_PIXELS:
                raise DatasetError(
                    f"{path} is {image.width}x{image.height}; expected at most {MAX_PIXELS} pixels: reduce it {_CHECK}"
                )
            if image.mode not in modes:
                expected = " or ".join(f"{m} ({wanted[m]})" for m in modes)
                raise DatasetError(f"{path} has mode {image.mode}; expected {expected}: convert it {_CHECK}")
            image.load()
            return image
    except DatasetError:
        raise
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{path}: {error}; expected at most {MAX_PIXELS} pixels: reduce it {_CHECK}") from None
    except _DECODE_ERRORS as error:
        raise DatasetError(
            f"{path} can't be decoded ({error}); expected a whole JPEG or PNG file: copy it again {_CHECK}"
        ) from None


def id_table(train_ids: Mapping[int, int]) -> np.ndarray:
    """Return int16 [256]: the train id of every id in a file, -1 where the id is not allowed."""
    table = np.full(256, -1, np.int16)
    table[list(train_ids)] = list(train_ids.values())
    return table


def to_train_ids(ids: np.ndarray, *, table: np.ndarray, path: Path, allowed: str) -> np.ndarray:
    """Map the ids of a file to train ids.

    Args:
        ids: uint8 [H, W], as in the file.
        table: int16 [256] of `id_table`.
        path: the file, named in errors.
        allowed: the allowed ids in words ("camvid allows 0-10 or 11 (void)").

    Returns:
        uint8 [H, W], train ids or IGNORE_INDEX.

    Raises:
        DatasetError: an id isn't allowed, or every pixel is to be ignored.
    """
    mapped = table[ids]
    if mapped.min() < 0:
        values, counts = np.unique(ids[mapped < 0], return_counts=True)
        found = ", ".join(f"{v} ({n} pixels)" for v, n in zip(values[:5], counts[:5], strict=True))
        raise DatasetError(f"{path} has label {found}; {allowed} {_CHECK}")
    segmentation_map = mapped.astype(np.uint8)
    check_labelled(segmentation_map, where=str(path))
    return segmentation_map


def check_labelled(segmentation_map: np.ndarray, *, where: str) -> None:
    """Raise DatasetError where no pixel of uint8 [H, W] `segmentation_map` belongs to a class."""
    if segmentation_map.min() == IGNORE_INDEX:
        raise DatasetError(
            f"{where} has no labelled pixel; expected at least one that isn't ignored: leave the sample out {_CHECK}"
        )


def fit_square(sample: RawSample, *, size: int, fit: Literal["stretch", "center_crop"]) -> RawSample:
    """Return `sample` at `size` x `size` pixels: the image by Lanczos, the maps by nearest neighbour.

    "stretch" squashes the whole frame and can be undone, so that every labelled pixel is trained on and evaluated;
    "center_crop" keeps proportions and loses the sides. On CamVid the central square holds 57% of the pavement, 58% of
    the bicyclist, 69% of the car and 73% of the pedestrian pixels, which is why stretching is the default.

    Nearest neighbour keeps the area of thin classes without bias. A majority vote was measured on CamVid (92 training
    masks, stretched to 64 pixels): it raises the round-trip mIoU from 78.6 to 79.1 but keeps 47% of the pole area
    (nearest: 94%) and loses poles entirely in 17% of the images that have them (nearest: 3%).
    """
    height, width = sample.segmentation_map.shape
    if (height, width) == (size, size):
        return sample
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    box = (0, 0, width, height) if fit == "stretch" else (left, top, left + side, top + side)

    def resize(array: np.ndarray, method: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize((size, size), method, box=box))

    instances = sample.instance_map
    return replace(
        sample,
        image=resize(sample.image, Image.Resampling.LANCZOS),
        segmentation_map=resize(sample.segmentation_map, Image.Resampling.NEAREST),
        # Pillow resizes 32-bit integers; uint16 fits.
        instance_map=None
        if instances is None
        else resize(instances.astype(np.int32), Image.Resampling.NEAREST).astype(np.uint16),
    )
