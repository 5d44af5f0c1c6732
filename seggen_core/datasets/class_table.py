"""The classes of a dataset on disk: the id of each in the files, and the dataset's colours."""

import csv
import io
import json
import reprlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.colors.semantic import class_palette
from seggen_core.datasets.files import read_text
from seggen_core.datasets.strict_json import parse_json
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy

_EXPECTED = (
    "a JSON list of {id, name, is_thing, color, ignore} or a CSV table with these columns (id and "
    "name are required; color is [r, g, b], in CSV r g b)"
)
_NUM_IDS = 1 << 16
_TRUE, _FALSE = {"1", "true", "yes"}, {"0", "false", "no", ""}


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset, in train-id order.

    Attributes:
        taxonomy: names, things and stuff.
        ids: the id of each class in the dataset's files.
        ignored_ids: ids in the files that belong to no class.
        colors: (r, g, b) of each class, for pictures; generators have a palette of their own
            (`colors.semantic.class_palette`).
        has_own_colors: the colours are the dataset's, not those of `class_palette`.
    """

    taxonomy: Taxonomy
    ids: tuple[int, ...]
    ignored_ids: tuple[int, ...]
    colors: tuple[tuple[int, int, int], ...]
    has_own_colors: bool = True

    @property
    def palette(self) -> np.ndarray:
        """The colours, uint8 [num_classes, 3]."""
        return np.array(self.colors, np.uint8)

    @property
    def train_ids(self) -> dict[int, int]:
        """Id in the files to train id; ignored ids to IGNORE_INDEX."""
        return {file_id: train_id for train_id, file_id in enumerate(self.ids)} | dict.fromkeys(
            self.ignored_ids, IGNORE_INDEX
        )

    def allowed(self, dataset: str) -> str:
        """Return the allowed ids in words, for errors: "ade20k allows 1-150 or 0 (ignored)"."""
        ignored = f" or {_ranges(self.ignored_ids)} (ignored)" if self.ignored_ids else ""
        return f"{dataset} allows {_ranges(self.ids)}{ignored}"


def load_class_table(name: str) -> ClassTable:
    """Return a table that comes with the package (`taxonomies/<name>.json`)."""
    text = (
        resources.files("seggen_core.datasets")
        .joinpath("taxonomies", f"{name}.json")
        .read_text(encoding="utf-8")
    )
    tree = json.loads(text)
    return make_class_table(tree["classes"], ignored_ids=tree["ignored_ids"])


def make_class_table(
    rows: Sequence[Mapping[str, Any]], *, ignored_ids: Sequence[int] = ()
) -> ClassTable:
    """Build a table of rows {"id", "name", "is_thing", "color"}.

    Without a colour for every class it gets those of `class_palette`.

    Raises:
        ConfigError: two rows share an id or a slug, or there are none or more than 255.
    """
    ids = [int(row["id"]) for row in rows]
    repeated = sorted(i for i, count in Counter([*ids, *ignored_ids]).items() if count > 1)
    if repeated:
        raise ConfigError(
            f"the class list gives id {', '.join(map(str, repeated[:5]))} twice; expected one "
            "class an id"
        )
    taxonomy = Taxonomy(
        [
            SegmentationClass(i, str(row["name"]), bool(row.get("is_thing")))
            for i, row in enumerate(rows)
        ]
    )
    colors = [row["color"] for row in rows if row.get("color") is not None]
    has_own_colors = len(colors) == len(rows)
    if not has_own_colors:
        colors = class_palette(len(rows)).tolist()
    return ClassTable(
        taxonomy,
        tuple(ids),
        tuple(map(int, ignored_ids)),
        tuple((r, g, b) for r, g, b in colors),
        has_own_colors,
    )


def read_class_file(path: Path) -> ClassTable:
    """Read the user's class list, JSON or CSV.

    Rows with `ignore` set name ids that belong to no class. 255 is ignored too, unless a class has
    it.

    Raises:
        DatasetError: the file is missing, or isn't such a list; the message says in which row.
    """
    text = read_text(path, expected=f"the class list, {_EXPECTED}: set dataset.classes_file")
    rows = _json_rows(text, path=path) if path.suffix.lower() == ".json" else _csv_rows(text, path)
    if len(rows) > _NUM_IDS:
        raise DatasetError(f"{path} has {len(rows)} rows; expected at most one an id, {_NUM_IDS}")
    checked = [_check_row(row, row_number=i, path=path) for i, row in enumerate(rows, start=1)]
    classes = [row for row in checked if not row["ignore"]]
    ignored = {row["id"] for row in checked if row["ignore"]}
    if IGNORE_INDEX not in {row["id"] for row in classes}:
        ignored.add(IGNORE_INDEX)
    try:
        return make_class_table(classes, ignored_ids=sorted(ignored))
    except ConfigError as error:
        raise DatasetError(f"{path}: {error}") from None


def _csv_rows(text: str, path: Path) -> list[Any]:
    try:
        table = csv.DictReader(io.StringIO(text))
        repeated = [c for c, count in Counter(table.fieldnames or ()).items() if count > 1]
        if repeated:
            raise csv.Error(f"column {repeated[0]!r} stands twice in the first line")
        return list(table)
    except csv.Error as error:
        raise DatasetError(f"{path} is no CSV table: {error}; expected {_EXPECTED}") from None


def _json_rows(text: str, *, path: Path) -> list[Any]:
    try:
        tree = parse_json(text)
    except ValueError as error:
        raise DatasetError(f"{path} is not valid JSON: {error}; expected {_EXPECTED}") from None
    if isinstance(tree, dict):  # {"1": "wall"}, as transformers' id2label
        return [{"id": key, "name": value} for key, value in tree.items()]
    if not isinstance(tree, list):
        raise DatasetError(f"{path} holds {type(tree).__name__}; expected {_EXPECTED}")
    return tree


def _check_row(row: Any, *, row_number: int, path: Path) -> dict[str, Any]:
    where = f"{path}, row {row_number}"
    if (
        not isinstance(row, dict)
        or row.get("id") in (None, "")
        or not isinstance(row.get("name"), str | int | float)
        or row["name"] == ""
    ):
        raise DatasetError(f"{where} is {reprlib.repr(row)}; expected {_EXPECTED}")
    try:
        file_id = int(row["id"])
    except (TypeError, ValueError, OverflowError):
        file_id = -1
    if not 0 <= file_id < _NUM_IDS:
        raise DatasetError(
            f"{where} has id {reprlib.repr(row['id'])}; expected a whole number from 0 to "
            f"{_NUM_IDS - 1}"
        )
    color = row.get("color") or None
    if isinstance(color, str):
        color = color.replace(",", " ").split()
    try:
        color = None if color is None else [int(c) for c in color]
    except (TypeError, ValueError, OverflowError):
        color = []
    if color is not None and (len(color) != 3 or not all(0 <= c <= 255 for c in color)):
        raise DatasetError(
            f"{where} has color {reprlib.repr(row['color'])}; expected three numbers from 0 to 255"
        )
    flags = {flag: _flag(row.get(flag), flag=flag, where=where) for flag in ("is_thing", "ignore")}
    return {"id": file_id, "name": str(row["name"]).strip(), "color": color, **flags}


def _flag(value: Any, *, flag: str, where: str) -> bool:
    word = str("" if value is None else value).strip().lower()
    if word not in _TRUE | _FALSE:
        raise DatasetError(f"{where} has {flag} {reprlib.repr(value)}; expected true or false")
    return word in _TRUE


def _ranges(ids: Sequence[int]) -> str:
    """Write sorted numbers as "0-10, 12, 20-21"."""
    ordered = sorted(ids)
    runs: list[list[int]] = []
    for i in ordered:
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
