"""Large JSON files without holding them: the elements of top-level arrays, one by one.

COCO's annotation files have up to 860,000 objects in 450 MB; as Python objects they take gigabytes.
A reader keeps each element's place in the file (32 bytes, with what it belongs to) and parses it
again when its sample is read.

The scanning is ours because no library gives the places. On a 128 MB file of COCO instances and one
core, ijson 3.6 (yajl2_c) parses 77 MB/s without places; with an SQLite copy of the annotations in
their stead, 28 MB/s. This module parses 93 MB/s (Python's own C parser, element by element), in the
same 20 MB of memory, and takes what Python's parser takes, NaN among it.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seggen_core.datasets.files import describe_folder, regular_size
from seggen_core.datasets.strict_json import DECODER, parse_json
from seggen_core.errors import DatasetError

MAX_VALUE_BYTES = 1 << 24
"""Longest single value: 16 MiB. Parsed, a value takes up to twenty times its bytes."""

_CHUNK = 1 << 22
_SPACE = re.compile(r"[ \t\r\n]*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_EXPECTED = "expected COCO's JSON: one object of arrays"


@dataclass(frozen=True)
class Element:
    """One element of a top-level array."""

    array: str
    """Key of the array."""
    value: Any
    """The parsed element."""
    start: int
    """Byte where it starts in the file."""
    length: int
    """Its number of bytes."""


def check_file(path: Path) -> None:
    """Raise DatasetError where there is no regular file at `path`."""
    try:
        regular_size(path)
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing; {_EXPECTED}: check dataset.root and dataset.files "
            f"({describe_folder(path.parent)})"
        ) from None


def stream_arrays(path: Path, *, arrays: set[str]) -> Iterator[Element]:
    """Yield the elements of the named top-level arrays of a JSON object, in the order of the file.

    Memory is bounded by `MAX_VALUE_BYTES`, whatever the file's size.

    Raises:
        DatasetError: the file is missing, no regular file, or isn't such JSON: it is cut, goes on
            behind its end, names a key twice, nests too deep, or holds a value that is too long.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            yield from _Scanner(file, path=path).elements(arrays)
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error}") from None


def stream_list(path: Path, *, expected: str) -> Iterator[Element]:
    """Yield the elements of a JSON document that is one array; `Element.array` is "".

    Args:
        path: the file.
        expected: what it should be and what to do, in messages.

    Raises:
        DatasetError: as `stream_arrays`.
    """
    check_file(path)
    try:
        with path.open("rb") as file:
            yield from _Scanner(file, path=path, expected=expected).listed()
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error}") from None


def read_elements(path: Path, *, spans: Iterable[tuple[int, int]]) -> Iterator[Any]:
    """Parse elements again by their places, (start, length) in bytes.

    Raises:
        DatasetError: the file has changed since it was listed.
    """
    start = 0
    try:
        with path.open("rb") as file:
            for start, length in spans:
                file.seek(start)
                yield parse_json(file.read(length).decode())
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} has changed or can't be read at byte {start}: {error}; run again"
        ) from None


class _Scanner:
    """A window on the file.

    The window is decoded as Latin-1: a character is a byte, and JSON's own characters are ASCII in
    UTF-8 too. Values with other characters are decoded again as UTF-8.
    """

    def __init__(self, file: BinaryIO, *, path: Path, expected: str = _EXPECTED) -> None:
        self._file, self._path, self._expected = file, path, expected
        has_mark = file.read(len(_BYTE_ORDER_MARK)) == _BYTE_ORDER_MARK
        self._offset = len(_BYTE_ORDER_MARK) if has_mark else 0
        file.seek(self._offset)
        self._text, self._at = "", 0
        """The window, and the position in it; `_offset` is the window's place in the file."""

    def elements(self, arrays: set[str]) -> Iterator[Element]:
        """Walk the top-level object."""
        keys: set[str] = set()
        self._expect("{")
        ends = self._skip("}")
        while not ends:
            key = self._value()[0]
            if not isinstance(key, str) or key in keys:
                raise self._broken(f"{str(key)[:40]!r} is no key or stands there twice")
            keys.add(key)
            self._expect(":")
            if self._skip("["):
                for value, start, length in self._array():
                    if key in arrays:
                        yield Element(key, value, start, length)
            else:
                self._value()
            ends = self._ends("}")
        self._end("object")

    def listed(self) -> Iterator[Element]:
        """Walk a top-level array."""
        self._expect("[")
        for value, start, length in self._array():
            yield Element("", value, start, length)
        self._end("array")

    def _end(self, kind: str) -> None:
        if self._peek():
            raise self._broken(f"more follows behind the end of the {kind}")

    def _array(self) -> Iterator[tuple[Any, int, int]]:
        ends = self._skip("]")
        while not ends:
            yield self._value()
            ends = self._ends("]")

    def _value(self) -> tuple[Any, int, int]:
        """Parse the value at the position; return it with its place in the file."""
        self._peek()
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:  # perhaps because the value goes on
                if len(self._text) - self._at > MAX_VALUE_BYTES:
                    what = f"no value ends within {MAX_VALUE_BYTES} bytes ({error})"
                    raise self._broken(what) from None
                if not self._read():
                    raise self._broken(str(error)) from None
                continue
            except (ValueError, RecursionError) as error:
                raise self._broken(str(error)) from None
            # A number may go on behind the window.
            if end < len(self._text) or not self._read():
                break
        text = self._text[self._at : end]
        if not text.isascii():
            try:
                value = parse_json(text.encode("latin-1").decode())
            except ValueError as error:
                raise self._broken(str(error)) from None
        start = self._offset + self._at
        self._at = end
        return value, start, len(text)

    def _peek(self) -> str:
        """Skip space and return the next character; "" at the end of the file."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text) or not self._read():
                return self._text[self._at : self._at + 1]

    def _skip(self, character: str) -> bool:
        """Go past `character` if it is the next one."""
        is_next = self._peek() == character
        self._at += is_next
        return is_next

    def _expect(self, character: str) -> None:
        if not self._skip(character):
            raise self._broken(f"found {self._peek() or 'the end'!r}, not {character!r}")

    def _ends(self, character: str) -> bool:
        """Return whether an object or array ends with `character` here; if not, go past a comma."""
        if self._skip(character):
            return True
        self._expect(",")
        return False

    def _read(self) -> bool:
        """Drop what is done, add a chunk at least as long as the rest; False if the file ends."""
        rest = self._text[self._at :]
        data = self._file.read(max(_CHUNK, len(rest)))
        if not data:
            return False
        self._offset += self._at
        self._text, self._at = rest + data.decode("latin-1"), 0
        return True

    def _broken(self, what: str) -> DatasetError:
        return DatasetError(
            f"{self._path} is not valid at byte {self._offset + self._at}: {what}; "
            f"{self._expected}: copy it again"
        )
