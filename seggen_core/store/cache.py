"""The one way to resume: what a run has made is found by a digest of its inputs.

A `RecordCache` is a folder. It holds what was added to it, and what the last finished run
published:

    lock
    records-00000 ...              appended record by record, synced at every commit
    published-00003/records        one record for each that the last finished run published
    published-00003/shard-*.tar    hard links to the shards that it published

A record is found by its digest, wherever it lies. The digest covers everything that the record's
bytes depend on, so a record with the right digest need not be made again. The order in which
records are added doesn't matter. Records of other inputs stay, unused, until the next `keep`.

A killed process leaves whole records and at most one torn one, which the next process doesn't see.
A record is checked against its checksums when it is read. A damaged one is logged and not used, so
it is made again. Deleting the folder costs time and nothing else.

Memory: the digest and the place of every record. Disk: a sample lies in the cache until its store
is finished, and in the published shards afterwards; the links take no space. Where the file system
has no hard links, the shards are copied.
"""

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow.parquet as pq

from seggen_core.errors import SampleStoreError
from seggen_core.project.storage import storage_errors
from seggen_core.store.files import open_locked, sync_folder, write_at
from seggen_core.store.format import INDEX, MEMBERS
from seggen_core.store.records import (
    DamagedRecordError,
    Extent,
    Record,
    encode_record,
    encode_reference,
    read_info,
    read_record,
    scan_records,
)

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_SEGMENT_BYTES = 2**30
"""A new file of added records is begun where one grows past this."""
_LOCK, _RECORDS = "lock", "records"
_ADDED, _PUBLISHED = "records-*", "published-*"


class RecordCache:
    """Records by digest; a context manager.

    One process at a time may open a folder.

    Attributes:
        folder: the cache.
    """

    def __init__(self, folder: Path, *, wait: bool = False) -> None:
        """Open `folder`, which is created where it doesn't exist, and find its records.

        Args:
            folder: the cache.
            wait: until no other process has it open.

        Raises:
            SampleStoreError: another process has opened it.
            StorageError: it can't be written.
        """
        self.folder = folder
        self._places: dict[bytes, tuple[Path, int]] = {}
        self._segment: tuple[Path, int] | None = None
        self._segment_end = 0
        self._num_committed = self._num_pending = 0
        with self._storage_errors():
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = open_locked(folder / _LOCK, wait=wait)
        try:
            with self._storage_errors():
                self._find_records()
        except BaseException:
            os.close(self._lock)
            raise

    def __contains__(self, digest: str) -> bool:
        return bytes.fromhex(digest) in self._places

    def info(self, digest: str) -> dict[str, Any] | None:
        """Return the info of a record without its members; None where there is no whole one."""
        return self._read(digest, read_info)

    def find(self, digest: str) -> Record | None:
        """Return a record, each member checked; None where there is no whole one."""
        return self._read(digest, read_record)

    def read_back(self, digest: str) -> Record:
        """Return a record that was just added; SampleStoreError where the disk doesn't hold it."""
        record = self.find(digest)
        if record is None:
            raise SampleStoreError(
                f"a record that was just written to {self.folder} can't be read; check the disk, "
                "then run the same command again"
            )
        return record

    def add(self, digest: str, record: Record) -> None:
        """Append a record; it is safe from a kill or power cut after the next `commit`.

        Args:
            digest: 32 hexadecimal digits. A record that has the digest already is replaced.
            record: its info must be JSON-ready.

        Raises:
            StorageError: the disk is full or not writable. All records added before are committed.
        """
        data = encode_record(bytes.fromhex(digest), record)
        if self._segment is not None and self._segment_end + len(data) > _SEGMENT_BYTES:
            self._close_segment()
        if self._segment is None:
            self._begin_segment()
        assert self._segment is not None
        path, fd = self._segment
        try:
            write_at(fd, data, offset=self._segment_end)
        except OSError:
            os.ftruncate(fd, self._segment_end)
            self.commit()
            with self._storage_errors():
                raise
        self._places[bytes.fromhex(digest)] = (path, self._segment_end)
        self._segment_end += len(data)
        self._num_pending += 1

    def commit(self) -> None:
        """Have every record added so far on disk when this returns.

        Raises:
            StorageError: that fails.
        """
        if self._num_pending and self._segment is not None:
            with self._storage_errors():
                os.fsync(self._segment[1])
        self._num_committed += self._num_pending
        self._num_pending = 0

    def keep(
        self, published: Path, *, digests: Mapping[str, str], others: Iterable[str] = ()
    ) -> None:
        """Let the cache hold what a finished run published, and nothing else.

        A kill at any point leaves either what the cache held before or what it is to hold.

        Args:
            published: a finished sample store.
            digests: the digest of each of its samples, by key; without any, nothing is held.
            others: digests of records without a sample that are to be held too.

        Raises:
            StorageError: the disk is full or not writable.
        """
        with self._storage_errors():
            self._close_segment()
            earlier = sorted(self.folder.glob(_PUBLISHED))
            if digests:
                index = _index_of(earlier[-1]) + 1 if earlier else 0
                fresh = self.folder / f"published-{index:05d}"
                fresh.mkdir()
                for shard in sorted(published.glob("shard-*.tar")):
                    _link(shard, fresh / shard.name)
                unfinished = fresh / f"{_RECORDS}.tmp"
                with unfinished.open("wb") as file:
                    for data in self._published_records(published, digests, others):
                        file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                unfinished.replace(fresh / _RECORDS)
                sync_folder(fresh)
            for folder in earlier:
                shutil.rmtree(folder)
            for segment in self.folder.glob(_ADDED):
                segment.unlink()
            self._find_records()

    def retain(self, digests: Iterable[str]) -> None:
        """Delete the added records that have none of these digests.

        Files of which some records stay are written again, one after the other, so that takes as
        much free space as the largest of them. A kill leaves every record that is to stay.

        Raises:
            StorageError: the disk is full or not writable.
        """
        wanted = {bytes.fromhex(digest) for digest in digests}
        with self._storage_errors():
            self._close_segment()
            for path in sorted(self.folder.glob(_ADDED)):
                held = {digest for digest, place in self._places.items() if place[0] == path}
                if held and held <= wanted:
                    continue
                for digest in sorted(held & wanted, key=lambda d: self._places[d][1]):
                    record = self.find(digest.hex())
                    if record is not None:
                        self.add(digest.hex(), record)
                self._close_segment()
                path.unlink()
            self._find_records()

    def close(self) -> None:
        """Commit, and let other processes open the folder."""
        try:
            self._close_segment()
        finally:
            os.close(self._lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Commit what was added, also when an error passes through: every record is whole."""
        self.close()

    def _find_records(self) -> None:
        """Learn where every record lies; a later one replaces an earlier one of its digest."""
        self._places = {}
        files = []
        for folder in sorted(self.folder.glob(_PUBLISHED)):
            if (folder / _RECORDS).is_file():
                files.append(folder / _RECORDS)
            else:
                shutil.rmtree(folder)  # a run was killed while it kept what it had published
        for path in [*files, *sorted(self.folder.glob(_ADDED))]:
            try:
                scan = scan_records(path)
            except OSError as error:
                logger.warning("%s can't be read and is not used: %s", path, error)
                continue
            if scan.lost_bytes:
                logger.warning(
                    "%d bytes of %s are no whole record and are not used", scan.lost_bytes, path
                )
            self._places |= {digest: (path, offset) for digest, offset in scan.offsets}

    def _read(self, digest: str, reader: Callable[[Path, int], Result]) -> Result | None:
        place = self._places.get(bytes.fromhex(digest))
        if place is None:
            return None
        try:
            return reader(*place)
        except (DamagedRecordError, OSError) as error:
            logger.warning("a record of %s can't be used and is made again: %s", place[0], error)
            del self._places[bytes.fromhex(digest)]
            return None

    def _published_records(
        self, published: Path, digests: Mapping[str, str], others: Iterable[str]
    ) -> Iterator[bytes]:
        """Yield references to the samples of a store, then copies of the other records."""
        columns = ["key", "shard"] + [
            f"{member}_{part}" for member in MEMBERS for part in ("bytes", "crc32", "offset")
        ]
        for batch in pq.ParquetFile(published / INDEX).iter_batches(10_000, columns=columns):
            for row in batch.to_pylist():
                digest = digests[row["key"]]
                info = self.info(digest)
                if info is None:
                    continue  # damaged since it was read
                extents = [
                    Extent(m, row[f"{m}_bytes"], row[f"{m}_crc32"], row[f"{m}_offset"])
                    for m in MEMBERS
                    if row[f"{m}_bytes"]
                ]
                yield encode_reference(
                    bytes.fromhex(digest), info, file=row["shard"], extents=extents
                )
        for digest in others:
            record = self.find(digest)
            if record is not None:
                yield encode_record(bytes.fromhex(digest), record)

    def _begin_segment(self) -> None:
        segments = sorted(self.folder.glob(_ADDED))
        index = _index_of(segments[-1]) + 1 if segments else 0
        path = self.folder / f"records-{index:05d}"
        with self._storage_errors():
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
            self._segment, self._segment_end = (path, fd), 0
            sync_folder(self.folder)

    def _close_segment(self) -> None:
        if self._segment is not None:
            try:
                self.commit()
            finally:
                os.close(self._segment[1])
                self._segment = None

    def _storage_errors(self) -> AbstractContextManager[None]:
        committed = f" ({self._num_committed} records of this run)" if self._num_committed else ""
        return storage_errors(self.folder, remains=f"What was committed there is kept{committed}.")


def count_added(folder: Path) -> int:
    """Return how many records were added to a cache since the last `keep`.

    Takes no lock, so it may be asked while another process adds records.
    """
    count = 0
    for path in folder.glob(_ADDED):
        with suppress(FileNotFoundError):  # `keep` has just deleted it
            count += len(scan_records(path).offsets)
    return count


def _index_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without hard links
        shutil.copyfile(source, target)
