"""The colours of a dataset's classes in pictures, as they lie beside the classes on disk.

They are the dataset's own where it has some. Generators have other ones (`colors.palette`).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.colors.palette import class_palette
from seggen_core.errors import ConfigError
from seggen_core.taxonomy import Taxonomy


def colored_classes(taxonomy: Taxonomy, colors: np.ndarray) -> list[dict[str, Any]]:
    """Return the classes as JSON-ready rows with "train_id", "name", "is_thing" and "color".

    `Taxonomy.from_json` reads these rows, too.

    Args:
        taxonomy: the classes.
        colors: uint8 [num_classes, 3], RGB.
    """
    assert colors.shape == (len(taxonomy), 3), colors.shape
    return [
        row | {"color": color}
        for row, color in zip(taxonomy.to_json(), colors.tolist(), strict=True)
    ]


def with_synonyms(
    rows: list[dict[str, Any]], synonyms: Mapping[str, Sequence[str]]
) -> list[dict[str, Any]]:
    """Return the rows of `colored_classes`, those of classes with synonyms with "synonyms"."""
    return [
        row | {"synonyms": list(words)} if (words := synonyms.get(known.slug)) else row
        for row, known in zip(rows, Taxonomy.from_json(rows), strict=True)
    ]


def read_synonyms(taxonomy_file: Path) -> dict[str, tuple[str, ...]]:
    """Return what else prompts call the classes in data/real/taxonomy.json, by slug."""
    rows = json.loads(taxonomy_file.read_text(encoding="utf-8"))
    pairs = zip(Taxonomy.from_json(rows), rows, strict=True)
    return {c.slug: tuple(map(str, row["synonyms"])) for c, row in pairs if row.get("synonyms")}


def colors_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """Return the colours of rows that `colored_classes` made, uint8 [num_classes, 3].

    Rows of an earlier seggen have no colour; then these are the colours of `class_palette`.

    Raises:
        ConfigError: a colour is no list of three numbers from 0 to 255.
    """
    if any(row.get("color") is None for row in rows):
        return class_palette(len(rows))
    for row in rows:
        color = row["color"]
        values = color if isinstance(color, list) else []
        if len(values) != 3 or any(type(v) is not int or not 0 <= v <= 255 for v in values):
            raise ConfigError(
                f"class {row.get('name')!r} has the colour {color!r}; expected three whole numbers "
                "from 0 to 255"
            )
    return np.array([row["color"] for row in rows], np.uint8)


def read_class_colors(taxonomy_file: Path) -> np.ndarray:
    """Return the colours in data/real/taxonomy.json, uint8 [num_classes, 3]."""
    return colors_of(json.loads(taxonomy_file.read_text(encoding="utf-8")))
