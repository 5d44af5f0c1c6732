"""The sample store: many samples in a few tar shards, read at random by offset.

`SampleStoreWriter` fills a folder, `SampleStore` reads it; `store.format` says what is in it. Any
WebDataset tool reads the shards in order.
"""

import json
import logging
import operator
import os
import zlib
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from seggen_core.errors import SampleStoreError
from seggen_core.store.format import (
    INDEX,
    MEMBERS,
    METADATA_COLUMNS,
    SIZE_COLUMNS,
    Sample,
    decode_picture,
    member_name,
    method_stage,
    open_picture,
    read_index,
    read_manifest,
    remedy,
)
from seggen_core.store.writer import SampleStoreWriter
from seggen_core.taxonomy import Taxonomy

if TYPE_CHECKING:
    import pandas as pd
    from PIL import Image

__all__ = ["Sample", "SampleStore", "SampleStoreWriter", "open_partitions"]

logger = logging.getLogger(__name__)

_MODES = {"image": "RGB", "mask": "L", "instances": "I;16"}


class SampleStore:
    """A finished store: a sequence of samples, also found by key.

    No file is held open, so a store can be pickled, forked and read from several threads. Every
    member that is read is checked against its CRC-32 in the index.

    Attributes:
        folder: the store.
        manifest: what the writer was given, and the section "store" (num_classes, image_format,
            num_samples, shards).
    """

    def __init__(self, folder: Path) -> None:
        """Read the manifest and check the sizes of all shards; the index is read at first use.

        Raises:
            SampleStoreError: `folder` is no finished store, or a shard is missing or truncated.
        """
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        for name, size in self.manifest["store"]["shards"].items():
            path = self.folder / name
            if not path.exists():
                raise SampleStoreError(f"shard {path} is missing; {remedy(self.folder)}")
            if path.stat().st_size != size:
                raise SampleStoreError(
                    f"shard {path} has {path.stat().st_size} bytes, the manifest says {size}; "
                    f"{remedy(self.folder)}"
                )

    def __reduce__(self) -> tuple[type["SampleStore"], tuple[Path]]:
        return SampleStore, (self.folder,)

    @cached_property
    def index(self) -> "pd.DataFrame":
        """One row a sample, in the order they were written.

        key, shard; offset, bytes and crc32 of each member (image_offset, ..., json_crc32;
        instances_bytes is 0 where there is no instance map); height and width in pixels;
        source_key, class_slug, seed (Int64), prompt, model_hash, missing where the metadata has
        none; class_pixel_counts (int64 [num_classes], so ``np.stack`` gives [N, num_classes]);
        quality_<name> as float64.
        """
        import pandas as pd

        table = read_index(self.folder)
        store = self.manifest["store"]
        positions = [
            f"{member}_{part}" for member in MEMBERS for part in ("offset", "bytes", "crc32")
        ]
        missing = {"key", "shard", "class_pixel_counts", *positions, *METADATA_COLUMNS} - set(
            table.column_names
        )
        unknown = (
            set() if "shard" in missing else set(table["shard"].to_pylist()) - set(store["shards"])
        )
        if missing or unknown or len(table) != store["num_samples"]:
            raise SampleStoreError(
                f"{self.folder / INDEX} disagrees with the manifest: {len(table)} samples "
                f"(expected {store['num_samples']}), missing columns {sorted(missing)}, "
                f"unknown shards {sorted(unknown)}; {remedy(self.folder)}"
            )
        self._check_types(table)
        try:
            index = table.to_pandas()
        except (KeyError, TypeError, ValueError) as error:  # pandas' notes in it have no checksum
            raise SampleStoreError(
                f"{self.folder / INDEX} is damaged: pandas can't read its notes: {error}; "
                f"{remedy(self.folder)}"
            ) from None
        # 63-bit seeds would be rounded to float64 where one is missing.
        index["seed"] = table["seed"].to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get)
        return index

    def class_pixel_counts(self) -> dict[str, Any]:
        """Return the pixels of each class, int64 [num_classes], by the sample's key."""
        return dict(zip(self.index["key"], self.index["class_pixel_counts"], strict=True))

    def _check_types(self, table: pa.Table) -> None:
        """Raise SampleStoreError where a column holds another type, or has empty places."""
        wanted = {"key": pa.types.is_string, "shard": pa.types.is_string, "seed": pa.types.is_int64}
        wanted |= {
            f"{member}_{part}": pa.types.is_integer
            for member in MEMBERS
            for part in ("offset", "bytes", "crc32")
        }
        wrong = [
            name
            for name, is_right in wanted.items()
            if not is_right(table.schema.field(name).type)
            or (name != "seed" and table[name].null_count)
        ]
        counts = table["class_pixel_counts"]
        is_list = pa.types.is_list(counts.type) or pa.types.is_fixed_size_list(counts.type)
        lengths = pc.unique(pc.list_value_length(counts)).to_pylist() if is_list else [None]
        if not set(lengths) <= {self.manifest["store"]["num_classes"]}:
            wrong.append("class_pixel_counts")
        if wrong:
            raise SampleStoreError(
                f"{self.folder / INDEX} holds other values than a store in {', '.join(wrong)}; "
                f"{remedy(self.folder)}"
            )

    def __len__(self) -> int:
        return self.manifest["store"]["num_samples"]

    def keys(self) -> list[str]:
        """Return the keys in the order the samples were written."""
        return self.index["key"].tolist()

    def __contains__(self, key: object) -> bool:
        return key in self._positions

    def __iter__(self) -> Iterator[Sample]:
        return (self[position] for position in range(len(self)))

    def __getitem__(self, key_or_position: str | int) -> Sample:
        """Return one sample.

        Raises:
            SampleStoreError: no sample has this key, or the sample is damaged.
            IndexError: there is no such position.
        """
        position = self._position(key_or_position)
        members = self._read(position, *MEMBERS)
        return Sample(
            key=self._keys[position],
            image=self._decode(position, "image", members["image"]),
            segmentation_map=self._decode(position, "mask", members["mask"]),
            instance_map=self._decode(position, "instances", members["instances"]),
            metadata=self._decode(position, "json", members["json"]),
        )

    def read_image(self, key_or_position: str | int) -> np.ndarray:
        """Return the image alone, uint8 [H, W, 3]."""
        return self._read_picture(key_or_position, "image")

    def open_image(self, key_or_position: str | int) -> "Image.Image":
        """Return the image alone as Pillow's, for what resizes it at once."""
        position = self._position(key_or_position)
        data = self._read(position, "image")["image"]
        with self._decoding(position, "image"):
            return open_picture(data, mode=_MODES["image"])

    def read_size(self, key_or_position: str | int) -> tuple[int, int]:
        """Return height and width of a sample in pixels."""
        position = self._position(key_or_position)
        if not set(SIZE_COLUMNS) <= set(self.index):  # made by an earlier seggen
            rows, columns = self.read_mask(position).shape
            return rows, columns
        height, width = self._sizes[position].tolist()
        return height, width

    def read_mask(self, key_or_position: str | int) -> np.ndarray:
        """Return the segmentation map alone, uint8 [H, W]: train ids or IGNORE_INDEX."""
        return self._read_picture(key_or_position, "mask")

    def read_bytes(self, key_or_position: str | int, member: str) -> bytes:
        """Return the file of one member ("image", "mask", ...) as it is stored.

        The same bytes are the same picture.
        """
        return self._read(self._position(key_or_position), member)[member]

    def read_instances(self, key_or_position: str | int) -> np.ndarray | None:
        """Return the instance map alone: uint16 [H, W], 0 where there is no instance.

        Returns None where instances are unknown.
        """
        return self._read_picture(key_or_position, "instances")

    @cached_property
    def _keys(self) -> list[str]:
        return self.keys()

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self._keys)}

    @cached_property
    def _extents(self) -> dict[str, np.ndarray]:
        """Offset, length and CRC-32 of each member, int64 [N, 3]."""
        return {
            m: self.index[[f"{m}_offset", f"{m}_bytes", f"{m}_crc32"]].to_numpy() for m in MEMBERS
        }

    @cached_property
    def _sizes(self) -> np.ndarray:
        """Height and width of each sample in pixels, int64 [N, 2]."""
        return self.index[list(SIZE_COLUMNS)].to_numpy()

    @cached_property
    def _shards(self) -> list[str]:
        return self.index["shard"].tolist()

    def _position(self, key_or_position: str | int) -> int:
        if isinstance(key_or_position, str):
            if key_or_position not in self._positions:
                raise SampleStoreError(
                    f"there is no sample {key_or_position!r} among the {len(self)} of {self.folder}"
                )
            return self._positions[key_or_position]
        position = operator.index(key_or_position)
        if not -len(self) <= position < len(self):
            raise IndexError(f"position {position} of {len(self)} samples in {self.folder}")
        return position % len(self)

    def _read(self, position: int, *members: str) -> dict[str, bytes]:
        """Return the bytes of the named members, each checked against its CRC-32.

        They are empty for a member that the sample doesn't have.
        """
        path = self.folder / self._shards[position]
        data = {}
        try:
            # Opened for each sample: microseconds beside the decoding, and nothing to share, leak
            # or run out of.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                for member in members:
                    offset, length, _ = self._extents[member][position].tolist()
                    data[member] = os.pread(fd, length, offset)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._corrupt(position, members[0], f"can't be read: {error.strerror}") from error
        for member in members:
            _, length, crc32 = self._extents[member][position].tolist()
            if len(data[member]) != length or zlib.crc32(data[member]) != crc32:
                raise self._corrupt(
                    position,
                    member,
                    f"doesn't have the {length} bytes with CRC-32 {crc32:08x} that the index says",
                )
        return data

    def _read_picture(self, key_or_position: str | int, member: str) -> Any:
        position = self._position(key_or_position)
        return self._decode(position, member, self._read(position, member)[member])

    def _decode(self, position: int, member: str, data: bytes) -> Any:
        """Return the array of a picture, or the tree of the JSON member.

        It is None for instances that the sample doesn't have.
        """
        if member == "instances" and not data:
            return None
        with self._decoding(position, member):
            return (
                json.loads(data) if member == "json" else decode_picture(data, mode=_MODES[member])
            )

    @contextmanager
    def _decoding(self, position: int, member: str) -> Iterator[None]:
        """Turn what decoding a member raises into SampleStoreError."""
        try:
            yield
        except (OSError, ValueError, SyntaxError) as error:
            raise self._corrupt(position, member, f"can't be decoded: {error}") from error

    def _corrupt(self, position: int, member: str, reason: str) -> SampleStoreError:
        name = member_name(
            self._keys[position], member, image_format=self.manifest["store"]["image_format"]
        )
        return SampleStoreError(
            f"{name} in shard {self.folder / self._shards[position]} {reason}; "
            f"{remedy(self.folder)}"
        )


def open_partitions(
    folder: Path, *, classes: Collection[str] | None = None, taxonomy: Taxonomy | None = None
) -> list[SampleStore]:
    """Return the stores of the class partitions of a method, in the order of their slugs.

    Args:
        folder: data/synthetic/<method>.
        classes: slugs of the partitions to open, as `classes` in params.yaml lists them. The
            others in the folder were made for classes that are listed no more; a warning names
            them. None opens every partition in the folder.
        taxonomy: the classes that masks have to show; None takes any.

    Raises:
        SampleStoreError: there is none, a listed one is missing or isn't a finished store, or one
            is of another dataset.
    """
    folder = Path(folder)
    partitions = (
        sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    )
    if classes is not None:
        partitions = _listed_partitions(folder, partitions, classes=classes)
    if not partitions:
        stage = method_stage(folder.name)
        raise SampleStoreError(f"{folder} holds no class partition; run: dvc repro {stage}")
    stores = [SampleStore(path) for path in partitions]
    if taxonomy is not None:
        wanted = taxonomy.digest
        foreign = [s.folder for s in stores if s.manifest.get("taxonomy", wanted) != wanted]
        if foreign:
            raise SampleStoreError(
                f"{len(foreign)} of {len(stores)} partitions in {folder} are of another dataset: "
                f"{foreign[0].name} and others show other classes than data/real/taxonomy.json; "
                f"run: dvc repro (or delete {folder})"
            )
    return stores


def _listed_partitions(
    folder: Path, partitions: Sequence[Path], *, classes: Collection[str]
) -> list[Path]:
    """Return the listed ones of the partitions in a folder; a warning names the others."""
    missing = sorted(set(classes) - {path.name for path in partitions})
    if missing and len(missing) < len(classes):
        raise SampleStoreError(
            f"{folder} lacks {len(missing)} of the {len(classes)} partitions that `classes` in "
            f"params.yaml lists: {', '.join(missing[:5])}; "
            f"run: dvc repro {method_stage(folder.name)}"
        )
    unlisted = [path.name for path in partitions if path.name not in classes]
    if unlisted:
        logger.warning(
            "%s also holds partitions of classes that params.yaml doesn't list; they are ignored: "
            "%s. Delete their folders if you don't want them back",
            folder,
            ", ".join(unlisted),
        )
    return [path for path in partitions if path.name in classes]
