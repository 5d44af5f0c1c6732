"""What the readers share that know the samples of each split: classes, keys and notes."""

from collections.abc import Mapping, Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np

from seggen_core.config import DatasetConfig, Split
from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.splits import Runs, plan_splits, published_splits
from seggen_core.taxonomy import Taxonomy


class _Classes(Protocol):
    @property
    def taxonomy(self) -> Taxonomy: ...

    @property
    def palette(self) -> np.ndarray: ...

    @property
    def notes(self) -> Sequence[str]: ...


Table = TypeVar("Table", bound=_Classes)


class SplitReader(Generic[Table]):
    """The part of a `DatasetReader` that reads no file."""

    def __init__(self, table: Table) -> None:
        """Take the classes; no split has a sample yet."""
        self._table = table
        self._notes = list(table.notes)
        self._keys: dict[Split, list[str]] = {split: [] for split in SPLITS}
        self._drawn: frozenset[Split] = frozenset()

    def _choose(
        self,
        published: Mapping[Split, Sequence[str]],
        *,
        config: DatasetConfig,
        seed: int,
        dataset: str,
        runs: Runs | None = None,
    ) -> dict[Split, Split]:
        """Choose the samples of each split; see `plan_splits`.

        Returns:
            The published split that the files of each split are in.
        """
        chosen = plan_splits(published, config=config, seed=seed, dataset=dataset, runs=runs)
        self._notes += [
            f"dataset.files.{split} isn't read, because dataset.splits is {config.splits}"
            for split in config.files
            if split not in published_splits(config)
        ]
        self._keys = {split: keys for split, (_, keys) in chosen.items()}
        self._drawn = frozenset(s for s, (source, _) in chosen.items() if source == "train" != s)
        return {split: source for split, (source, _) in chosen.items()}

    def _note_missing_splits(
        self, sources: Mapping[Split, Split], *, config: DatasetConfig
    ) -> None:
        """Note each split that isn't published, so that its samples are taken out of train."""
        self._notes += [
            f"there is no {split} split; {len(self._keys[split])} samples are taken out of train "
            "for it"
            for split, source in sources.items()
            if config.splits == "published" and source != split
        ]

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes that segmentation maps are in."""
        return self._table.taxonomy

    @property
    def palette(self) -> np.ndarray:
        """Colours of the classes in pictures, uint8 [num_classes, 3]."""
        return self._table.palette

    @property
    def drawn_splits(self) -> frozenset[Split]:
        """The splits whose samples are taken out of train."""
        return self._drawn

    @property
    def notes(self) -> list[str]:
        """What the files hold that isn't read, and what they don't say."""
        return list(self._notes)

    def keys(self, split: Split) -> list[str]:
        """Return the keys of a split, in the order in which they are chosen: mostly sorted."""
        return list(self._keys[split])
