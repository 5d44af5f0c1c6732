"""Large JSON files without holding them: the elements of top-level arrays one by one, each with its place in the file.

COCO's annotation files have up to 860,000 objects in 450 MB; as Python objects they take gigabytes.
A reader keeps the places (32 bytes each, with what they belong to) and parses an object again when
its sample is read.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from seggen_core.errors import DatasetError

_CHUNK = 4 << 20
_SPACE = re.compile(r"[ \t\r\n]*")
_EXPECTED = "expected COCO's JSON: one object of arrays"


@dataclass(frozen=True)
class Element:
    """One element of a top-level array.

    Attributes:
        array: key of the array.
        value: the parsed element.
        start, length: its bytes in the file.
    """

    array: str
    value: Any
    start: int
    length: int


def stream_arrays(path: Path, *, arrays: set[str]) -> Iterator[Element]:
    """Yield the elements of the named top-level arrays of a JSON object, in the order of the file.

    Memory is bounded by the largest single element, and by the largest top-level value that is no
    array.

    Raises:
        DatasetError: the file is missing or isn't such JSON.
    """
    try:
        with path.open("rb") as file:
            yield from _Scanner(file, path=path).elements(arrays)
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing; {_EXPECTED}: check dataset.root and dataset.files"
        ) from None
    except OSError as error:
        raise DatasetError(f"{path} can't be read: {error}") from None


def read_element(path: Path, *, start: int, length: int) -> Any:
    """Parse one element again; DatasetError where the file has changed since it was listed."""
    try:
        with path.open("rb") as file:
            file.seek(start)
            return json.loads(file.read(length))
    except (OSError, ValueError) as error:
        raise DatasetError(
            f"{path} has changed or can't be read at byte {start}: {error}; run again"
        ) from None


class _Scanner:
    """A window on the file, as Latin-1: characters are bytes, and JSON's own characters are ASCII in UTF-8 too."""

    def __init__(self, file: BinaryIO, *, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._offset, self._at = (
            "",
            0,
            0,
        )  # the window, its place in the file, the position in it
        self._decoder = json.JSONDecoder()

    def elements(self, arrays: set[str]) -> Iterator[Element]:
        """Walk the top-level object."""
        self._expect("{")
        if self._peek() == "}":
            return
        while True:
            key = self._value()[0]
            self._expect(":")
            if self._peek() == "[":
                self._expect("[")
                while self._peek() != "]":
                    value, start, length = self._value()
                    if key in arrays:
                        yield Element(key, value, start, length)
                    if self._peek() == ",":
                        self._expect(",")
                self._expect("]")
            else:
                self._value()
            if self._peek() == "}":
                return
            self._expect(",")

    def _value(self) -> tuple[Any, int, int]:
        """Parse the value at the position; returns it with its place in the file."""
        self._peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except ValueError as error:
                if not self._read():
                    raise self._broken(str(error)) from None
                continue
            # A number may go on behind the window.
            if end < len(self._text) or not self._read():
                break
        start, length = self._offset + self._at, end - self._at
        if not self._text.isascii():
            value = json.loads(self._text[self._at : end].encode("latin-1"))
        self._at = end
        return value, start, length

    def _peek(self) -> str:
        """Skip space and return the next character."""
        while True:
            match = _SPACE.match(self._text, self._at)
            assert match is not None
            self._at = match.end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                raise self._broken("the file ends")

    def _expect(self, character: str) -> None:
        if self._peek() != character:
            raise self._broken(f"found {self._text[self._at]!r}, not {character!r}")
        self._at += 1

    def _read(self) -> bool:
        """Drop what is done and add a chunk, at least as long as what is left; False at the end of the file."""
        rest = self._text[self._at :]
        data = self._file.read(max(_CHUNK, len(rest)))
        if not data:
            return False
        self._offset += self._at
        self._text, self._at = rest + data.decode("latin-1"), 0
        return True

    def _broken(self, what: str) -> DatasetError:
        return DatasetError(
            f"{self._path} is not valid at byte {self._offset + self._at}: {what}; {_EXPECTED}: copy it again"
        )
