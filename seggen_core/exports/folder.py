"""The folder of an export, finished or absent, and JSON files that grow item by item."""

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO

from seggen_core.errors import ConfigError
from seggen_core.project.storage import storage_errors
from seggen_core.store.files import open_locked, sync_folder

ABOUT = "seggen_export.json"
"""What an export says about itself; a folder that has it may be replaced."""


def check_out(out: Path, *, force: bool) -> None:
    """Raise ConfigError where `out` is taken by something that mustn't be replaced.

    Args:
        out: where the export goes.
        force: replace an earlier export there.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / ABOUT).is_file():
        raise ConfigError(
            f"{out} exists and is no earlier export (it has no {ABOUT}), so it isn't replaced; "
            "choose another --out or delete it yourself"
        )
    if not force:
        raise ConfigError(f"{out} exists; --force replaces it")


@contextmanager
def unfinished_folder(out: Path, *, force: bool) -> Iterator[Path]:
    """Yield an empty folder beside `out`; it becomes `out` if nothing fails, else it is deleted.

    What a killed export left there is deleted first.

    Raises:
        ConfigError: as `check_out`.
        SampleStoreError: another process exports to `out`.
        StorageError: the disk is full or not writable.
    """
    check_out(out, force=force)
    folder = out.with_name(f".{out.name}.unfinished")
    lock = out.with_name(f".{out.name}.lock")
    with storage_errors(out, remains="Nothing of the export is kept."):
        out.parent.mkdir(parents=True, exist_ok=True)
        with _locked(lock):
            try:
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                yield folder
                check_out(out, force=force)
                _replace(folder, out)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)
                raise


@contextmanager
def _locked(lock: Path) -> Iterator[None]:
    descriptor = open_locked(lock)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _replace(folder: Path, out: Path) -> None:
    """Move a finished folder to `out`; an earlier one goes only once the new one is in place."""
    if not out.exists():
        folder.replace(out)
    else:
        earlier = out.with_name(f".{out.name}.earlier")
        shutil.rmtree(earlier, ignore_errors=True)
        out.replace(earlier)
        folder.replace(out)
        shutil.rmtree(earlier, ignore_errors=True)
    sync_folder(out.parent)


class GrowingJson:
    """A JSON object whose lists are written item by item, so that no list is ever in memory.

    In {"info": ..., "images": [...], "annotations": [...]} the lists grow side by side, each in a
    file of its own, and are joined at the end.
    """

    def __init__(self, path: Path, *, lists: Sequence[str]) -> None:
        """Begin the lists in files beside `path`.

        Args:
            path: the file to be.
            lists: names of the lists, in the order in which they stand in the file.
        """
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self._parts: dict[str, TextIO] = {}
        self._counts = dict.fromkeys(lists, 0)
        for name in lists:
            part = path.with_name(f"{path.name}.{name}")
            self._parts[name] = part.open("w", encoding="utf-8")

    def append(self, name: str, item: Any) -> None:
        """Append one JSON-ready item to a list."""
        separator = ",\n" if self._counts[name] else ""
        self._parts[name].write(separator + json.dumps(item, ensure_ascii=False, allow_nan=False))
        self._counts[name] += 1

    def finish(self, head: Mapping[str, Any] | None) -> None:
        """Write the file: the items of `head`, then the lists.

        Args:
            head: JSON-ready; None writes the only list by itself, without an object around it.
        """
        for part in self._parts.values():
            part.close()
        with self._path.open("w", encoding="utf-8") as file:
            if head is not None:
                file.write("{\n")
                for name, value in head.items():
                    file.write(f"{json.dumps(name)}: {json.dumps(value, ensure_ascii=False)},\n")
            for index, name in enumerate(self._parts):
                label = "" if head is None else f"{json.dumps(name)}: "
                file.write((",\n" if index else "") + label + "[\n")
                items = self._path.with_name(f"{self._path.name}.{name}")
                with items.open(encoding="utf-8") as lines:
                    shutil.copyfileobj(lines, file)
                items.unlink()
                file.write("\n]")
            file.write("\n" if head is None else "\n}\n")

    def close(self) -> None:
        """Give up the files."""
        for part in self._parts.values():
            part.close()
