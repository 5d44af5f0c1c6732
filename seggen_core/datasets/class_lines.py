"""Class lists that are plain text: CVAT's labelmap.txt, or names line by line as labelme has them.

The lines give the ids, so a line that may be no class is an error: skipped, or taken for one, it
would move the ids of all that follow.
"""

import io
import re
import reprlib
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

_LABELME_IGNORED = "__ignore__"
_NUMBERED_LINE = re.compile(r"(?P<number>\d+)[\s,;:.)=-]+\S.*")
_LABELMAP_LINE = re.compile(r"(?P<name>[^:]+):(?P<color>\d+,\d+,\d+)?(:[^:]*){0,2}")
_NAMES_ALONE = "expected names alone, since the lines give the ids"


def text_rows(text: str, *, path: Path, of_words: bool, max_rows: int) -> list[Any]:
    """Return the rows of a list, at most one more than `max_rows`.

    Args:
        text: of the file.
        path: the file, for messages.
        of_words: no mask holds the ids, and a line may have synonyms behind a colon.
        max_rows: of a list that is sound.

    Raises:
        DatasetError: a line is none of a class.
    """
    stripped = (line.strip() for line in io.StringIO(text))
    lines = list(islice((x for x in stripped if x and not x.startswith("#")), max_rows + 1))
    if not of_words:
        _check_comments(text, path=path)
    numbers = [m["number"] for line in lines if (m := _NUMBERED_LINE.fullmatch(line))]
    if len(lines) > 1 and len(set(numbers)) == len(lines):
        raise DatasetError(
            f"{path}, row 1 is {reprlib.repr(lines[0])}, and every other row starts with a number, "
            f"too; {_NAMES_ALONE}: write a CSV table with the columns id and name"
        )
    if of_words and not all(_LABELMAP_LINE.fullmatch(line) for line in lines):
        return _words(lines, path=path)
    has_colors = any((m := _LABELMAP_LINE.fullmatch(line)) and m["color"] for line in lines)
    if lines and (has_colors or all(":" in line for line in lines)):
        return _labelmap(lines, path=path)
    _check_separators(lines, path=path)
    first = -1 if lines[:1] == [_LABELME_IGNORED] else 0  # labelme's labels.txt
    return [
        {
            "id": IGNORE_INDEX if name == _LABELME_IGNORED else i,
            "name": name.strip("_") or name,
            "ignore": name == _LABELME_IGNORED,
        }
        for i, name in enumerate(lines, start=first)
    ]


def _check_comments(text: str, *, path: Path) -> None:
    """Refuse a line that may be a comment or a class."""
    for line_number, line in enumerate(io.StringIO(text), start=1):
        if re.match(r"\s*#[^\s#]", line):
            raise DatasetError(
                f"{path}, line {line_number} is {reprlib.repr(line.strip())}, which may be a "
                'comment or a class; expected "# " before a comment, and no class whose name '
                "starts with #: write a CSV table with the columns id and name if it is one"
            )


def _check_separators(lines: Sequence[str], *, path: Path) -> None:
    """Refuse a table that is called .txt: its header would be the class with id 0."""
    mark = next((m for m in ",;\t" if all(m in line for line in lines)), None)
    if len(lines) > 1 and mark is not None:
        raise DatasetError(
            f"{path}, row 1 is {reprlib.repr(lines[0])}, and every row holds {mark!r}; "
            f"{_NAMES_ALONE}: if it is a table, call it .csv"
        )


def _words(lines: Sequence[str], *, path: Path) -> list[Any]:
    """Return words with their synonyms."""
    several = next((x for x in lines if re.search("[,;\t]", x.partition(":")[0])), None)
    if several is not None:
        raise DatasetError(
            f"{path} has the line {reprlib.repr(several)}; expected a class a line, with "
            "synonyms behind a colon: person: man, woman"
        )
    parts = (line.partition(":") for line in lines)
    return [{"name": name, "synonyms": rest if colon else None} for name, colon, rest in parts]


def _labelmap(lines: Sequence[str], *, path: Path) -> list[Any]:
    """Return the rows of CVAT's labelmap.txt."""
    rows = []
    for i, line in enumerate(lines):
        match = _LABELMAP_LINE.fullmatch(line)
        if match is None:
            raise DatasetError(
                f"{path}, row {i + 1} is {reprlib.repr(line)}; expected CVAT's "
                "name:r,g,b:parts:actions"
            )
        rows.append({"id": i, "name": match["name"].strip(), "color": match["color"]})
    return rows
