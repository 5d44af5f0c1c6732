"""Writing a sample store: tar shards that grow sample by sample, then index and manifest.

A store is written in one go: the manifest comes last, so a folder without one is no store, and the
next writer begins it again. What a killed run had made is found in a `RecordCache`, not here. The
same samples in the same order give the same bytes, since tar headers hold no time and no owner.
"""

import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from seggen_core.errors import SampleStoreError
from seggen_core.project.storage import storage_errors
from seggen_core.store.card import CARD, store_card
from seggen_core.store.files import open_locked, replace_file, sync_folder, write_at
from seggen_core.store.format import (
    END_OF_ARCHIVE,
    FORMAT_VERSION,
    INDEX,
    JPEG_QUALITY,
    MANIFEST,
    MEMBERS,
    METADATA_COLUMNS,
    QUALITY_PREFIX,
    ROWS,
    SIZE_COLUMNS,
    TAR_BLOCK,
    EncodedSample,
    ImageFormat,
    Sample,
    encode_sample,
    member_name,
    tar_member,
)
from seggen_core.taxonomy import IGNORE_INDEX

_ROWS_TOGETHER = 10_000
"""Rows of the index that are in memory at a time."""


class SampleStoreWriter:
    """Fills one folder with samples; a context manager.

    Samples may differ in size and aspect, and may have instance maps or not.

    Attributes:
        folder: the store.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_classes: int,
        shard_bytes: int = 256 * 2**20,
        image_format: ImageFormat = "png",
        jpeg_quality: int = JPEG_QUALITY,
    ) -> None:
        """Begin a store in `folder`; what an unfinished one left there is deleted.

        Args:
            folder: created where it doesn't exist.
            num_classes: masks hold 0 to ``num_classes - 1`` or IGNORE_INDEX.
            shard_bytes: a new shard is begun before one would grow past this; a larger sample gets
                a shard of its own.
            image_format: "png" is lossless; "jpg" has no chroma subsampling.
            jpeg_quality: of the "jpg" images that `add` encodes, 1 to 95.

        Raises:
            SampleStoreError: the folder holds a finished store, or is being written.
            StorageError: the folder isn't writable.
        """
        assert 1 <= num_classes <= IGNORE_INDEX
        assert image_format in ("png", "jpg")
        self.folder = Path(folder)
        self._num_classes, self._shard_bytes = num_classes, shard_bytes
        self._image_format: ImageFormat = image_format
        self._jpeg_quality = jpeg_quality
        self._keys: set[str] = set()
        self._quality_columns: set[str] = set()
        self._shards: dict[str, int] = {}  # bytes of every shard that is ended
        self._shard: int | None = None  # descriptor of the shard that grows
        self._shard_end = 0
        self._rows: int | None = None  # descriptor of the rows of the index to be
        self._rows_end = 0
        try:
            with self._storage_errors():
                self._begin()
        except BaseException:
            self.close()
            raise

    def add(self, sample: Sample) -> None:
        """Append one sample.

        Raises:
            SampleStoreError: the key is malformed or taken, an array has the wrong dtype or size,
                the mask holds a value outside the taxonomy, or the metadata isn't JSON.
            StorageError: the disk is full or not writable.
        """
        self.append(
            encode_sample(
                sample,
                num_classes=self._num_classes,
                image_format=self._image_format,
                jpeg_quality=self._jpeg_quality,
            )
        )

    def append(self, sample: EncodedSample) -> None:
        """Append one sample as `encode_sample` returns it, with this store's image format.

        Raises:
            SampleStoreError: the key is taken.
            StorageError: the disk is full or not writable.
        """
        assert self._rows is not None, "the writer is closed"
        if sample.key in self._keys:
            raise SampleStoreError(
                f"sample {sample.key!r} is already in {self.folder}; give each one a key of its own"
            )
        blocks = {
            m: tar_member(member_name(sample.key, m, image_format=self._image_format), data)
            for m, data in sample.members.items()
        }
        data = b"".join(blocks.values())
        with self._storage_errors():
            # A shard that would grow too large is left; where, depends on the samples alone.
            too_large = self._shard_end + len(data) + len(END_OF_ARCHIVE) > self._shard_bytes
            if self._shard_end and too_large:
                self._end_shard()
            shard = self._shard_name
            if self._shard is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
                self._shard = os.open(self.folder / shard, flags, 0o644)
            row: dict[str, Any] = {"key": sample.key, "shard": shard}
            end = self._shard_end
            for member in MEMBERS:
                content = sample.members.get(member, b"")
                row[f"{member}_offset"] = end + TAR_BLOCK if content else 0
                row[f"{member}_bytes"] = len(content)
                row[f"{member}_crc32"] = zlib.crc32(content)
                end += len(blocks.get(member, b""))
            line = json.dumps(row | dict(sample.columns), ensure_ascii=False).encode() + b"\n"
            write_at(self._shard, data, offset=self._shard_end)
            write_at(self._rows, line, offset=self._rows_end)
        self._shard_end, self._rows_end = end, self._rows_end + len(line)
        self._keys.add(sample.key)
        self._quality_columns |= {c for c in sample.columns if c.startswith(QUALITY_PREFIX)}

    def finish(self, *, manifest: dict[str, Any]) -> None:
        """End the last shard, write index, card and manifest, and close; all is on disk then.

        Args:
            manifest: JSON-ready; kept as it is, beside a section "store" that the reader needs.
                `describe_classes` (`store.card`) says what masks hold.

        Raises:
            StorageError: the disk is full or not writable.
        """
        assert "store" not in manifest, "the manifest's section 'store' is the writer's own"
        assert self._rows is not None, "the writer is closed"
        with self._storage_errors():
            if self._shard is not None:
                self._end_shard()
            index = self._index()
            replace_file(self.folder / INDEX, index)
            (self.folder / ROWS).unlink()
            store = {
                "format_version": FORMAT_VERSION,
                "num_classes": self._num_classes,
                "shard_bytes": self._shard_bytes,
                "image_format": self._image_format,
                "num_samples": len(self._keys),
                "shards": self._shards,
            }
            whole = manifest | {"store": store}
            replace_file(self.folder / CARD, store_card(whole, index=index).encode())
            document = json.dumps(
                whole,
                sort_keys=True,
                indent=1,
                ensure_ascii=False,
                allow_nan=False,
            )
            replace_file(self.folder / MANIFEST, document.encode() + b"\n")
            sync_folder(self.folder)
        self.close()

    def close(self) -> None:
        """Give up the files and the lock; the next writer begins an unfinished store again."""
        for fd in (self._shard, self._rows):
            if fd is not None:
                os.close(fd)
        self._shard = self._rows = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / MANIFEST).exists():
            raise SampleStoreError(f"{self.folder} is finished; delete the folder to make it again")
        self._rows = open_locked(self.folder / ROWS)
        os.ftruncate(self._rows, 0)
        for shard in self.folder.glob("shard-*.tar"):
            shard.unlink()

    @property
    def _shard_name(self) -> str:
        return f"shard-{len(self._shards):05d}.tar"

    def _end_shard(self) -> None:
        assert self._shard is not None
        write_at(self._shard, END_OF_ARCHIVE, offset=self._shard_end)
        os.fsync(self._shard)
        os.close(self._shard)
        self._shards[self._shard_name] = self._shard_end + len(END_OF_ARCHIVE)
        self._shard, self._shard_end = None, 0

    def _index(self) -> bytes:
        """Return index.parquet."""
        positions = [
            (f"{member}_{part}", pa.int64())
            for member in MEMBERS
            for part in ("offset", "bytes", "crc32")
        ]
        sizes = [(name, pa.int64()) for name in SIZE_COLUMNS]
        kinds = {str: pa.string(), int: pa.int64()}
        metadata = [(name, kinds[kind]) for name, kind in METADATA_COLUMNS.items()]
        quality = [(name, pa.float64()) for name in sorted(self._quality_columns)]
        columns = [("key", pa.string()), ("shard", pa.string()), *positions, *sizes, *metadata]
        schema = pa.schema([*columns, ("class_pixel_counts", pa.list_(pa.int64())), *quality])
        buffer = io.BytesIO()
        with pq.ParquetWriter(
            buffer, schema, compression="zstd", write_page_checksum=True
        ) as writer:
            for rows in self._row_batches():
                writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
        return buffer.getvalue()

    def _row_batches(self) -> Iterator[list[dict[str, Any]]]:
        """Yield the rows in full batches, then those that are left, which may be none."""
        rows: list[dict[str, Any]] = []
        with (self.folder / ROWS).open("rb") as lines:
            for line in lines:
                rows.append(json.loads(line))
                if len(rows) == _ROWS_TOGETHER:
                    yield rows
                    rows = []
        yield rows

    def _storage_errors(self) -> AbstractContextManager[None]:
        return storage_errors(self.folder, remains="The store isn't finished.")
