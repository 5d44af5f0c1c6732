"""The classes of a dataset on disk: the id of each in the files, and the dataset's colours."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

import numpy as np

from seggen_core.colors.palette import class_palette
from seggen_core.errors import ConfigError
from seggen_core.project.publish import read_json
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset, in train-id order."""

    taxonomy: Taxonomy
    """Names, things and stuff."""
    ids: tuple[int, ...]
    """The id of each class in the dataset's files."""
    ignored_ids: tuple[int, ...]
    """Ids in the files that belong to no class."""
    colors: tuple[tuple[int, int, int], ...]
    """(r, g, b) of each class, for pictures; generators have a palette of their own
    (`colors.semantic.class_palette`)."""
    has_own_colors: bool = True
    """The colours are the dataset's, not those of `class_palette`."""
    assumed_ids: frozenset[int] = frozenset()
    """Those of `ignored_ids` that only a convention makes ignored: nothing in the user's files says
    so."""
    ignored_colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    """(r, g, b) by ignored id, where the dataset gives them."""
    notes: tuple[str, ...] = ()
    """What its files hold that isn't read."""

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

    def colors_by_id(self) -> dict[int, tuple[int, int, int]]:
        """The dataset's colours by id in the files; empty where it has none."""
        if not self.has_own_colors:
            return dict(self.ignored_colors)
        return dict(zip(self.ids, self.colors, strict=True)) | dict(self.ignored_colors)

    def names_by_id(self) -> dict[int, str]:
        """What each id in the files is: a slug, or "ignored"; what is only assumed isn't there."""
        listed = {i for i in self.ignored_ids if i not in self.assumed_ids}
        return dict(zip(self.ids, self.taxonomy.slugs, strict=True)) | dict.fromkeys(
            listed, "ignored"
        )

    def allowed(self, dataset: str) -> str:
        """Return the allowed ids in words, for errors: "ade20k allows 1-150 or 0 (ignored)"."""
        ignored = f" or {_ranges(self.ignored_ids)} (ignored)" if self.ignored_ids else ""
        return f"{dataset} allows {_ranges(self.ids)}{ignored}"


def load_class_rows(name: str) -> list[dict[str, Any]]:
    """Return the rows of a table that comes with the package, with `official_name` if any."""
    return list(_load(name)["classes"])


def load_class_table(name: str) -> ClassTable:
    """Return a table that comes with the package (`taxonomies/<name>.json`)."""
    tree = _load(name)
    ignored = tree["ignored_ids"]
    return make_class_table(tree["classes"], ignored_ids=ignored, assumed_ids=ignored)


def _load(name: str) -> dict[str, Any]:
    path = resources.files("seggen_core.datasets").joinpath("taxonomies", f"{name}.json")
    tree: dict[str, Any] = read_json(path)
    return tree


def make_class_table(
    rows: Sequence[Mapping[str, Any]],
    *,
    ignored_ids: Sequence[int] = (),
    assumed_ids: Collection[int] = (),
    ignored_colors: Mapping[int, tuple[int, int, int]] | None = None,
    notes: tuple[str, ...] = (),
) -> ClassTable:
    """Build a table of rows {"id", "name", "is_thing", "color"}.

    Without a colour for every class it gets those of `class_palette`. The other arguments are
    `ClassTable`'s.

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
        frozenset(assumed_ids),
        dict(ignored_colors or {}),
        notes,
    )


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
