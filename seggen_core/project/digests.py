"""Digests that identify results and their inputs."""

import hashlib
import json
import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from seggen_core.errors import ArtefactError

LARGE_BYTES = 1 << 24
"""Digests of files of at least this size are cached, because hashing them takes long."""


def json_digest(value: Any, *, length: int = 16) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:length]


def file_sha256(file: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def content_digest(path: Path, *, cache: Path | None = None, without: Collection[str] = ()) -> str:
    """Return an md5 of a file or folder.

    For a file it is the md5 of its bytes, which equals DVC's. For a sample store it is that of the
    manifest and the index, for any other folder that of its files.

    Args:
        path: file or folder.
        cache: folder with cached md5s of large files, by place, size and time; None caches none.
        without: names in the folder that don't count.

    Raises:
        ArtefactError: it is a FIFO or a device.
        FileNotFoundError: `path` does not exist.
    """
    if path.is_file():
        return _file_digest(path, cache=cache)
    if path.exists() and not path.is_dir():
        raise ArtefactError(
            f"{path} is neither a file nor a folder but a device, FIFO or socket; run: dvc "
            "checkout --force"
        )
    manifest = path / "manifest.json"
    members = [manifest, path / "index.parquet"] if manifest.is_file() else sorted(path.iterdir())
    counted = [m for m in members if m.exists() and m.name not in without]
    lines = [f"{m.name} {content_digest(m, cache=cache)}\n" for m in counted]
    return hashlib.md5("".join(lines).encode(), usedforsecurity=False).hexdigest()


def dvc_digest(path: Path, *, cache: Path | None = None) -> str:
    """Return the md5 that DVC records for a file or folder; that of a folder ends in ".dir".

    DVC hashes the sorted list of a folder's files with their md5s, as JSON.

    Args:
        path: file or folder.
        cache: as of `content_digest`.

    Raises:
        FileNotFoundError: `path` does not exist.
    """
    if not path.is_dir():
        return _file_digest(path, cache=cache)
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
    rows = [
        {"md5": _file_digest(files[name], cache=cache), "relpath": name} for name in sorted(files)
    ]
    text = json.dumps(rows, sort_keys=True).encode()
    return hashlib.md5(text, usedforsecurity=False).hexdigest() + ".dir"


def _file_digest(path: Path, *, cache: Path | None) -> str:
    stat = path.stat()
    note = None
    if cache is not None and stat.st_size >= LARGE_BYTES:
        identity = [str(path.resolve()), stat.st_ino, stat.st_size, stat.st_mtime_ns]
        note = cache / json_digest(identity)
        if note.is_file():
            return note.read_text(encoding="ascii")
    with path.open("rb") as handle:
        md5 = hashlib.file_digest(handle, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if note is not None:
        with suppress(OSError):  # a full disk costs time, not the digest
            note.parent.mkdir(parents=True, exist_ok=True)
            unfinished = note.with_suffix(f".{os.getpid()}")
            unfinished.write_text(md5, encoding="ascii")
            unfinished.replace(note)
    return md5
