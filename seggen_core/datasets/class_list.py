"""The user's class list, in the forms that people bring.

- JSON: a list of {id, name, is_thing, color, ignore}, or {id: name}
- CSV with these columns, separated by commas, semicolons or tabs; Roboflow's `_classes.csv`
  ("Pixel Value", "Class") among them
- CVAT's labelmap.txt: `name:r,g,b:parts:actions`, ids by line from 0
- labelme's class_names.txt and labels.txt: a name a line; ids from 0, `__ignore__` is 255
"""

import csv
import io
import re
import reprlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from seggen_core.config.data import ListedClassConfig
from seggen_core.datasets.class_lines import text_rows
from seggen_core.datasets.class_table import ClassTable, make_class_table
from seggen_core.datasets.files import brief, cut, read_text
from seggen_core.datasets.strict_json import parse_json
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

_EXPECTED = (
    "a JSON list of {id, name, is_thing, color, ignore}, a CSV table with these columns (id and "
    "name are required; color is [r, g, b], in CSV r g b), CVAT's labelmap.txt, or names line by "
    "line (.txt)"
)
_NUM_IDS = 1 << 16
_MAX_BYTES = 1 << 22
"""Largest class list that is read: 4 MiB. Parsed, JSON takes up to 30 times its bytes."""

PARAMS_LIST = Path("dataset.class_list in params.yaml")
"""Stands for the file of a class list that params.yaml holds itself."""

_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no"}
_COLUMNS = ("id", "name", "is_thing", "color", "ignore", "synonyms")
_OTHER_NAMES = {"pixel value": "id", "class": "name", "isthing": "is_thing", "colour": "color"}
"""Columns of other tools, by what they are here."""


class ListedClass(NamedTuple):
    """One row of a class list, checked.

    Attributes:
        file_id: the id in the dataset's files, 0 to 65535.
        name: as listed.
        is_thing: None where the list doesn't say.
        color: (r, g, b), or None.
        is_ignored: the id belongs to no class.
        synonyms: what else prompts call it.
    """

    file_id: int
    name: str
    is_thing: bool | None
    color: tuple[int, int, int] | None
    is_ignored: bool
    synonyms: tuple[str, ...] = ()


class ClassList(NamedTuple):
    """A class list."""

    path: Path
    """The file."""
    rows: list[ListedClass]
    """Its classes."""
    notes: tuple[str, ...]
    """What it holds that isn't read."""


def read_class_list(path: Path, *, of_words: bool = False) -> ClassList:
    """Read the user's class list.

    Args:
        path: the file.
        of_words: no mask holds the ids, so rows without one are numbered, and a line of text may
            have synonyms: "person: man, woman, people".

    Raises:
        DatasetError: the file is missing, isn't such a list, or its columns contradict one another:
            an id or a colour is given twice. The message says in which rows.
    """
    text = read_text(
        path,
        expected=f"the class list, {_EXPECTED}: set dataset.classes_file",
        max_bytes=_MAX_BYTES,
    )
    suffix = path.suffix.lower()
    notes: tuple[str, ...] = ()
    if suffix == ".json":
        raw = _json_rows(text, path=path)
        notes = _unread(path, {key for row in raw if isinstance(row, dict) for key in row})
    elif suffix == ".txt":
        raw = text_rows(text, path=path, of_words=of_words, max_rows=_NUM_IDS)
    else:
        raw, notes = _csv_rows(text, path=path)
    if of_words:
        raw = [_numbered(row, row_id) for row_id, row in enumerate(raw)]
    if len(raw) > _NUM_IDS:
        raise DatasetError(f"{path} has more than {_NUM_IDS} rows; expected at most one an id")
    return _checked(raw, path=path, notes=notes)


def _checked(raw: Sequence[Any], *, path: Path, notes: tuple[str, ...] = ()) -> ClassList:
    rows = [_check_row(row, row_number=i, path=path) for i, row in enumerate(raw, start=1)]
    _check_unique(rows, path=path)
    return ClassList(path, rows, notes)


def read_class_file(path: Path) -> ClassTable:
    """Read the user's class list as the table of a dataset whose masks hold its ids.

    255 is ignored, unless a class has it; `ClassTable.assumed_ids` says whether the list does.

    Raises:
        DatasetError: as `read_class_list`, or there are no classes or more than 255.
    """
    return _make_table(read_class_list(path))


def checked_params_list(rows: Sequence[ListedClassConfig]) -> ClassList:
    """Return `dataset.class_list`, checked; errors as of `read_class_list`."""
    return _checked([row.model_dump() for row in rows], path=PARAMS_LIST)


def table_of_params(rows: Sequence[ListedClassConfig]) -> ClassTable:
    """Return the table of `dataset.class_list`; errors as of `read_class_file`."""
    return _make_table(checked_params_list(rows))


def _make_table(listed: ClassList) -> ClassTable:
    path = listed.path
    classes = [row for row in listed.rows if not row.is_ignored]
    ignored = {row.file_id: row.color for row in listed.rows if row.is_ignored}
    assumed = set() if IGNORE_INDEX in {row.file_id for row in listed.rows} else {IGNORE_INDEX}
    if not classes:
        what = f"{len(ignored)} rows, all with ignore set" if ignored else "nothing"
        raise DatasetError(f"{path} holds {what}; expected 1 to {IGNORE_INDEX} classes")
    if len(classes) > IGNORE_INDEX:
        raise DatasetError(
            f"{path} lists {len(classes)} classes; expected 1 to {IGNORE_INDEX} classes, because "
            "stored masks have 8 bits: merge classes, or set ignore in the rows of those that "
            "aren't needed"
        )
    rows = [
        {"id": row.file_id, "name": row.name, "is_thing": row.is_thing, "color": row.color}
        for row in classes
    ]
    try:
        return make_class_table(
            rows,
            ignored_ids=sorted(ignored.keys() | assumed),
            assumed_ids=assumed,
            ignored_colors={i: color for i, color in ignored.items() if color is not None},
            notes=listed.notes,
        )
    except ConfigError as error:
        raise DatasetError(f"{path}: {error}") from None


def read_only_class_file(
    paths: Sequence[Path], *, stated: Sequence[ListedClassConfig] = ()
) -> ClassTable:
    """Read the class lists at `paths` and in params.yaml, `stated`, which have to agree.

    Raises:
        DatasetError: as `read_class_file`, or two lists differ; the message names both.
    """
    if stated:
        first, others = PARAMS_LIST, list(paths)
        table = table_of_params(stated)
    else:
        first, *others = paths
        table = read_class_file(first)
    for path in others:
        difference = _difference(table, read_class_file(path))
        if difference:
            raise DatasetError(
                f"{first} and {path} are both class lists, and differ: {difference}; expected one: "
                "set dataset.classes_file, or remove the other"
            )
    return table


def _difference(table: ClassTable, other: ClassTable) -> str:
    """Say where two tables name the same id differently; "" where they agree."""
    names, other_names = table.names_by_id(), other.names_by_id()
    for file_id in sorted(names.keys() | other_names.keys()):
        name, other_name = names.get(file_id), other_names.get(file_id)
        if name != other_name:
            return f"id {file_id} is {name or 'not listed'} and {other_name or 'not listed'}"
    return ""


def _csv_rows(text: str, *, path: Path) -> tuple[list[Any], tuple[str, ...]]:
    """Read a table whose first line names the columns; return its rows and notes."""
    if text[:4].lower() == "sep=":  # Excel's, before the header
        text = text.partition("\n")[2]
    header = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    try:
        table = csv.DictReader(io.StringIO(text), delimiter=delimiter, skipinitialspace=True)
        columns = [_column(name) for name in table.fieldnames or ()]
        repeated = [c for c, count in Counter(columns).items() if count > 1]
        if repeated:
            raise csv.Error(f"column {repeated[0]!r} stands twice in the first line")
        table.fieldnames = columns
        rows: list[Any] = list(islice(table, _NUM_IDS + 1))
        wide = next((i for i, row in enumerate(rows, start=1) if any(row.get(None, ()))), None)
        if wide is not None:
            raise csv.Error(
                f"row {wide} has more cells than the first line names columns; a name or colour "
                "with the separator in it stands in quotes"
            )
    except csv.Error as error:
        raise DatasetError(f"{path} is no CSV table: {error}; expected {_EXPECTED}") from None
    return rows, _unread(path, columns)


def _unread(path: Path, columns: Iterable[str]) -> tuple[str, ...]:
    """Return a note on columns, or keys of JSON, that mean nothing here; no note without any."""
    unread = [name for name in dict.fromkeys(columns) if name not in _COLUMNS]
    if not unread:
        return ()
    return (f"{path.name}: nothing is read from column {brief(', '.join(sorted(unread)))}",)


def _column(name: str) -> str:
    plain = name.strip().lower()
    return _OTHER_NAMES.get(plain, plain)


def _numbered(row: Any, row_id: int) -> Any:
    """Return a row of a list of words with an id."""
    if isinstance(row, str):
        row = {"name": row}
    if isinstance(row, dict) and row.get("id") in (None, ""):
        row = {**row, "id": row_id}
    return row


def _json_rows(text: str, *, path: Path) -> list[Any]:
    try:
        tree = parse_json(text)
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}; expected {_EXPECTED}") from None
    if isinstance(tree, dict):  # {"1": "wall"}, as transformers' id2label
        return [{"id": key, "name": value} for key, value in tree.items()]
    if not isinstance(tree, list):
        raise DatasetError(f"{path} holds {type(tree).__name__}; expected {_EXPECTED}")
    return [
        {_column(key): value for key, value in row.items()} if isinstance(row, dict) else row
        for row in tree
    ]


def _check_row(row: Any, *, row_number: int, path: Path) -> ListedClass:
    where = f"{path}, row {row_number}"
    if (
        not isinstance(row, dict)
        or row.get("id") in (None, "")
        or not isinstance(row.get("name"), str | int | float)
        or not str(row["name"]).strip()
    ):
        raise DatasetError(f"{where} is {reprlib.repr(row)}; expected {_EXPECTED}")
    try:
        file_id = int(row["id"])
        if isinstance(row["id"], float) and file_id != row["id"]:
            file_id = -1
    except (TypeError, ValueError, OverflowError):
        file_id = -1
    if not 0 <= file_id < _NUM_IDS:
        raise DatasetError(
            f"{where} has id {reprlib.repr(row['id'])}; expected a whole number from 0 to "
            f"{_NUM_IDS - 1}"
        )
    return ListedClass(
        file_id,
        cut(str(row["name"]).strip()),
        _flag(row.get("is_thing"), flag="is_thing", where=where),
        _color(row.get("color"), where=where),
        bool(_flag(row.get("ignore"), flag="ignore", where=where)),
        _synonyms(row.get("synonyms"), where=where),
    )


def _synonyms(value: Any, *, where: str) -> tuple[str, ...]:
    if value is None or value in ("", [], ()):
        return ()
    parts = re.split("[,;|]", value) if isinstance(value, str) else value
    words = (
        [p.strip() for p in parts if isinstance(p, str)] if isinstance(parts, list | tuple) else []
    )
    if not words or not all(words) or len(words) != len(parts):
        raise DatasetError(
            f"{where} has synonyms {reprlib.repr(value)}; expected words: man, woman, people"
        )
    return tuple(map(cut, words))


def _color(value: Any, *, where: str) -> tuple[int, int, int] | None:
    if value is None or (isinstance(value, str | list) and not value):
        return None
    parts = value.replace(",", " ").split() if isinstance(value, str) else value
    try:
        color = [int(c) if not isinstance(c, float) else -1 for c in parts]  # not 0.5 as 0
    except (TypeError, ValueError, OverflowError):
        color = []
    if len(color) != 3 or not all(0 <= c <= 255 for c in color):
        raise DatasetError(
            f"{where} has color {reprlib.repr(value)}; expected three numbers from 0 to 255, "
            "whole ones"
        )
    return color[0], color[1], color[2]


def _flag(value: Any, *, flag: str, where: str) -> bool | None:
    word = str("" if value is None else value).strip().lower()
    if not word:
        return None
    if word not in _TRUE | _FALSE:
        raise DatasetError(f"{where} has {flag} {reprlib.repr(value)}; expected true or false")
    return word in _TRUE


def _check_unique(rows: Iterable[ListedClass], *, path: Path) -> None:
    """Compare the columns: an id has one row, a colour one class."""
    by_id: dict[int, ListedClass] = {}
    by_color: dict[tuple[int, int, int], ListedClass] = {}
    repeated: list[int] = []
    for row in rows:
        if row.file_id in by_id:
            repeated.append(row.file_id)
        by_id[row.file_id] = row
        if row.color is None:
            continue
        other = by_color.setdefault(row.color, row)
        if other is not row and not (other.is_ignored and row.is_ignored):
            raise DatasetError(
                f"{path} gives {other.name!r} (id {other.file_id}) and {row.name!r} (id "
                f"{row.file_id}) the same colour {row.color}; expected one class a colour"
            )
    if repeated:
        listed = ", ".join(map(str, sorted(set(repeated))[:5]))
        raise DatasetError(
            f"{path}: the class list gives id {listed} twice; expected one class an id"
        )


def listed_by_id(listed: ClassList) -> Mapping[int, ListedClass]:
    """Return the rows of a class list by id."""
    return {row.file_id: row for row in listed.rows}
