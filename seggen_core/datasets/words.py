"""A list of words as a dataset: classes without real images.

Its splits are empty. What needs no real image (SeeDiff, DiffuMask, arms that train on their samples
alone) reads its classes, as those of any dataset.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from seggen_core.colors.palette import class_palette
from seggen_core.config import DatasetConfig, Split
from seggen_core.datasets.class_list import (
    ClassList,
    ListedClass,
    checked_params_list,
    read_class_list,
)
from seggen_core.datasets.class_table import ClassTable, make_class_table
from seggen_core.datasets.reader import PUBLISHED, Conventions
from seggen_core.datasets.sample import RawSample
from seggen_core.datasets.split_reader import SplitReader
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import slugify


class WordsReader(SplitReader[ClassTable]):
    """A list of words; see `DatasetReader`.

    Attributes:
        synonyms: what else prompts call a class, by its slug.
    """

    def __init__(self, table: ClassTable, *, synonyms: Mapping[str, Sequence[str]]) -> None:
        """Take the classes."""
        super().__init__(table)
        self._notes.append("a list of words has no real images: there is no sample")
        self.synonyms = dict(synonyms)

    @property
    def conventions(self) -> Conventions:
        """See `DatasetReader`."""
        return PUBLISHED

    def read(self, split: Split, key: str) -> RawSample:
        """Raise DatasetError: there is no sample."""
        raise DatasetError(f"a list of words has no real images, so no {split} sample {key!r}")

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Raise DatasetError: there is no sample."""
        raise DatasetError(f"a list of words has no real images, so no {split} sample {key!r}")


def open_words(config: DatasetConfig, *, base: Path) -> WordsReader:
    """Return the reader of the classes in `config.classes_file` or `config.class_list`.

    Classes of which the list doesn't say what they are are things.

    Args:
        config: the section.
        base: where the path of the file starts.

    Raises:
        ConfigError: no list is given.
        DatasetError: the list can't be read, names no class, more than 255, or a class twice, or a
            synonym is of two classes.
    """
    if config.classes_file is not None:
        listed = read_class_list(base / config.classes_file, of_words=True)
    elif config.class_list:
        listed = checked_params_list(config.class_list)
    else:
        raise ConfigError(
            "dataset.classes_file is not set; set it to the list of words, a class a line"
        )
    rows = [row for row in listed.rows if not row.is_ignored]
    _check_words(rows, path=listed.path)
    if config.background is not None:
        rows = _with_background(rows, config.background)
    return WordsReader(
        _make_table(listed, rows),
        synonyms={slugify(r.name): r.synonyms for r in rows if r.synonyms},
    )


def _check_words(rows: Sequence[ListedClass], *, path: Path) -> None:
    """Raise DatasetError where there is no word, or where one stands for two classes."""
    if not rows:
        raise DatasetError(f"{path} holds no word; expected a class a line")
    taken = {row.name.casefold(): row.name for row in rows}
    for row in rows:
        for synonym in row.synonyms:
            other = taken.setdefault(synonym.casefold(), row.name)
            if other != row.name:
                raise DatasetError(
                    f"{path} has {synonym!r} among the synonyms of {row.name!r}, but it stands for "
                    f"{other!r}, too; expected each word in one class"
                )


def _with_background(rows: Sequence[ListedClass], name: str) -> list[ListedClass]:
    """Return the classes with that of the background, which comes first and is stuff."""
    background = [row for row in rows if slugify(row.name) == slugify(name)]
    others = [row for row in rows if row not in background]
    color = background[0].color if background else None
    return [ListedClass(0, name, is_thing=False, color=color, is_ignored=False), *others]


def _make_table(listed: ClassList, rows: Sequence[ListedClass]) -> ClassTable:
    tree = [
        {
            "id": row_id,
            "name": row.name,
            "is_thing": row.is_thing is not False,
            "color": row.color,
        }
        for row_id, row in enumerate(rows)
    ]
    num_colors = sum(row.color is not None for row in rows)
    if tree and num_colors == len(rows) - 1 and tree[0]["color"] is None:
        tree[0]["color"] = _free_color(rows)
    try:
        return make_class_table(tree, notes=listed.notes)
    except ConfigError as error:
        raise DatasetError(f"{listed.path}: {error}") from None


def _free_color(rows: Sequence[ListedClass]) -> tuple[int, int, int]:
    """Return a colour of `class_palette` that no class has."""
    taken = {row.color for row in rows}
    colors = ((r, g, b) for r, g, b in class_palette(len(rows) + 1).tolist())
    return next(color for color in ((0, 0, 0), *colors) if color not in taken)
