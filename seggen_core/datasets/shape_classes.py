"""The classes of an annotation tool's labels: what the files list, compared with the class list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from seggen_core.datasets.class_list import ListedClass, read_class_list
from seggen_core.datasets.class_table import ClassTable, make_class_table
from seggen_core.datasets.files import brief
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy, slugify

_LABELME_IGNORED = "__ignore__"


@dataclass(frozen=True)
class ShapeClasses:
    """Labels and classes.

    Attributes:
        taxonomy: the classes, the background last if it is none of the labels.
        colors: (r, g, b) of each class, for pictures.
        train_ids: train id of each label; IGNORE_INDEX of those that are ignored.
        rest: what no shape covers: the background's train id, or IGNORE_INDEX.
        source: which list the labels have to be in, in messages.
        notes: what the list holds that isn't read.
    """

    taxonomy: Taxonomy
    colors: tuple[tuple[int, int, int], ...]
    train_ids: Mapping[str, int]
    rest: int
    source: str
    notes: tuple[str, ...] = ()

    @property
    def palette(self) -> np.ndarray:
        """The colours, uint8 [num_classes, 3]."""
        return np.array(self.colors, np.uint8)

    def is_thing(self, train_id: int) -> bool:
        """Return whether a class has instances."""
        return train_id != IGNORE_INDEX and self.taxonomy[train_id].is_thing


class StatedClass(NamedTuple):
    """A label that an annotation file lists, with its colour if the file has one."""

    name: str
    color: tuple[int, int, int] | None = None


def choose_shape_classes(
    stated: Sequence[StatedClass],
    *,
    stated_in: str,
    class_file: Path | None,
    background: str | None,
) -> ShapeClasses:
    """Return the classes of a dataset of shapes.

    A class is a thing unless the class list says otherwise. labelme's `__ignore__` is ignored.

    Args:
        stated: the labels that the files list, in the order of their ids, or the labels of all
            shapes, sorted.
        stated_in: where they are listed, in messages.
        class_file: the user's class list, which then decides; it has to have every stated label.
        background: name of the class of what no shape covers; None ignores it.

    Raises:
        DatasetError: the two differ, or there are no classes or too many.
        ConfigError: the background's name is another class's slug.
    """
    names = [c.name for c in stated]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise DatasetError(f"{stated_in} lists {brief(repr(repeated))} twice; expected it once")
    rows, notes = _rows(stated, stated_in=stated_in, class_file=class_file)
    source = stated_in if class_file is None else str(class_file)
    classes = [row for row in rows if not row.is_ignored]
    check_background(background, rows=rows, source=source)
    if not rows:
        raise DatasetError(
            f"{stated_in} list no class; expected areas with labels: polygons, rectangles, "
            "ellipses or masks"
        )
    is_new = background is not None and background not in [row.name for row in classes]
    if len(classes) + is_new > IGNORE_INDEX or not classes:
        raise DatasetError(
            f"{source} lists {len(classes)} classes; expected 1 to {IGNORE_INDEX - is_new}, "
            "because stored masks have 8 bits: merge classes, or set ignore in a class list "
            "(dataset.classes_file)"
        )
    table = _table(classes, background=background, source=source)
    train_ids = {row.name: i for i, row in enumerate(classes)}
    train_ids |= {row.name: IGNORE_INDEX for row in rows if row.is_ignored}
    taxonomy, colors_of = table.taxonomy, table.colors
    rest = train_ids.get(background, IGNORE_INDEX) if background is not None else IGNORE_INDEX
    if background is not None and is_new:
        rest, taxonomy = len(classes), _with_background(taxonomy, background)
        colors_of = (*colors_of, (0, 0, 0))
    return ShapeClasses(taxonomy, colors_of, train_ids, rest, source, notes)


def _table(classes: Sequence[ListedClass], *, background: str | None, source: str) -> ClassTable:
    """Return the table of the classes; each is a thing if nothing says otherwise."""
    rows = [
        {
            "id": i,
            "name": row.name,
            "is_thing": row.name != background if row.is_thing is None else row.is_thing,
            "color": row.color,
        }
        for i, row in enumerate(classes)
    ]
    try:
        return make_class_table(rows)
    except ConfigError as error:
        raise DatasetError(f"{source}: {error}") from None


def check_background(background: str | None, *, rows: Sequence[ListedClass], source: str) -> None:
    """Raise ConfigError where the background is called as what the class list ignores."""
    slugs = {slugify(row.name): row.name for row in rows if row.is_ignored}
    if background is not None and slugify(background) in slugs:
        raise ConfigError(
            f"dataset.background is {background!r}, but {source} ignores "
            f"{slugs[slugify(background)]!r}; expected a class: give it another name, or take "
            "ignore out of its row"
        )


def _rows(
    stated: Sequence[StatedClass], *, stated_in: str, class_file: Path | None
) -> tuple[list[ListedClass], tuple[str, ...]]:
    """Return the rows of the class list, or else of the labels, and notes."""
    if class_file is None:
        return [
            ListedClass(i, c.name, None, c.color, c.name == _LABELME_IGNORED)
            for i, c in enumerate(stated)
        ], ()
    listed = read_class_list(class_file)
    _check_listed(stated, stated_in=stated_in, rows=listed.rows, path=class_file)
    colors = {c.name: c.color for c in stated}
    return [_complete(row, color=colors.get(row.name)) for row in listed.rows], listed.notes


def _with_background(taxonomy: Taxonomy, name: str) -> Taxonomy:
    try:
        return Taxonomy([*taxonomy, SegmentationClass(len(taxonomy), name, is_thing=False)])
    except ConfigError as error:
        raise ConfigError(f"dataset.background is {name!r}: {error}") from None


def _complete(row: ListedClass, *, color: tuple[int, int, int] | None) -> ListedClass:
    return row if row.color is not None else row._replace(color=color)


def _check_listed(
    stated: Sequence[StatedClass], *, stated_in: str, rows: Sequence[ListedClass], path: Path
) -> None:
    """Compare the labels of the files with the class list; it may have more."""
    listed = {row.name for row in rows}
    by_slug = {slugify(row.name): row.name for row in rows}
    for c in stated:
        if c.name in listed or c.name == _LABELME_IGNORED:
            continue
        near = by_slug.get(slugify(c.name))
        raise DatasetError(
            f"{stated_in} has the label {brief(repr(c.name))}, but {path} lists "
            f"{brief(repr(near)) if near else 'no such class'} "
            f"({brief(', '.join(sorted(listed)))}); expected the same names: add it there, with "
            "ignore set if it isn't needed"
        )
