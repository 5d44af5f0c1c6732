"""The classes of a dataset: contiguous train ids, names, slugs, and thing or stuff."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from seggen_core.errors import ConfigError
from seggen_core.project.artefacts import damaged, read_artefact
from seggen_core.project.digests import json_digest

IGNORE_INDEX = 255
"""Mask value of a pixel that belongs to no class: it enters neither losses nor metrics."""

REST = "rest"
"""Name and slug of the class of all pixels whose class an arm doesn't know (`known_classes`)."""


_UNFIT = ("Cc", "Cs", "Zl", "Zp")
"""Unicode's categories of control characters, halves of characters, and line breaks."""


def is_fit_name(name: str) -> bool:
    """Return whether a class may be called so: prompts hold no control character or line break."""
    return bool(name.strip()) and not any(unicodedata.category(x) in _UNFIT for x in name)


def slugify(name: str) -> str:
    """Return `name` as it keys paths, DVC items and partitions; "" where it has no such letter.

    Letters lose their accents and become lower case ("Öl" is "ol", "Straße" "strasse"); whatever is
    no letter or digit of ASCII then becomes ``_``.
    """
    decomposed = unicodedata.normalize("NFKD", name.casefold())
    plain = "".join(c for c in decomposed if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


@dataclass(frozen=True)
class SegmentationClass:
    """One class of a taxonomy.

    Attributes:
        train_id: contiguous id, 0 to ``num_classes - 1``: the value that masks hold.
        name: as written in prompts and captions ("potted plant").
        is_thing: True for countable objects, False for stuff.
    """

    train_id: int
    name: str
    is_thing: bool

    @property
    def slug(self) -> str:
        """The class as it keys paths and partitions ("potted_plant").

        A name without a letter or digit of ASCII ("道路") is keyed by its train id ("class_3").
        """
        return slugify(self.name) or f"class_{self.train_id}"


class _Row(BaseModel):
    """One class as `Taxonomy.to_json` writes it."""

    train_id: int
    name: str
    is_thing: bool


class Taxonomy(Sequence[SegmentationClass]):
    """An ordered, immutable list of classes, indexed by train id."""

    def __init__(self, classes: Sequence[SegmentationClass]) -> None:
        """Take the classes.

        Raises:
            ConfigError: train ids aren't 0..N-1 in order, two classes share a slug, or a name is
                empty, has a line break or another character that no prompt can hold.
        """
        if not 1 <= len(classes) <= IGNORE_INDEX:
            raise ConfigError(f"a taxonomy holds 1 to {IGNORE_INDEX} classes, got {len(classes)}")
        if [c.train_id for c in classes] != list(range(len(classes))):
            raise ConfigError(
                f"train ids must be 0..{len(classes) - 1} in order, got "
                f"{[c.train_id for c in classes]}"
            )
        seen: dict[str, str] = {}
        for c in classes:
            if not is_fit_name(c.name):
                raise ConfigError(
                    f"class {c.train_id} is called {c.name!a}; expected a name of letters that can "
                    "be printed, without line breaks: rename it"
                )
            if c.slug in seen:
                raise ConfigError(
                    f"classes {seen[c.slug]!r} and {c.name!r} share the slug {c.slug!r}; "
                    "rename one of them"
                )
            seen[c.slug] = c.name
        self._classes = tuple(classes)

    @classmethod
    def read(cls, path: Path) -> "Taxonomy":
        """Read a file that holds what `to_json` returns, as the stage `dataset` writes it.

        Raises:
            ArtefactError: it holds something else.
        """
        rows = read_artefact(path, list[_Row], stage="dataset")
        try:
            return cls.from_json([row.model_dump() for row in rows])
        except ConfigError as error:
            raise damaged(path, str(error), stage="dataset") from None

    @classmethod
    def from_names(cls, *, stuff: Sequence[str], things: Sequence[str]) -> "Taxonomy":
        """Build a taxonomy with the stuff classes first, then the things."""
        names = [(n, False) for n in stuff] + [(n, True) for n in things]
        return cls(
            [SegmentationClass(i, name, is_thing) for i, (name, is_thing) in enumerate(names)]
        )

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        return self._classes[index]

    def __len__(self) -> int:
        return len(self._classes)

    def __iter__(self) -> Iterator[SegmentationClass]:
        return iter(self._classes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Taxonomy) and self._classes == other._classes

    def __hash__(self) -> int:
        return hash(self._classes)

    @property
    def id2label(self) -> dict[int, str]:
        """Train id to class name, as transformers models want it."""
        return {c.train_id: c.name for c in self}

    @property
    def slugs(self) -> list[str]:
        """Slugs in train-id order."""
        return [c.slug for c in self]

    def by_slug(self, slug: str) -> SegmentationClass:
        """Return the class with this slug; ConfigError names the known ones where there is none."""
        for c in self:
            if c.slug == slug:
                return c
        raise ConfigError(f"there is no class {slug!r}; this taxonomy has: {', '.join(self.slugs)}")

    def to_json(self) -> list[dict[str, object]]:
        """Return a JSON-ready list, read back by `from_json`."""
        return [{"train_id": c.train_id, "name": c.name, "is_thing": c.is_thing} for c in self]

    @property
    def digest(self) -> str:
        """Recognises the classes: every store names the digest of those that its masks show."""
        return json_digest(self.to_json())

    @classmethod
    def from_json(cls, rows: Sequence[dict]) -> "Taxonomy":
        """Inverse of `to_json`."""
        return cls(
            [
                SegmentationClass(int(r["train_id"]), str(r["name"]), bool(r["is_thing"]))
                for r in rows
            ]
        )
