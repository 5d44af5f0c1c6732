"""Writing a sample store: tar shards that grow sample by sample, and a journal that outlives a kill -9.

Bytes go into the shard, the shard is synced, then the journal line is appended: a sample is
committed when its line is whole. Whoever opens the folder after a kill cuts the shards back to the
last committed byte and goes on. The index is made from the journal alone and tar headers hold no
time or owner, so an interrupted run ends in the same bytes as an undisturbed one.
"""

import errno
import fcntl
import io
import json
import os
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from seggen_core.errors import SampleStoreError, StorageError
from seggen_core.store.format import (
    END_OF_ARCHIVE,
    FORMAT_VERSION,
    INDEX,
    JOURNAL,
    MANIFEST,
    MEMBERS,
    METADATA_COLUMNS,
    QUALITY_PREFIX,
    TAR_BLOCK,
    ImageFormat,
    Sample,
    check_key,
    count_pixels,
    encode_members,
    member_name,
    metadata_columns,
    read_index,
    read_manifest,
    tar_member,
)
from seggen_core.taxonomy import IGNORE_INDEX

_COMMIT_EVERY = 64


def _write_all(fd: int, data: bytes, *, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _replace_file(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


class SampleStoreWriter:
    """Fills one folder with samples; a second writer on the folder goes on where a killed one stopped.

    Use it as a context manager. Samples added in the same order give the same bytes, wherever the
    work was interrupted.

    Attributes:
        folder: the store.
        committed: keys that are safe on disk, in order; whoever resumes skips them.
        finished: True where an earlier run already finished the folder; then nothing can be added,
            and `finish` replaces the manifest alone.
    """

    def __init__(
        self,
        folder: Path,
        *,
        num_classes: int,
        shard_bytes: int = 256 * 2**20,
        image_format: ImageFormat = "png",
    ) -> None:
        """Open `folder`, new or unfinished.

        Args:
            folder: made where it doesn't exist.
            num_classes: masks hold 0 to ``num_classes - 1`` or IGNORE_INDEX.
            shard_bytes: a new shard is begun before one would grow past this; a larger sample gets
                a shard of its own.
            image_format: "png" is lossless; "jpg" is quality 95 without chroma subsampling.

        Raises:
            SampleStoreError: the folder was begun with other settings, is being written, or holds
                less than its journal says.
            StorageError: the folder isn't writable.
        """
        assert 1 <= num_classes <= IGNORE_INDEX
        assert image_format in ("png", "jpg")
        self.folder = Path(folder)
        self.committed: list[str] = []
        self._settings: dict[str, Any] = {
            "format_version": FORMAT_VERSION,
            "num_classes": num_classes,
            "shard_bytes": shard_bytes,
            "image_format": image_format,
        }
        self._num_classes, self._shard_bytes, self._image_format = (
            num_classes,
            shard_bytes,
            image_format,
        )
        self._pending: list[
            tuple[str, bytes]
        ] = []  # key and journal line of samples that are written but not committed
        self._shard_ends: dict[str, int] = {}  # committed bytes of every shard
        self._quality_columns: set[str] = set()
        self._journal_end = 0
        self._journal_fd: int | None = None
        self._shard_fd: int | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self.finished = (self.folder / MANIFEST).exists() and not (
                self.folder / JOURNAL
            ).exists()
            if self.finished:
                store = read_manifest(self.folder)["store"]
                self._check_settings({name: store[name] for name in self._settings})
                self.committed = read_index(self.folder)["key"].to_pylist()
            else:
                self._resume()
        except OSError as error:
            self.close()
            raise self._storage_error(self.folder, error) from error
        except BaseException:
            self.close()
            raise
        self._keys = set(self.committed)
        self._shard_number = max(len(self._shard_ends) - 1, 0)
        self._shard_end = self._shard_ends.get(
            self._shard_name, 0
        )  # end of the last whole sample, committed or not

    @property
    def _shard_name(self) -> str:
        return f"shard-{self._shard_number:05d}.tar"

    def add(self, sample: Sample) -> None:
        """Append one sample, whole or not at all; it is safe from a kill after the next `commit` (at the latest 64 samples on).

        Raises:
            SampleStoreError: the key is malformed or taken, an array has the wrong dtype or size,
                the mask holds a value outside the taxonomy, or the metadata isn't JSON.
            StorageError: the disk is full or not writable; all samples added before are committed.
        """
        # 1. Check and encode.
        if self.finished:
            raise SampleStoreError(
                f"{self.folder} is finished, {sample.key!r} can't be added; delete the folder to make it anew"
            )
        assert self._journal_fd is not None, "the writer is closed"
        check_key(sample.key)
        if sample.key in self._keys:
            raise SampleStoreError(
                f"sample {sample.key!r} is already in {self.folder}; give each one a key of its own"
            )
        counts = count_pixels(sample, num_classes=self._num_classes)
        columns = metadata_columns(sample)
        members = encode_members(sample, image_format=self._image_format)
        blocks = {
            m: tar_member(member_name(sample.key, m, image_format=self._image_format), data)
            for m, data in members.items()
        }

        # 2. A shard that would grow too large is left; where that happens depends on the samples
        # alone.
        size = sum(map(len, blocks.values())) + len(END_OF_ARCHIVE)
        if self._shard_end and self._shard_end + size > self._shard_bytes:
            self.commit()
            self._close_shard()
            self._shard_number, self._shard_end = self._shard_number + 1, 0

        # 3. Lay out the row of the index, then write.
        row: dict[str, Any] = {"key": sample.key, "shard": self._shard_name}
        end = self._shard_end
        for member in MEMBERS:
            data = members.get(member, b"")
            row[f"{member}_offset"] = end + TAR_BLOCK if data else 0
            row[f"{member}_bytes"] = len(data)
            row[f"{member}_crc32"] = zlib.crc32(data)
            end += len(blocks.get(member, b""))
        row |= columns | {"class_pixel_counts": counts}
        try:
            if self._shard_fd is None:
                self._shard_fd = os.open(
                    self.folder / self._shard_name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
                )
            _write_all(self._shard_fd, b"".join(blocks.values()), offset=self._shard_end)
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.folder / self._shard_name, self._shard_end)
            self.commit()
            raise self._storage_error(self.folder / self._shard_name, error) from error
        self._shard_end = end
        self._keys.add(sample.key)
        self._quality_columns |= {name for name in columns if name.startswith(QUALITY_PREFIX)}
        self._pending.append((sample.key, json.dumps(row, ensure_ascii=False).encode() + b"\n"))
        if len(self._pending) >= _COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Make every sample added so far safe; StorageError where that fails, and then the writer is closed."""
        if not self._pending:
            return
        assert self._journal_fd is not None
        assert self._shard_fd is not None
        lines = b"".join(line for _, line in self._pending)
        try:
            os.fsync(self._shard_fd)
            _write_all(self._journal_fd, lines, offset=self._journal_end)
            os.fsync(self._journal_fd)
        except OSError as error:
            self._pending.clear()  # the next writer cuts off whatever was written of it
            self.close()
            raise self._storage_error(self.folder / JOURNAL, error) from error
        self._journal_end += len(lines)
        self._shard_ends[self._shard_name] = self._shard_end
        self.committed += [key for key, _ in self._pending]
        self._pending.clear()

    def finish(self, *, manifest: dict[str, Any]) -> None:
        """Commit, end the shards, write index and manifest, remove the journal and close.

        Args:
            manifest: JSON-ready; kept as it is, beside a section "store" that the reader needs.
        """
        assert "store" not in manifest, "the manifest's section 'store' is the writer's own"
        self.commit()
        try:
            if self.finished:
                store = read_manifest(self.folder)["store"]
            else:
                store = self._settings | {"num_samples": len(self.committed), "shards": {}}
                for name, end in self._shard_ends.items():
                    with (self.folder / name).open("r+b") as shard:
                        _write_all(shard.fileno(), END_OF_ARCHIVE, offset=end)
                        os.fsync(shard.fileno())
                    store["shards"][name] = end + len(END_OF_ARCHIVE)
                _replace_file(self.folder / INDEX, self._index())
            document = json.dumps(
                manifest | {"store": store},
                sort_keys=True,
                indent=1,
                ensure_ascii=False,
                allow_nan=False,
            )
            _replace_file(self.folder / MANIFEST, document.encode() + b"\n")
            if not self.finished:
                (self.folder / JOURNAL).unlink()
        except OSError as error:
            raise self._storage_error(self.folder, error) from error
        finally:
            self.close()

    def close(self) -> None:
        """Give up the files and the lock; what isn't committed is dropped by the next writer."""
        self._close_shard()
        if self._journal_fd is not None:
            os.close(self._journal_fd)
            self._journal_fd = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Commit what was added, also when an error passes through: every added sample is whole."""
        try:
            self.commit()
        finally:
            self.close()

    def _close_shard(self) -> None:
        if self._shard_fd is not None:
            os.close(self._shard_fd)
            self._shard_fd = None

    def _resume(self) -> None:
        """Open the journal, learn what was committed, and cut everything else off."""
        if not (self.folder / JOURNAL).exists() and any(self.folder.glob("shard-*.tar")):
            raise SampleStoreError(
                f"{self.folder} holds shards but neither {JOURNAL} nor {MANIFEST}; delete it and run again"
            )
        self._journal_fd = os.open(
            self.folder / JOURNAL, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644
        )
        try:
            # A POSIX lock, unlike flock, isn't inherited by forked workers that outlive a killed
            # writer for some seconds.
            fcntl.lockf(self._journal_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise SampleStoreError(
                f"another process is writing {self.folder}; wait until it ends, or stop it"
            ) from error
        for end, record in self._journal_records():
            if self._journal_end == 0:
                self._check_settings(record)
            else:
                self.committed.append(record["key"])
                padding = -record["json_bytes"] % TAR_BLOCK
                self._shard_ends[record["shard"]] = (
                    record["json_offset"] + record["json_bytes"] + padding
                )
                self._quality_columns |= {
                    name for name in record if name.startswith(QUALITY_PREFIX)
                }
            self._journal_end = end
        os.ftruncate(self._journal_fd, self._journal_end)
        if self._journal_end == 0:
            line = json.dumps(self._settings).encode() + b"\n"
            _write_all(self._journal_fd, line, offset=0)
            os.fsync(self._journal_fd)
            self._journal_end = len(line)
        for path in self.folder.glob("shard-*.tar"):
            if path.name not in self._shard_ends:
                path.unlink()
        for name, end in self._shard_ends.items():
            path = self.folder / name
            size = path.stat().st_size if path.exists() else 0
            if size < end:
                raise SampleStoreError(
                    f"{path} has {size} bytes, {JOURNAL} says {end}; delete {self.folder} and run again"
                )
            os.truncate(path, end)

    def _check_settings(self, found: dict[str, Any]) -> None:
        if found != self._settings:
            raise SampleStoreError(
                f"{self.folder} was begun with {found}, now wanted is {self._settings}; delete it and run again"
            )

    def _journal_records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (offset of its end, record) of each line, up to the first torn one."""
        assert self._journal_fd is not None
        os.lseek(self._journal_fd, 0, os.SEEK_SET)
        end = 0
        with open(
            self._journal_fd, "rb", closefd=False
        ) as lines:  # closing a second descriptor would give up the lock
            for line in lines:
                try:
                    record = json.loads(line)
                except ValueError:
                    return
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield end, record

    def _index(self) -> bytes:
        """Return index.parquet, made from the journal."""
        positions = [
            (f"{member}_{what}", pa.int64())
            for member in MEMBERS
            for what in ("offset", "bytes", "crc32")
        ]
        kinds = {str: pa.string(), int: pa.int64()}
        metadata = [(name, kinds[kind]) for name, kind in METADATA_COLUMNS.items()]
        quality = [(name, pa.float64()) for name in sorted(self._quality_columns)]
        columns = [("key", pa.string()), ("shard", pa.string()), *positions, *metadata]
        schema = pa.schema([*columns, ("class_pixel_counts", pa.list_(pa.int64())), *quality])
        buffer = io.BytesIO()
        with pq.ParquetWriter(
            buffer, schema, compression="zstd", write_page_checksum=True
        ) as writer:
            rows: list[dict[str, Any]] = []
            for _, record in self._journal_records():
                if "key" in record:
                    rows.append(record)
                if len(rows) == 10_000:
                    writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
                    rows = []
            writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
        return buffer.getvalue()

    def _storage_error(self, path: Path, error: OSError) -> StorageError:
        known = f" ({len(self.committed)} samples)" if self.committed else ""
        return StorageError(
            f"can't write {path}: {error.strerror or error}. What was committed in {self.folder} is kept{known}. "
            "Free some space or make the folder writable, then run the same command again: it goes on from there"
        )
