"""Moves finished results to their places, writes and reads JSON."""

import errno
import json
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def publish(finished: Path, out: Path) -> Path:
    """Move a finished file or folder to `out`, replace an older one, and return `out`.

    They may lie on different disks. A kill or a full disk leaves no part of a result at `out`. All
    files become readable by others as far as the umask allows: safetensors writes weights with mode
    0600, which a colleague on a shared disk could not read.

    Raises:
        OSError: `out` can't be replaced or written.
    """
    _share(finished)
    if out.is_dir() and not out.is_symlink():
        try:
            shutil.rmtree(out)
        except OSError as error:  # it names a file without its folder
            raise OSError(error.errno, error.strerror, str(out)) from error
    elif finished.is_dir():
        out.unlink(missing_ok=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        finished.replace(out)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _move_to_other_disk(finished, out)
    return out


def _share(finished: Path) -> None:
    """Let others read a file, or the files of a folder, as the umask says."""
    umask = os.umask(0)
    os.umask(umask)
    files = finished.rglob("*") if finished.is_dir() else [finished]
    for file in files:
        if file.is_file() and not file.is_symlink():
            mode = stat.S_IMODE(file.stat().st_mode)
            readable = mode | (0o444 & ~umask)
            if mode != readable:
                file.chmod(readable)


def _move_to_other_disk(finished: Path, out: Path) -> None:
    """Copy to a hidden place beside `out`, rename, and delete the original."""
    unfinished = out.with_name(f".{out.name}.unfinished")
    delete(unfinished)  # a killed run may have left it
    try:
        if finished.is_dir():
            shutil.copytree(finished, unfinished)
        else:
            shutil.copy2(finished, unfinished)
        unfinished.replace(out)
    except BaseException:
        with suppress(OSError):
            delete(unfinished)
        raise
    delete(finished)


def delete(place: Path) -> None:
    """Delete a file, a folder or a link; nothing where there is none."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON-ready value, readable by people; ValueError for NaN or an infinity."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: "Path | Traversable") -> Any:
    """Read a JSON file in UTF-8; ValueError for a file that is no JSON."""
    return json.loads(path.read_text(encoding="utf-8"))
