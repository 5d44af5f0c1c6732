"""Recognises a disk that is full, not writable or failing, and writes files whole or not at all.

Libraries hide the system's error: safetensors and tokenizers raise exceptions of their own, numpy
says how many values it wrote, SQLite has a message. All of them are found here, in the whole chain
of causes, so that a full disk is one message everywhere.
"""

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from PIL import Image

_WRITING = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Codes that only writing meets."""
_ANY = (*_WRITING, errno.EACCES, errno.EPERM, errno.EIO)
"""Codes of a disk that can't be used, as far as nobody has said something better."""
_CODE_IN_TEXT = re.compile(r"(?:os error |\[[Ee]rrno )(\d+)")
"""How Rust (safetensors, tokenizers), pyarrow and `shutil.Error` tell the system's code."""
_NUMPY = re.compile(r"\d+ requested and \d+ written")
_TEXTS = {
    "database or disk is full": errno.ENOSPC,
    "disk I/O error": errno.EIO,
    "attempt to write a readonly database": errno.EROFS,
} | {os.strerror(code): code for code in _WRITING}

AGAIN = "then run the same command again"
_REMEDIES = {
    errno.EIO: f"Check the disk, {AGAIN}",
    errno.EROFS: f"Make it writable, {AGAIN}",
    errno.EACCES: f"Change its permissions or its owner, {AGAIN}",
    errno.EPERM: f"Change its permissions or its owner, {AGAIN}",
    errno.EFBIG: f"Free some space or raise the limit on the size of files, {AGAIN}",
    errno.ENOENT: "Name a file in a folder that exists",
    errno.ENOTDIR: "Name a file in a folder that exists",
    errno.EISDIR: "Name a file, not a folder",
}


def find_disk_error(error: BaseException) -> OSError | None:
    """Return what the disk reported behind an exception; None where it is of another kind.

    Returns:
        An OSError with `errno`, and with `filename` where an error of the chain names a file.
    """
    code, path, is_outer = None, None, True
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        path = path or _path(link)
        link_code = _code(link)
        if code is None and link_code in (_ANY if is_outer else _WRITING):
            code = link_code
        if link.__cause__ is not None:
            link = link.__cause__
        else:
            # What was handled before the exception need not be why it was raised.
            is_outer = False
            link = None if link.__suppress_context__ else link.__context__
    return None if code is None else OSError(code, os.strerror(code), path)


def describe_disk_error(error: OSError, *, root: Path) -> str:
    """Return the message for people: where, what, what is kept, and what to do.

    Args:
        error: as `find_disk_error` returns it.
        root: the project, named where the error names no file.
    """
    assert error.errno is not None
    where = f"use {error.filename}" if error.filename else f"write below {root} or to the output"
    return f"can't {where}: {error.strerror}. What was finished before is intact. {_remedy(error)}"


@contextmanager
def disk_errors(root: Path) -> Iterator[None]:
    """Turn any exception behind which a disk stands into a StorageError; others pass.

    Args:
        root: the project.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        if (disk_error := find_disk_error(error)) is None:
            raise
        raise StorageError(describe_disk_error(disk_error, root=root)) from error


@contextmanager
def storage_errors(folder: Path, *, remains: str) -> Iterator[None]:
    """Turn every error of writing into a StorageError that says what is safe and what to do.

    Args:
        folder: where the work lies, named where the error names no file.
        remains: a sentence on what an interrupted run keeps.
    """
    try:
        yield
    except StorageError:
        raise
    except Exception as error:
        disk_error = error if isinstance(error, OSError) else find_disk_error(error)
        if disk_error is None:
            raise
        raise StorageError(
            f"can't write {_path(disk_error) or folder}: {_reason(disk_error)}. {remains} "
            f"Free some space or make the folder writable, {AGAIN}"
        ) from error


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, unless they are there.

    Raises:
        ConfigError: there is a file in the way.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        above = next(place for place in (folder, *folder.parents) if place.exists())
        raise ConfigError(
            f"{above} is a file; expected a folder, or nothing, there: name another place"
        ) from None


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all, and the folders above it.

    Raises:
        ConfigError: a file lies where a folder is expected.
        StorageError: it can't be written.
    """
    make_folder(path.parent)
    with written_whole(path) as file:
        file.write_text(text, encoding="utf-8")


def save_png_whole(path: Path, picture: "Image.Image") -> None:
    """Save a picture as PNG whole or not at all, and the folders above it.

    Raises:
        ConfigError: a file lies where a folder is expected.
        StorageError: it can't be written.
    """
    make_folder(path.parent)
    with written_whole(path) as file:
        picture.save(file, format="PNG")


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a place beside `path` to write to, and move the file to `path` once it is written.

    So a full disk leaves what `path` held before. A device or a pipe is written to directly.

    Raises:
        StorageError: it can't be written.
    """
    target = path.resolve()  # a link stays a link
    is_special = path.exists() and not path.is_file()
    unfinished = path if is_special else target.with_name(f".{os.getpid()}-{target.name}")
    try:
        yield unfinished
        if not is_special:
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.replace(target)
    except Exception as error:
        if not is_special:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
        disk_error = error if isinstance(error, OSError) else find_disk_error(error)
        if disk_error is None:
            raise
        remains = "" if is_special else " It is as it was before."
        raise StorageError(
            f"can't write {path}: {_reason(disk_error)}.{remains} {_remedy(disk_error)}"
        ) from error


def _reason(error: OSError) -> str:
    return str(error) if error.errno is None else os.strerror(error.errno)


def _remedy(error: OSError) -> str:
    return _REMEDIES.get(error.errno or 0, f"Free some space, {AGAIN}")


def _code(error: BaseException) -> int | None:
    """Return the system's code in an exception, or in its text."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    text = str(error)
    if isinstance(error, OSError) and _NUMPY.search(text):
        return errno.ENOSPC
    for reported in map(int, _CODE_IN_TEXT.findall(text)):
        if reported in _WRITING:
            return reported
    return next((code for part, code in _TEXTS.items() if part in text), None)


def _path(error: BaseException) -> str | None:
    """Return the file that an error names; of a copy, the one that is written."""
    for name in ("filename2", "filename"):
        place = getattr(error, name, None)
        # `shutil.rmtree` names a file without its folder.
        if isinstance(place, str) and (Path(place).is_absolute() or os.path.lexists(place)):
            return place
    return None
