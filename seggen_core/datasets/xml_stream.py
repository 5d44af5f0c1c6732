"""Large XML files without holding them: the elements of one name, by their places in the file.

Parsing is expat's. A document type is refused, because entities can grow without bound; so is
another encoding than UTF-8, what nests deep, and what is long: nothing grows with the file.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from seggen_core.datasets.files import regular_size
from seggen_core.datasets.json_stream import MAX_VALUE_BYTES
from seggen_core.datasets.sample import CHECK
from seggen_core.errors import DatasetError

_CHUNK = 1 << 16
_MAX_DEPTH = 32
_MAX_HELD = 1 << 20
"""Most elements of one that is yielded."""


class XmlElement(NamedTuple):
    """An element, or a part of one."""

    tag: str
    """Its name."""
    attributes: dict[str, str]
    """As they stand there."""
    text: str
    """What stands in it directly, without space around it."""
    children: "list[XmlElement]"
    """Its elements."""
    start: int = 0
    """Byte where it starts in the file; 0 of children."""
    length: int = 0
    """Its number of bytes; 0 of children."""


class _UnfitError(Exception):
    """What makes a file unfit."""


class _Handler:
    """Collects elements of some names on expat's events."""

    def __init__(self, parser: expat.XMLParserType, tags: frozenset[str]) -> None:
        self._parser, self._tags = parser, tags
        self.stack: list[tuple[str, dict[str, str], list[str], list[XmlElement], int]] = []
        self.ready: list[XmlElement] = []
        self.root = ""
        self.first_held = -1
        self._depth = self._num_held = 0
        parser.StartElementHandler = self.start
        parser.EndElementHandler = self.end
        parser.CharacterDataHandler = self.text
        parser.StartDoctypeDeclHandler = self.doctype
        parser.XmlDeclHandler = self.declaration

    def doctype(self, *_: object) -> None:
        raise _UnfitError("it has a document type, which is not read")

    def declaration(self, version: str, encoding: str | None, standalone: int) -> None:  # noqa: ARG002 (expat's)
        if encoding is not None and encoding.lower() not in ("utf-8", "utf8", "us-ascii", "ascii"):
            raise _UnfitError(f"its encoding is {encoding[:20]!r}, not UTF-8")

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        self.root = self.root or tag
        if self._depth > _MAX_DEPTH:
            raise _UnfitError(f"it nests more than {_MAX_DEPTH} deep")
        if not self.stack:
            if tag not in self._tags:
                return
            self.first_held = self._parser.CurrentByteIndex
            self._num_held = 0
        self._num_held += 1
        if self._num_held > _MAX_HELD:
            raise _UnfitError(f"a <{self.stack[0][0]}> holds more than {_MAX_HELD} elements")
        self.stack.append((tag, attributes, [], [], self._parser.CurrentByteIndex))

    def end(self, tag: str) -> None:
        self._depth -= 1
        if not self.stack:
            return
        _, attributes, texts, children, start = self.stack.pop()
        element = XmlElement(tag, attributes, "".join(texts).strip(), children)
        if self.stack:
            self.stack[-1][3].append(element)
            return
        # Of "<a/>", expat gives the same place twice.
        end = self._parser.CurrentByteIndex
        length = 0 if end == start else end - start + len(f"</{tag}>".encode())
        self.ready.append(element._replace(start=start, length=length))
        self.first_held = -1

    def text(self, text: str) -> None:
        if self.stack:
            self.stack[-1][2].append(text)


def stream_elements(path: Path, *, tags: frozenset[str], root: str) -> Iterator[XmlElement]:
    """Yield the elements called one of `tags`, wherever they are, in the order of the file.

    Args:
        path: the file.
        tags: names of elements. One inside another is a part of it.
        root: what the outermost element is called.

    Raises:
        FileNotFoundError: there is no such file.
        DatasetError: it is no regular file, no XML in UTF-8, has a document type, nests deep, holds
            an element of more than `MAX_VALUE_BYTES`, or its outermost element is another one.
    """
    regular_size(path)
    parser = expat.ParserCreate()
    parser.buffer_text = True
    handler = _Handler(parser, tags)
    fed = 0
    try:
        with path.open("rb") as file:
            while True:
                data = file.read(_CHUNK)
                parser.Parse(data, not data)
                fed += len(data)
                if handler.root not in ("", root):
                    raise _UnfitError(
                        f"its outermost element is <{handler.root[:40]}>, not <{root}>"
                    )
                start = handler.first_held if handler.stack else parser.CurrentByteIndex
                if fed - max(start, 0) > MAX_VALUE_BYTES:
                    raise _UnfitError(f"an element is longer than {MAX_VALUE_BYTES} bytes")
                yield from handler.ready
                handler.ready.clear()
                if not data:
                    return
    except (OSError, ValueError, expat.ExpatError, _UnfitError) as error:
        raise DatasetError(
            f"{path} can't be read: {error}; expected <{root}> in UTF-8: export or copy it again"
        ) from None


def read_element(path: Path, *, start: int, length: int) -> XmlElement:
    """Parse one element again by its place.

    Raises:
        DatasetError: the file has changed since it was listed.
    """
    parser = expat.ParserCreate()
    parser.buffer_text = True
    try:
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(length)
        root = data[1:41].split(b" ")[0].split(b">")[0].strip().decode()
        handler = _Handler(parser, frozenset({root}))
        parser.Parse(data, True)
        (element,) = handler.ready
    except (OSError, ValueError, expat.ExpatError, _UnfitError) as error:
        raise DatasetError(
            f"{path} has changed or can't be read at byte {start}: {error}; run again {CHECK}"
        ) from None
    return element
