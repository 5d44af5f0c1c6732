"""What a sample store holds: members of a sample as bytes, and the folder's index and manifest.

    shard-00000.tar ...   uncompressed USTAR, WebDataset-compatible: the members of one sample stand
                          side by side
    index.parquet         one row a sample: where its members lie, their checksums, and what is
                          known about it
    README.md             dataset card: what pixels of masks mean, and how the shards are read
    manifest.json         the classes of the masks, and how the store was made; written last, so a
                          folder that has it is finished
    rows.jsonl            only while the store is written: the rows of the index to be

Each sample has a size of its own: nothing in a store says or supposes that all have one size.
"""

import io
import json
import re
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from pydantic import BaseModel, ConfigDict, StringConstraints

from seggen_core.config.segmentation import SYNTHESIS_METHODS
from seggen_core.errors import SampleStoreError
from seggen_core.project.artefacts import MAX_JSON_BYTES, parse_typed, read_regular
from seggen_core.taxonomy import IGNORE_INDEX

ImageFormat = Literal["png", "jpg"]
JPEG_QUALITY = 95
"""Quality of "jpg" images, unless another one is asked for."""
FORMAT_VERSION = 1
INDEX, MANIFEST, ROWS = "index.parquet", "manifest.json", "rows.jsonl"
MEMBERS = ("image", "mask", "instances", "json")
"""Members of a sample in the order they are stored in; `instances` may be absent."""
METADATA_COLUMNS: dict[str, type] = {
    "source_key": str,
    "class_slug": str,
    "seed": int,
    "prompt": str,
    "model_hash": str,
}
SIZE_COLUMNS = ("height", "width")
"""Columns of the index: pixels of the image and its masks."""
QUALITY_PREFIX = "quality_"
MAX_PIXELS = 2**26
"""Largest picture, in pixels, that is written or decoded."""
TAR_BLOCK = tarfile.BLOCKSIZE
END_OF_ARCHIVE = bytes(2 * TAR_BLOCK)


class _StoreSection(BaseModel):
    """What the manifest says of the store; `_STORE_SECTION` names what has to be there."""

    model_config = ConfigDict(extra="allow")
    format_version: int | None = None
    num_classes: int = 0
    shard_bytes: int = 0
    image_format: str = ""
    num_samples: int = 0
    shards: dict[Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")], int] = {}


class _Manifest(BaseModel):
    model_config = ConfigDict(extra="allow")
    store: _StoreSection


_STORE_SECTION = {
    "format_version",
    "num_classes",
    "shard_bytes",
    "image_format",
    "num_samples",
    "shards",
}
# No dot: WebDataset ends the key there. USTAR allows 100 characters with the suffix.
_KEY = re.compile(r"[A-Za-z0-9_-]{1,80}")


@dataclass(frozen=True, eq=False)
class Sample:
    """One image with its masks, all of one size [H, W]; other samples may have another size.

    Attributes:
        key: unique in its store; letters, digits, "_" and "-", at most 80.
        image: uint8 [H, W, 3], RGB.
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        instance_map: uint16 [H, W], 0 where there is no instance; None where instances are unknown.
        metadata: JSON-ready. source_key, class_slug, seed, prompt, model_hash and the numbers in
            quality become columns of the index; anything else is kept beside the sample only.
            source_key is what the sample was made from: of a real one the key that its dataset's
            reader gives it (the stem of its file), of a synthetic one the key of the real one.
    """

    key: str
    image: np.ndarray
    segmentation_map: np.ndarray
    instance_map: np.ndarray | None
    metadata: dict[str, Any]


@dataclass(frozen=True)
class EncodedSample:
    """One sample as a store holds it.

    Attributes:
        key: as in `Sample`.
        members: the file contents of every member that the sample has, in the order of MEMBERS.
        columns: JSON-ready; what the index says about it beside key and places: height, width, the
            metadata columns, class_pixel_counts, and quality_<name> as float.
    """

    key: str
    members: Mapping[str, bytes]
    columns: Mapping[str, Any]


def member_name(key: str, member: str, *, image_format: str) -> str:
    """Return the file name of `member` (one of MEMBERS) of sample `key` in its shard."""
    suffixes = {
        "image": image_format,
        "mask": "mask.png",
        "instances": "instances.png",
        "json": "json",
    }
    return f"{key}.{suffixes[member]}"


def check_key(key: str) -> None:
    """Raise SampleStoreError unless `key` can name the members of a sample."""
    if not _KEY.fullmatch(key):
        raise SampleStoreError(
            f"sample key {key!r} is not 1 to 80 of A-Z a-z 0-9 _ - "
            "(a dot would end it in WebDataset)"
        )


def count_pixels(sample: Sample, *, num_classes: int) -> list[int]:
    """Check the arrays of `sample` and return the pixels of each class.

    Raises:
        SampleStoreError: a shape or dtype isn't what `Sample` documents, or the mask holds a value
            outside the taxonomy.
    """
    size: tuple[int, ...] = sample.segmentation_map.shape
    if len(size) != 2 or not 0 < size[0] * size[1] <= MAX_PIXELS:
        raise SampleStoreError(
            f"sample {sample.key!r}: segmentation_map is {size}; "
            f"expected [H, W], 1 to {MAX_PIXELS} pixels"
        )
    wanted: list[tuple[str, np.ndarray | None, type, tuple[int, ...]]] = [
        ("segmentation_map", sample.segmentation_map, np.uint8, size),
        ("image", sample.image, np.uint8, (*size, 3)),
        ("instance_map", sample.instance_map, np.uint16, size),
    ]
    for name, array, dtype, shape in wanted:
        if array is not None and (array.dtype != dtype or array.shape != shape):
            raise SampleStoreError(
                f"sample {sample.key!r}: {name} is {array.dtype} {list(array.shape)}; "
                f"expected {np.dtype(dtype)} {list(shape)}, since image and masks have one size"
            )
    counts = np.bincount(sample.segmentation_map.ravel(), minlength=256)
    foreign = num_classes + np.flatnonzero(counts[num_classes:IGNORE_INDEX])
    if foreign.size:
        named = ", ".join(f"{value} ({counts[value]} pixels)" for value in foreign[:5])
        raise SampleStoreError(
            f"sample {sample.key!r}: the mask holds {named}; allowed are 0-{num_classes - 1} "
            f"and {IGNORE_INDEX} (ignore). Map the dataset's ids to train ids before storing"
        )
    return counts[:num_classes].tolist()


def metadata_columns(sample: Sample) -> dict[str, Any]:
    """Return the index columns that come from the metadata.

    Raises:
        SampleStoreError: one has the wrong type.
    """
    columns: dict[str, Any] = {}
    for name, kind in METADATA_COLUMNS.items():
        value = columns[name] = sample.metadata.get(name)
        if value is not None and (
            type(value) is not kind or (isinstance(value, int) and not -(2**63) <= value < 2**63)
        ):
            raise SampleStoreError(
                f"sample {sample.key!r}: metadata[{name!r}] is {value!r}; "
                f"expected {kind.__name__} (64 bit) or None"
            )
    quality = sample.metadata.get("quality", {})
    if not isinstance(quality, dict):
        raise SampleStoreError(
            f"sample {sample.key!r}: metadata['quality'] is {quality!r}; expected names and numbers"
        )
    for name, value in quality.items():
        if value is not None and type(value) not in (int, float, bool):
            raise SampleStoreError(
                f"sample {sample.key!r}: quality {name!r} is {value!r}; expected a number or None"
            )
        columns[QUALITY_PREFIX + name] = None if value is None else float(value)
    return columns


def encode_image(
    array: np.ndarray, *, image_format: ImageFormat = "png", jpeg_quality: int = JPEG_QUALITY
) -> bytes:
    """Return an array as the file of an image, or as the PNG of a mask."""
    jpeg = {"format": "JPEG", "quality": jpeg_quality, "subsampling": 0}
    options: dict[str, Any] = jpeg if image_format == "jpg" else {"format": "PNG"}
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, **options)
    return buffer.getvalue()


def encode_members(
    sample: Sample, *, image_format: ImageFormat, jpeg_quality: int = JPEG_QUALITY
) -> dict[str, bytes]:
    """Return the file contents of every member that the sample has, in the order of MEMBERS."""
    members = {
        "image": encode_image(sample.image, image_format=image_format, jpeg_quality=jpeg_quality),
        "mask": encode_image(sample.segmentation_map),
    }
    if sample.instance_map is not None:
        members["instances"] = encode_image(sample.instance_map)
    try:
        members["json"] = json.dumps(
            sample.metadata, sort_keys=True, ensure_ascii=False, allow_nan=False
        ).encode()
    except (TypeError, ValueError) as error:
        raise SampleStoreError(
            f"sample {sample.key!r}: metadata can't be written as JSON: {error}"
        ) from error
    return members


def encode_sample(
    sample: Sample,
    *,
    num_classes: int,
    image_format: ImageFormat = "png",
    jpeg_quality: int = JPEG_QUALITY,
) -> EncodedSample:
    """Check a sample and return it as a store holds it.

    Args:
        sample: any size.
        num_classes: the mask holds 0 to ``num_classes - 1`` or IGNORE_INDEX.
        image_format: "png" is lossless; "jpg" has no chroma subsampling.
        jpeg_quality: of "jpg", 1 to 95.

    Raises:
        SampleStoreError: the key is malformed, an array has the wrong dtype or size, the mask holds
            a value outside the taxonomy, or the metadata isn't JSON.
    """
    check_key(sample.key)
    counts = count_pixels(sample, num_classes=num_classes)
    size = dict(zip(SIZE_COLUMNS, sample.segmentation_map.shape, strict=True))
    columns = size | metadata_columns(sample) | {"class_pixel_counts": counts}
    members = encode_members(sample, image_format=image_format, jpeg_quality=jpeg_quality)
    return EncodedSample(sample.key, members, columns)


def tar_member(name: str, data: bytes) -> bytes:
    """Return header, data and padding of one tar member; its data starts one block in."""
    info = tarfile.TarInfo(name)  # time 0, owner 0, mode 0644: nothing of the machine gets in
    info.size = len(data)
    return info.tobuf(format=tarfile.USTAR_FORMAT) + data + bytes(-len(data) % TAR_BLOCK)


def decode_picture(data: bytes, *, mode: str) -> np.ndarray:
    """Return the pixels of a PNG or JPEG file, as `open_picture` checks them."""
    return np.array(open_picture(data, mode=mode))


def open_picture(data: bytes, *, mode: str) -> Image.Image:
    """Return a PNG or JPEG file as Pillow's image, decoded.

    Args:
        data: the file.
        mode: what it has to be: "RGB" gives uint8 [H, W, 3], "L" uint8 [H, W], "I;16" uint16 [H,
            W].

    Raises:
        ValueError, OSError, SyntaxError: the data is no such picture, or one larger than
            MAX_PIXELS.
    """
    try:
        picture = Image.open(io.BytesIO(data), formats=["PNG", "JPEG"])  # reads the header alone
    except Image.DecompressionBombError as error:
        raise ValueError(str(error)) from error
    if picture.width * picture.height > MAX_PIXELS:
        raise ValueError(
            f"{picture.width} x {picture.height} pixels, at most {MAX_PIXELS} are decoded"
        )
    if picture.mode != mode:
        raise ValueError(f"a picture of mode {picture.mode}, not {mode}")
    picture.load()
    return picture


def method_stage(name: str) -> str:
    """Return what `dvc repro` takes for all partitions of a synthetic method or mask recipe."""
    return name if name in SYNTHESIS_METHODS else f"mask_recipe@{name}"


def remedy(folder: Path) -> str:
    """Return what brings the store in `folder` back, by its place in the project."""
    stage = _stage_of(folder)
    if stage is None:
        return "no stage of a project writes this folder; copy it again from where it was made"
    return f"run: dvc repro -f -s {stage}" if folder.exists() else f"run: dvc repro {stage}"


def _stage_of(folder: Path) -> str | None:
    """Return the stage that writes a folder; None where no stage of a project does."""
    *_, data, above, parent, name = ("", "", "", *folder.absolute().parts)
    if (data, above) == ("data", "synthetic"):
        return f"{parent}@{name}" if parent in SYNTHESIS_METHODS else method_stage(parent)
    return "dataset" if (above, parent) == ("data", "real") else None


def _not_a_store(folder: Path) -> SampleStoreError:
    """Return the error for a folder without a manifest."""
    if (folder / ROWS).exists():
        return SampleStoreError(f"{folder} isn't finished; {remedy(folder)}")
    stores = sorted(path.parent for path in folder.glob(f"*/{MANIFEST}"))
    advice = (
        f"those in it are: {', '.join(path.name for path in stores)}"
        if stores
        else remedy(folder)
        if _stage_of(folder)
        else "expected the folder of a split or class, such as data/real/train"
    )
    return SampleStoreError(f"{folder} is no sample store: it has no {MANIFEST}; {advice}")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return manifest.json of a finished store.

    Raises:
        SampleStoreError: there is none, or it is unreadable.
    """
    path = folder / MANIFEST
    if not path.exists():
        raise _not_a_store(folder)
    try:
        read = parse_typed(read_regular(path, max_bytes=MAX_JSON_BYTES), _Manifest)
        manifest: dict[str, Any] = read.model_dump(exclude_unset=True)
        missing = _STORE_SECTION - set(manifest["store"])
    except (OSError, ValueError) as error:
        raise SampleStoreError(f"{path} can't be read ({error}); {remedy(folder)}") from error
    version = manifest["store"].get("format_version")
    if missing or version != FORMAT_VERSION:
        raise SampleStoreError(
            f"{path} lacks {sorted(missing)} and has format version {version}, "
            f"expected {FORMAT_VERSION}; {remedy(folder)}"
        )
    return manifest


def read_index(folder: Path) -> pa.Table:
    """Return index.parquet of a finished store; SampleStoreError where it is missing or corrupt."""
    path = folder / INDEX
    try:
        if path.exists() and not path.is_file():
            raise OSError("it is no regular file")
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())  # Arrow writes several lines
        raise SampleStoreError(f"{path} can't be read ({reason}); {remedy(folder)}") from error
