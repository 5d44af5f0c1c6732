"""Which classes a COCO file has: its own `categories`, compared with whatever else says so.

- Where `categories` are COCO's published ones, or some of them, the rows of the published table are
  taken: its plainer names, its colours, its order.
- Other categories are classes of the user's own, in the order of their ids.
- All files of a dataset, and the user's class list, have to say the same.
"""

import reprlib
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from seggen_core.datasets.class_list import ClassList, ListedClass, listed_by_id, read_class_list
from seggen_core.datasets.class_table import (
    ClassTable,
    load_class_rows,
    load_class_table,
    make_class_table,
)
from seggen_core.datasets.coco_index import CocoIndex
from seggen_core.datasets.files import brief, cut
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, slugify

_MAX_ID = 1 << 31


class _Category(NamedTuple):
    """One entry of `categories`; None where the file doesn't say."""

    category_id: int
    name: str
    is_thing: bool | None
    color: tuple[int, int, int] | None
    group: str


def choose_classes(
    dataset: str,
    *,
    indexes: Sequence[CocoIndex],
    class_file: Path | None,
    assumed_thing: bool | None,
) -> tuple[ClassTable, bool]:
    """Return the classes of a dataset in COCO's format, and whether they are COCO's own.

    Args:
        dataset: the published table, "coco_instance" or "coco_panoptic".
        indexes: its annotation files.
        class_file: the user's class list, if there is one.
        assumed_thing: what a class is where nothing says whether it is a thing; None if it has to
            be said.

    Raises:
        DatasetError: the files don't agree, or `categories` isn't COCO's.
    """
    notes: list[str] = []
    stated: list[tuple[Path, dict[int, _Category]]] = []
    listed = None if class_file is None else read_class_list(class_file)
    listed_ids = set() if listed is None else listed_by_id(listed).keys()
    for index in indexes:
        if index.categories:
            categories, groups = _parse_categories(index, classes=listed_ids)
            stated.append((index.path, categories))
            if groups and len(stated) == 1:
                notes.append(
                    f"{index.path.name}: category {', '.join(groups)} is the supercategory of the "
                    "others, no class; a class list that has it makes it one"
                )
    for path, categories in stated[1:]:
        _check_agree(stated[0], (path, categories))
    in_file = stated[0][1] if stated else {}
    if listed is not None:
        if stated:
            _check_listed(in_file, path=stated[0][0], listed=listed)
        return _user_table(in_file, listed=listed, assumed_thing=assumed_thing, notes=notes), False
    if not stated:
        notes.append(
            f"{', '.join(sorted({i.path.name for i in indexes}))} lists no categories; the ids are "
            f"taken for COCO's ({dataset})"
        )
        return replace(load_class_table(dataset), notes=tuple(notes)), True
    published = _published_rows(in_file, dataset=dataset)
    if published is not None:
        return make_class_table(published, notes=tuple(notes)), True
    rows = _rows(in_file, path=stated[0][0], assumed_thing=assumed_thing)
    return _make(rows, path=stated[0][0], ignored_ids=[], notes=notes), False


def group_hint(index: CocoIndex, category_id: object) -> str:
    """Say of a category that is a group why it is no class; "" of any other."""
    try:
        _, groups = _parse_categories(index, classes=())
    except DatasetError:
        return ""
    names = [value["name"] for value in index.categories if value["id"] == category_id]
    if not names or f"{names[0].strip()!r}" not in groups:
        return ""
    return (
        f"; {groups[0]} is taken for a group, since it is the supercategory of all others: if it "
        "is a class, list it in a class list with the others (dataset.classes_file)"
    )


def _parse_categories(
    index: CocoIndex, *, classes: Collection[int]
) -> tuple[dict[int, _Category], list[str]]:
    """Return the classes of a file by id, and the names of groups among its categories.

    Roboflow writes the name of the project as a category that is the supercategory of all others
    and has none itself. A category whose id is in `classes` is none.
    """
    categories: dict[int, _Category] = {}
    names: dict[str, int] = {}
    parsed = [_parse_category(value, path=index.path) for value in index.categories]
    groups = [
        c
        for c in parsed
        if c.group in ("", "none")
        and c.category_id not in classes
        and len(parsed) > 1
        and all(other.group == c.name for other in parsed if other is not c)
    ]
    for c in parsed:
        if c in groups:
            continue
        if c.category_id in categories:
            raise DatasetError(
                f"{index.path} lists category {c.category_id} twice: "
                f"{categories[c.category_id].name!r} and {c.name!r}; expected one class an id"
            )
        if c.name in names:
            raise DatasetError(
                f"{index.path} lists {c.name!r} twice: as category {names[c.name]} and "
                f"{c.category_id}; expected one id a class"
            )
        categories[c.category_id] = c
        names[c.name] = c.category_id
    if not categories:
        raise DatasetError(f"{index.path} lists groups alone in 'categories'; expected classes")
    return categories, [f"{c.name!r}" for c in groups]


def _parse_category(value: Any, *, path: Path) -> _Category:
    try:
        category_id, name = value["id"], value["name"]
        is_thing, color = value.get("isthing"), value.get("color")
        if not isinstance(category_id, int) or not 0 <= category_id < _MAX_ID:
            raise ValueError(f"id {reprlib.repr(category_id)}")
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"name {reprlib.repr(name)}")
        if is_thing not in (None, 0, 1):
            raise ValueError(f"isthing {reprlib.repr(is_thing)}")
        if color is not None:
            r, g, b = color
            if not all(isinstance(c, int) and 0 <= c <= 255 for c in color):
                raise ValueError(f"color {reprlib.repr(color)}")
            color = (r, g, b)
        group = str(value.get("supercategory") or "")
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path} has the category {reprlib.repr(value)} ({brief(repr(error))}); expected "
            "{id, name, isthing, color}: a whole number from 0, a name, 0 or 1, three numbers from "
            "0 to 255 (the last two may be left out)"
        ) from None
    return _Category(
        category_id, cut(name.strip()), None if is_thing is None else bool(is_thing), color, group
    )


def _check_agree(
    first: tuple[Path, dict[int, _Category]], second: tuple[Path, dict[int, _Category]]
) -> None:
    """Compare the categories of two files."""
    (path, categories), (other_path, others) = first, second
    for i in sorted(categories.keys() | others.keys()):
        a, b = categories.get(i), others.get(i)
        if a is None or b is None or (a.name, a.is_thing) != (b.name, b.is_thing):
            raise DatasetError(
                f"{path} and {other_path} list different categories: {i} is {_describe(a)} and "
                f"{_describe(b)}; expected the same classes in all splits"
            )


def _check_listed(in_file: dict[int, _Category], *, path: Path, listed: ClassList) -> None:
    """Compare the categories of a file with the user's class list."""
    rows = listed_by_id(listed)
    for i in sorted(in_file.keys() | rows.keys()):
        category, row = in_file.get(i), rows.get(i)
        if category is None:
            assert row is not None
            raise DatasetError(
                f"{listed.path} lists id {i}, {row.name!r}, but {path} has no such category (it "
                f"has {brief(', '.join(f'{c.category_id} {c.name}' for c in in_file.values()))}); "
                "expected the same classes"
            )
        if row is None:
            raise DatasetError(
                f"{path} lists category {i}, {category.name!r}, but {listed.path} doesn't; "
                "expected the same classes: add it, with ignore set if it isn't needed"
            )
        if slugify(category.name) != slugify(row.name):
            raise DatasetError(
                f"{path} lists category {i} as {category.name!r}, but {listed.path} as "
                f"{row.name!r}; expected the same name"
            )
        if None not in (category.is_thing, row.is_thing) and category.is_thing != row.is_thing:
            raise DatasetError(
                f"{path} says that category {i}, {category.name!r}, is "
                f"{_kind(category.is_thing)}, but {listed.path} that it is {_kind(row.is_thing)}; "
                "expected the same"
            )


def _user_table(
    in_file: dict[int, _Category],
    *,
    listed: ClassList,
    assumed_thing: bool | None,
    notes: list[str],
) -> ClassTable:
    """Build the table of a class list, completed by what the files say."""
    categories = {
        row.file_id: _complete(row, in_file=in_file.get(row.file_id))
        for row in listed.rows
        if not row.is_ignored
    }
    rows = _rows(categories, path=listed.path, assumed_thing=assumed_thing)
    ignored = sorted(row.file_id for row in listed.rows if row.is_ignored)
    return _make(rows, path=listed.path, ignored_ids=ignored, notes=[*notes, *listed.notes])


def _complete(row: ListedClass, *, in_file: _Category | None) -> _Category:
    is_thing, color = row.is_thing, row.color
    if in_file is not None:
        is_thing = in_file.is_thing if is_thing is None else is_thing
        color = in_file.color if color is None else color
    return _Category(row.file_id, row.name, is_thing, color, "")


def _published_rows(in_file: dict[int, _Category], *, dataset: str) -> list[dict[str, Any]] | None:
    """Return the published rows of a file's categories; None where one of them is another."""
    published = load_class_rows(dataset)
    by_id = {row["id"]: row for row in published}
    for i, category in in_file.items():
        row = by_id.get(i)
        if row is None or category.name not in (row["name"], row.get("official_name")):
            return None
        if category.is_thing not in (None, row["is_thing"]):
            return None
    return [row for row in published if row["id"] in in_file]


def _rows(
    categories: dict[int, _Category], *, path: Path, assumed_thing: bool | None
) -> list[dict[str, Any]]:
    unsaid = [c.name for c in categories.values() if c.is_thing is None]
    if unsaid and assumed_thing is None:
        raise DatasetError(
            f"{path} doesn't say whether {brief(', '.join(unsaid))} are things; expected isthing 0 "
            "or 1 in 'categories', or a class list with is_thing: set dataset.classes_file"
        )
    return [
        {
            "id": c.category_id,
            "name": c.name,
            "is_thing": assumed_thing if c.is_thing is None else c.is_thing,
            "color": c.color,
        }
        for _, c in sorted(categories.items())
    ]


def _make(
    rows: list[dict[str, Any]], *, path: Path, ignored_ids: list[int], notes: list[str]
) -> ClassTable:
    if len(rows) > IGNORE_INDEX:
        raise DatasetError(
            f"{path} lists {len(rows)} classes; expected 1 to {IGNORE_INDEX} classes, because "
            "stored masks have 8 bits: merge classes, or set ignore in a class list "
            "(dataset.classes_file)"
        )
    try:
        return make_class_table(rows, ignored_ids=ignored_ids, notes=tuple(notes))
    except ConfigError as error:
        raise DatasetError(f"{path}: {error}") from None


def _describe(category: _Category | None) -> str:
    if category is None:
        return "not listed"
    return f"{category.name!r}" + (
        "" if category.is_thing is None else f" ({_kind(category.is_thing)})"
    )


def _kind(is_thing: bool | None) -> str:
    return "a thing" if is_thing else "stuff"
