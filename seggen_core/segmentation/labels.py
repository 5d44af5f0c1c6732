"""The classes of an arm's segmenter, and how labels of the dataset become its labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from seggen_core.config import VariantConfig
from seggen_core.errors import ConfigError
from seggen_core.taxonomy import IGNORE_INDEX, REST, SegmentationClass, Taxonomy


@dataclass(frozen=True, eq=False)
class LabelSpace:
    """The classes that a segmenter tells apart.

    Attributes:
        dataset: the dataset's classes, which stored masks show.
        known: slugs of the classes that the segmenter has, besides "rest"; empty if it has all of
            them and no "rest".
        hidden: slugs of classes whose real labels are ignored.
        ignored_is_rest: in synthetic masks, ignored pixels are "rest".
    """

    dataset: Taxonomy
    known: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    ignored_is_rest: bool = False

    @classmethod
    def of(cls, variant: VariantConfig, dataset: Taxonomy) -> "LabelSpace":
        """Return the classes of an arm.

        Raises:
            ConfigError: it names a class that the dataset hasn't, or the dataset has a class called
                "rest".
        """
        for slug in (*variant.known_classes, *variant.hidden_classes):
            dataset.by_slug(slug)
        known = variant.known_classes
        if known and REST in dataset.slugs:
            raise ConfigError(
                f"the dataset has a class {REST!r}, which is the name of the class of all pixels "
                "outside of known_classes; rename it, or remove known_classes"
            )
        return cls(dataset, known, variant.hidden_classes, variant.ignored_is_rest)

    @cached_property
    def taxonomy(self) -> Taxonomy:
        """The segmenter's classes: those it knows, in the dataset's order, then "rest"."""
        if not self.known:
            return self.dataset
        chosen = [c for c in self.dataset if c.slug in self.known]
        rows = [(c.name, c.is_thing) for c in chosen] + [(REST, False)]
        return Taxonomy([SegmentationClass(i, *row) for i, row in enumerate(rows)])

    @cached_property
    def truth_table(self) -> np.ndarray | None:
        """The segmenter's id of each value of a stored mask, uint8 [256]; None: the same ids.

        Labels that scores are counted on: nothing is hidden.
        """
        return self._table() if self.known else None

    @cached_property
    def real_table(self) -> np.ndarray | None:
        """The same for the real masks that the segmenter is trained on."""
        return self._table(hidden=self.hidden) if self.known or self.hidden else None

    @cached_property
    def synthetic_table(self) -> np.ndarray | None:
        """The same for the synthetic masks that the segmenter is trained on."""
        if not self.known:
            return None
        table = self._table()
        if self.ignored_is_rest:
            table[IGNORE_INDEX] = len(self.taxonomy) - 1
        return table

    def count(self, pixel_counts: np.ndarray) -> np.ndarray:
        """Return pixels by class of the segmenter, int64, from int [C] by class of the dataset."""
        if self.truth_table is None:
            return pixel_counts
        ids = self.truth_table[: len(self.dataset)]
        return np.bincount(ids, pixel_counts, len(self.taxonomy)).astype(np.int64)

    def _table(self, *, hidden: Sequence[str] = ()) -> np.ndarray:
        table = np.full(256, IGNORE_INDEX, np.uint8)
        id_of = {slug: i for i, slug in enumerate(self.taxonomy.slugs)}
        for c in self.dataset:
            if c.slug not in hidden:
                table[c.train_id] = id_of.get(c.slug, len(id_of) - 1)
        return table


def relabel(mask: np.ndarray, table: np.ndarray | None) -> np.ndarray:
    """Return a mask, uint8 [H, W], with its values looked up in a table; None keeps them."""
    return mask if table is None else table[mask]
