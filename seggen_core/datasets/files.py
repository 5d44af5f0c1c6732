"""Which files a sample has: folders listed by key, counterparts found, duplicates and links out of the root refused."""

import os
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from seggen_core.datasets.decode import CHECK
from seggen_core.errors import DatasetError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png",)


@dataclass(frozen=True)
class FileListing:
    """The files of one kind, by key.

    Attributes:
        kind: what they are, in messages ("mask").
        folder: where they are.
        ending: what follows the key in a file name, before the suffix ("_gtFine_labelIds").
        names: paths below `folder`; a key with several files is ambiguous.
    """

    kind: str
    folder: Path
    ending: str = ""
    names: dict[str, str | tuple[str, ...]] = field(default_factory=dict)

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def paths(self, key: str) -> list[Path]:
        """Return the files of `key`; none where there are none."""
        names = self.names.get(key, ())
        return [self.folder / name for name in ((names,) if isinstance(names, str) else names)]

    def only(self, key: str, *, root: Path, counterpart: Path | None) -> Path:
        """Return the file of `key`; DatasetError where it is missing, doubled or lies outside of `root`."""
        found = self.paths(key)
        if not found:
            subject = f"{counterpart} has" if counterpart else f"sample {key} has"
            raise DatasetError(
                f"{subject} no {self.kind}; expected {key}{self.ending}.* in {self.folder} {CHECK}"
            )
        if len(found) > 1:
            names = ", ".join(str(path.relative_to(self.folder)) for path in found)
            raise DatasetError(
                f"{self.folder} has {len(found)} {self.kind}s called {key} ({names}); expected one: rename or remove the others"
            )
        return inside(found[0], root=root)


def inside(path: Path, *, root: Path) -> Path:
    """Return `path`; DatasetError where it leads out of `root`, by a link or by dots in a list of files."""
    if not path.resolve().is_relative_to(root.resolve()):
        raise DatasetError(
            f"{path} is a link out of {root}; expected a file inside it: copy the file there {CHECK}"
        )
    return path


def normal(key: str) -> str:
    """Return `key` in Unicode's composed form: macOS archives decompose names, so the files of a pair may differ in it."""
    return key if key.isascii() else unicodedata.normalize("NFC", key)


def list_files(
    folder: Path, *, kind: str, suffixes: Sequence[str], ending: str = "", subfolders: str = "none"
) -> FileListing:
    """List a folder; hidden files, other suffixes and other endings are not samples.

    Args:
        folder: what to list.
        kind: what the files are, in messages.
        suffixes: lower-case suffixes that count.
        ending: what a stem has to end in; it is no part of the key.
        subfolders: "none" takes the folder's own files; "flat" those of its subfolders too, keyed
            by stem alone; "keyed" those of all folders below it, keyed by their path without
            suffix.

    Raises:
        DatasetError: the folder is missing.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is missing; expected a folder with {', '.join(suffixes)} files: check dataset.root"
        )
    listing = FileListing(kind, folder, ending)
    depth = {"none": 0, "flat": 1, "keyed": 32}[subfolders]
    for name in _walk(folder, below="", depth=depth):
        stem, dot, suffix = name.rpartition(".")
        if dot and f".{suffix.lower()}" in suffixes and stem.endswith(ending):
            key = stem[: len(stem) - len(ending)]
            key = normal(key.rpartition("/")[2] if subfolders == "flat" else key)
            before = listing.names.get(key)
            listing.names[key] = (
                name
                if before is None
                else (*((before,) if isinstance(before, str) else before), name)
            )
    return listing


def _walk(folder: Path, *, below: str, depth: int) -> Iterator[str]:
    """Yield the names of files at most `depth` folders down, sorted; a link that leads in a circle ends at the depth."""
    with os.scandir(folder / below) as entries:
        found = sorted(
            (entry.name, entry.is_dir()) for entry in entries if not entry.name.startswith(".")
        )
    for name, is_folder in found:
        if not is_folder:
            yield f"{below}{name}"
        elif depth:
            yield from _walk(folder, below=f"{below}{name}/", depth=depth - 1)


def read_key_list(path: Path) -> list[str]:
    """Read a list of samples, one key a line, as VOC's ImageSets have them.

    Raises:
        DatasetError: the file is missing, unreadable or empty, or names a sample twice.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing; expected a list of samples, one name a line: check dataset.root"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} can't be read as UTF-8 text: {error}") from None
    keys = [normal(line.strip()) for line in lines if line.strip()]
    if not keys:
        raise DatasetError(f"{path} names no sample; expected one name a line")
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            raise DatasetError(
                f"{path} names {key} twice; expected each sample once: remove one of the lines"
            )
        seen.add(key)
    return keys
