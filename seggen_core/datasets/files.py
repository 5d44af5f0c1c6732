"""Which files a sample has.

Folders are listed by key and counterparts are looked up. Doubled files, links out of the root and
whatever is no regular file are refused.
"""

import os
import stat
import unicodedata
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path

from seggen_core.datasets.packed import PackedFile
from seggen_core.datasets.sample import CHECK
from seggen_core.errors import DatasetError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png")
MASK_SUFFIXES = (".png",)

MAX_TEXT_BYTES = 1 << 26
"""Largest list of samples that is read: 64 MiB."""

MAX_SAMPLES = 1 << 22
"""Most samples of a list, and files of a folder: four million, half a gigabyte of names."""

_MAX_NAMED = 3
_MAX_NAME_LENGTH = 300


@dataclass(frozen=True)
class FileListing:
    """The files of one kind, by key.

    Attributes:
        kind: what they are, in messages ("mask").
        folder: where they are.
        suffixes: lower-case suffixes that count.
        ending: what follows the key in a file name, before the suffix ("_gtFine_labelIds").
        names: paths below `folder`; a key with several files is ambiguous.
    """

    kind: str
    folder: Path
    suffixes: Sequence[str]
    ending: str = ""
    names: dict[str, str | tuple[str, ...]] = field(default_factory=dict)

    def __contains__(self, key: object) -> bool:
        return key in self.names

    def paths(self, key: str) -> list[Path]:
        """Return the files of `key`; an empty list if there is none."""
        names = self.names.get(key, ())
        return [self.folder / name for name in ((names,) if isinstance(names, str) else names)]

    def only(self, key: str, *, root: Path, counterpart: Path | None) -> Path:
        """Return the file of `key`.

        Args:
            key: of the sample.
            root: of the dataset.
            counterpart: the sample's other file, for the message.

        Raises:
            DatasetError: the file is missing, doubled or lies outside of `root`.
        """
        paths = self.paths(key)
        for path in (*paths, *([] if counterpart is None else [counterpart])):
            _check_name(path)
        if not paths:
            raise DatasetError(
                f"{counterpart or f'sample {brief(key)}'} has no {self.kind}; expected "
                f"{brief(key)}{self.ending}{'|'.join(self.suffixes)} in {self.folder}"
                f"{self._similar(key)} {CHECK}"
            )
        if len(paths) > 1:
            names = ", ".join(str(path.relative_to(self.folder)) for path in paths)
            raise DatasetError(
                f"{self.folder} has {len(paths)} {self.kind}s called {key} ({names}); expected "
                "one: rename or remove the others"
            )
        return inside(paths[0], root=root)

    def _similar(self, key: str) -> str:
        """Name the files that look as if they were meant for `key`, and why they don't count."""
        wanted = _file_key(key)
        start = bisect_left(self._all_names, (wanted, ""))
        reasons: list[str] = []
        for folded, name in self._all_names[start:]:
            if not folded.startswith(wanted) or len(reasons) == _MAX_NAMED:
                break
            if not folded[len(wanted) : len(wanted) + 1].isalnum():
                reasons.append(f"{brief(name)} {self._why_not(name, key=key)}")
        if reasons:
            return f"; found there: {', '.join(reasons)}"
        if not self._all_names:
            return ", which holds no file"
        others = (name for folded, name in self._all_names if not folded.startswith(wanted))
        first = ", ".join(brief(name) for name in islice(others, _MAX_NAMED))
        return f", which holds no file called so, but {first}" if first else ""

    def _why_not(self, name: str, *, key: str) -> str:
        stem, _, suffix = name.rpartition(".")
        if normal(name).rpartition("/")[2] == key.rpartition("/")[2]:
            return "(the list of samples has its suffix; expected the name without it)"
        if f".{suffix.lower()}" not in self.suffixes:
            return f"(.{suffix} is no suffix that is read for {self.kind}s)"
        if not stem.endswith(self.ending):
            return f"(doesn't end in {self.ending})"
        if normal(stem).rpartition("/")[2] != key.rpartition("/")[2] + self.ending:
            return "(another name: upper and lower case differ, or more follows)"
        return "(in another folder)"

    @cached_property
    def _all_names(self) -> list[tuple[str, str]]:
        """Every file below the folder with its folded name, sorted. Messages alone need it."""
        names = _walk(self.folder, below="", depth=_MAX_DEPTH)
        return sorted((_file_key(name), name) for name in names)


def printable(text: str) -> str:
    """Write a text for a message: what no console should get, as an escape."""
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)


def _check_name(path: Path) -> None:
    """Raise DatasetError where a file's name is no text, so that nothing could name the sample."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DatasetError(
            f"{printable(str(path))} has a name that isn't UTF-8, as archives of other systems "
            f"have them; expected UTF-8: rename the sample's files (convmv does that) {CHECK}"
        ) from None


def brief(name: object) -> str:
    """Write a name for a message, as `printable` and `cut` do."""
    return cut(printable(str(name)))


def cut(text: str) -> str:
    """Return a text, or its start: files may hold names of any length."""
    return text if len(text) <= _MAX_NAME_LENGTH else f"{text[:_MAX_NAME_LENGTH]}..."


def inside(path: Path, *, root: Path) -> Path:
    """Return `path`; DatasetError if a link, or dots in a list of files, leads out of `root`."""
    try:
        is_inside = path.resolve().is_relative_to(root.resolve())
    # RuntimeError is Python 3.11's word for a loop, ValueError a name that no file can have.
    except (OSError, RuntimeError, ValueError) as error:
        raise DatasetError(
            f"{brief(path)} can't be followed ({brief(error)}); expected a file or a link to one "
            f"{CHECK}"
        ) from None
    if not is_inside:
        raise DatasetError(
            f"{brief(path)} is a link out of {root}; expected a file inside it: copy the file "
            f"there {CHECK}"
        )
    return path


def is_file(path: Path) -> bool:
    """Return whether there is a regular file at `path`, also where the name can't be one."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def regular_size(path: Path | PackedFile) -> int:
    """Return the bytes of a regular file, without opening it: a FIFO would wait for a writer.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        DatasetError: it is a folder, FIFO, device or socket, or a link in a circle.
    """
    if isinstance(path, PackedFile):
        return len(path.data)
    try:
        status = path.stat()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DatasetError(f"{path} can't be read ({error.strerror}); expected a file") from None
    if not stat.S_ISREG(status.st_mode):
        raise DatasetError(
            f"{path} is a {_kind_of(status.st_mode)}; expected a regular file: replace it {CHECK}"
        )
    return status.st_size


def _kind_of(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def read_text(path: Path, *, expected: str, max_bytes: int = MAX_TEXT_BYTES) -> str:
    """Return the text of a class list or a list of samples.

    Args:
        path: the file.
        expected: what it should hold and what to do, in messages.
        max_bytes: largest file that is read.

    Raises:
        DatasetError: the file is missing, no regular file, larger than `max_bytes`, or isn't UTF-8.
    """
    try:
        size = regular_size(path)
        if size > max_bytes:
            raise DatasetError(f"{path} has {size} bytes; expected at most {max_bytes}: {expected}")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing; expected {expected} ({describe_folder(path.parent)})"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(
            f"{path} can't be read as UTF-8 text: {error}; expected {expected}"
        ) from None


def normal(key: str) -> str:
    """Return `key` in Unicode's composed form.

    macOS archives decompose names, so the files of a pair may differ in it.
    """
    if key.isascii():
        return key
    # A name that isn't UTF-8 has halves of characters, which no file and no console can hold.
    return unicodedata.normalize("NFC", key).encode("utf-8", "backslashreplace").decode()


def _file_key(name: str) -> str:
    """Return the last part of a path as names are compared in messages: composed, lower case."""
    return normal(name.rpartition("/")[2]).casefold()


def posix(name: str) -> str:
    """Return a path of an annotation file with slashes; tools on Windows write backslashes."""
    return name.replace("\\", "/")


_MAX_DEPTH = 32
"""Folders below a folder that are looked at."""
_ENDING_MARKS = "_-. "
_DEPTHS = {"none": 0, "flat": 1, "keyed": _MAX_DEPTH}


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
        DatasetError: the folder is missing or can't be listed.
    """
    if not folder.is_dir():
        raise DatasetError(
            f"{folder} is missing; expected a folder with {', '.join(suffixes)} files: check "
            f"dataset.root and dataset.files ({describe_folder(folder)})"
        )
    listing = FileListing(kind, folder, suffixes, ending)
    for index, name in enumerate(_walk(folder, below="", depth=_DEPTHS[subfolders])):
        if index == MAX_SAMPLES:
            raise DatasetError(
                f"{folder} holds more than {MAX_SAMPLES} files, links to folders followed; "
                "expected fewer: split the dataset, or remove the links"
            )
        stem, dot, suffix = name.rpartition(".")
        if dot and f".{suffix.lower()}" in suffixes and stem.endswith(ending):
            key = stem[: len(stem) - len(ending)]
            key = normal(key.rpartition("/")[2] if subfolders == "flat" else key)
            others = listing.names.get(key, ())
            others = (others,) if isinstance(others, str) else others
            listing.names[key] = (*others, name) if others else name
    return listing


def common_ending(masks: FileListing, images: FileListing) -> str:
    """Return what follows the image's name in the names of most masks: "_mask"; "" if nothing does.

    It starts with "_", "-", "." or a space. Images and masks may lie in one folder.
    """
    is_one_folder = masks.folder == images.folder
    if not is_one_folder and not masks.names.keys().isdisjoint(images.names):
        return ""
    counts: Counter[str] = Counter()
    for key in masks.names:
        marks = (i for i in range(len(key) - 1, 0, -1) if key[i] in _ENDING_MARKS)
        counts.update(key[i:] for i in marks if key[:i] in images.names)
    (ending, count), (_, second) = [*counts.most_common(2), ("", 0), ("", 0)][:2]
    num_expected = len(images.names) - count if is_one_folder else len(masks.names)
    return ending if count > second and 2 * count >= num_expected else ""


def without(listing: FileListing, *, endings: Sequence[str]) -> FileListing:
    """Return `listing` without the keys that have one of `endings`: masks beside their images."""
    names = {k: v for k, v in listing.names.items() if not k.endswith(tuple(endings))}
    return replace(listing, names=names)


def _walk(
    folder: Path, *, below: str, depth: int, above: frozenset[tuple[int, int]] = frozenset()
) -> Iterator[str]:
    """Yield the names of files at most `depth` folders down, sorted.

    A link to a folder above it, `above` (device and inode), is not followed.
    """
    try:
        status = (folder / below).stat()
        this = (status.st_dev, status.st_ino)
        if this in above:
            return
        with os.scandir(folder / below) as entries:
            visible = sorted((e.name, _is_folder(e)) for e in entries if e.name[0] != ".")
    except OSError as error:
        raise DatasetError(f"{folder / below} can't be listed: {error.strerror}") from None
    for name, is_folder in visible:
        if not is_folder:
            yield f"{below}{name}"
        elif depth:
            yield from _walk(folder, below=f"{below}{name}/", depth=depth - 1, above=above | {this})


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link in a circle; whoever opens it learns why
        return False


def describe_folder(folder: Path) -> str:
    """Return in words what lies in a folder, or in the nearest one above it that exists.

    Messages about something missing show with it what is there instead.
    """
    nearest = next((f for f in (folder, *folder.parents) if f.is_dir()), Path())
    folders: list[str] = []
    suffixes: Counter[str] = Counter()
    try:
        with os.scandir(nearest) as entries:
            for entry in entries:
                if _is_folder(entry):
                    folders.append(entry.name)
                else:
                    suffixes[Path(entry.name).suffix or "without suffix"] += 1
    except OSError as error:
        return f"{nearest} can't be listed: {error.strerror}"
    parts = [f"{count} {suffix}" for suffix, count in suffixes.most_common(_MAX_NAMED)]
    parts = [f"{suffixes.total()} file(s): {', '.join(parts)}"] if parts else []
    if folders:
        more = ", ..." if len(folders) > 2 * _MAX_NAMED else ""
        parts.append(f"folders {', '.join(sorted(folders)[: 2 * _MAX_NAMED])}{more}")
    return f"{nearest} holds {' and '.join(parts) or 'nothing'}"


def read_key_list(path: Path) -> list[str]:
    """Read a list of samples, one key a line, as VOC's ImageSets have them.

    Raises:
        DatasetError: the file is missing, unreadable or empty, or names a sample twice.
    """
    text = read_text(path, expected="a list of samples, one name a line: check dataset.root")
    num_lines = text.count("\n") + 1
    if num_lines > MAX_SAMPLES:
        raise DatasetError(f"{path} has {num_lines} lines; expected at most {MAX_SAMPLES} names")
    keys = [normal(line.strip()) for line in text.split("\n") if line.strip()]
    if not keys:
        raise DatasetError(f"{path} names no sample; expected one name a line")
    repeated = [key for key, count in Counter(keys).items() if count > 1]
    if repeated:
        raise DatasetError(
            f"{path} names {repeated[0]} twice; expected each sample once: remove one of the lines"
        )
    return keys
