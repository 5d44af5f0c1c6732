"""Record files: named bytes under a digest, appended one record after the other.

A record file is a sequence of records, each whole or worthless:

    header        40 bytes, little-endian: "SGRC", digest [16], length and CRC-32 of the
                  description, length of the members, CRC-32 of these 36 bytes
    description   JSON: {"info": ..., "members": [[name, length, CRC-32], ...]}
    members       their bytes, one after the other

The members of a record may lie in another file instead. Its description then has "file", a name
relative to the folder of the record file, and an offset at the end of each member's entry.
"""

import io
import json
import os
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

MAGIC = b"SGRC"
_HEADER = struct.Struct("<4s16sIIQ")
_CHECKSUM = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CHECKSUM.size
_CHUNK = 1 << 20


class DamagedRecordError(ValueError):
    """A record doesn't have the bytes that its checksums say."""


@dataclass(frozen=True)
class Record:
    """What is known under one digest.

    Attributes:
        info: JSON-ready.
        members: file contents by name, in the order they are stored in.
    """

    info: dict[str, Any]
    members: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Extent:
    """Where a member lies that is stored outside of the record file."""

    name: str
    length: int
    crc32: int
    offset: int


@dataclass(frozen=True)
class Scan:
    """The whole records of a file.

    Attributes:
        offsets: (digest, offset of the record), in the order they were written.
        lost_bytes: bytes that belong to no whole record: damage, or the torn end that a killed
            writer leaves.
    """

    offsets: list[tuple[bytes, int]]
    lost_bytes: int


def pack_array(array: np.ndarray) -> bytes:
    """Return an array as a member: the bytes of an .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def unpack_array(data: bytes) -> np.ndarray:
    """Inverse of `pack_array`."""
    return np.load(io.BytesIO(data), allow_pickle=False)


def encode_record(digest: bytes, record: Record) -> bytes:
    """Return the bytes of a record that holds its members."""
    members = [[name, len(data), zlib.crc32(data)] for name, data in record.members.items()]
    body = b"".join(record.members.values())
    return _frame(digest, {"info": record.info, "members": members}, len(body)) + body


def encode_reference(
    digest: bytes, info: Mapping[str, Any], *, file: str, extents: list[Extent]
) -> bytes:
    """Return the bytes of a record whose members lie in `file`."""
    members = [[e.name, e.length, e.crc32, e.offset] for e in extents]
    return _frame(digest, {"info": info, "file": file, "members": members}, 0)


def _frame(digest: bytes, description: Mapping[str, Any], num_bytes: int) -> bytes:
    text = json.dumps(description, ensure_ascii=False, allow_nan=False).encode()
    header = _HEADER.pack(MAGIC, digest, len(text), zlib.crc32(text), num_bytes)
    return header + _CHECKSUM.pack(zlib.crc32(header)) + text


def scan_records(path: Path) -> Scan:
    """Find the records of a file by their headers alone; OSError where it can't be read.

    The bytes after the headers are checked when a record is read.
    """
    offsets: list[tuple[bytes, int]] = []
    position, whole_bytes = 0, 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            header = _read_header(file.fileno(), position)
            if header is None or position + header.num_bytes > size:
                position = _find_magic(file.fileno(), position + 1, size=size)
                continue
            offsets.append((header.digest, position))
            position += header.num_bytes
            whole_bytes += header.num_bytes
    return Scan(offsets, size - whole_bytes)


def read_info(path: Path, offset: int) -> dict[str, Any]:
    """Return the info of the record at `offset`, without reading its members.

    Raises:
        DamagedRecordError: it isn't the record that was written.
        OSError: the file can't be read.
    """
    with path.open("rb", buffering=0) as file:
        return _read_description(file.fileno(), offset)[0]["info"]


def read_record(path: Path, offset: int) -> Record:
    """Return the record at `offset` with its members, each checked against its CRC-32.

    Raises:
        DamagedRecordError, OSError: as `read_info`, and for the file that the members lie in.
    """
    with path.open("rb", buffering=0) as file:
        description, position = _read_description(file.fileno(), offset)
        if "file" not in description:
            members = _read_members(file.fileno(), description["members"], position)
            return Record(description["info"], members)
    with (path.parent / description["file"]).open("rb", buffering=0) as file:
        members = _read_members(file.fileno(), description["members"], 0)
    return Record(description["info"], members)


def _read_members(fd: int, entries: list[list[Any]], position: int) -> dict[str, bytes]:
    """Read members one after the other from `position`, or each at the offset in its entry."""
    members = {}
    for name, length, crc32, *offset in entries:
        data = os.pread(fd, length, offset[0] if offset else position)
        if len(data) != length or zlib.crc32(data) != crc32:
            raise DamagedRecordError(f"the {length} bytes of {name!r} are damaged")
        members[name] = data
        position += length
    return members


class _Header(NamedTuple):
    digest: bytes
    text_bytes: int
    text_crc32: int
    member_bytes: int

    @property
    def num_bytes(self) -> int:
        """Length of the record."""
        return HEADER_BYTES + self.text_bytes + self.member_bytes


def _read_header(fd: int, offset: int) -> _Header | None:
    """Return the header at `offset`; None where there is none, or a damaged one."""
    data = os.pread(fd, HEADER_BYTES, offset)
    if len(data) != HEADER_BYTES or data[:4] != MAGIC:
        return None
    if zlib.crc32(data[: _HEADER.size]) != _CHECKSUM.unpack(data[_HEADER.size :])[0]:
        return None
    return _Header(*_HEADER.unpack(data[: _HEADER.size])[1:])


def _find_magic(fd: int, start: int, *, size: int) -> int:
    """Return where the next header may begin, from `start` on; `size` where none does."""
    while start < size:
        place = os.pread(fd, _CHUNK + len(MAGIC) - 1, start).find(MAGIC)
        if place >= 0:
            return start + place
        start += _CHUNK
    return size


def _read_description(fd: int, offset: int) -> tuple[dict[str, Any], int]:
    """Return the description of the record at `offset`, and where its members begin."""
    header = _read_header(fd, offset)
    if header is not None:
        text = os.pread(fd, header.text_bytes, offset + HEADER_BYTES)
        if len(text) == header.text_bytes and zlib.crc32(text) == header.text_crc32:
            return json.loads(text), offset + HEADER_BYTES + len(text)
    raise DamagedRecordError(f"the record at byte {offset} is damaged")
