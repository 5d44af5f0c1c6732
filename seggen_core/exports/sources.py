"""What is exported: stores by name, the classes that they share, and the samples taken of them."""

import difflib
import operator
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from seggen_core.colors.class_colors import colors_of
from seggen_core.colors.palette import class_palette
from seggen_core.config import SYNTHESIS_METHODS
from seggen_core.config.base import SLUG
from seggen_core.datasets.reader import SPLITS
from seggen_core.errors import ConfigError, SampleStoreError
from seggen_core.exports.sample import ExportSample
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.format import MANIFEST, QUALITY_PREFIX, remedy
from seggen_core.store.reader import SampleStore, open_partitions
from seggen_core.taxonomy import Taxonomy

_CONDITION = re.compile(r"\s*([A-Za-z_]\w*)\s*(<=|>=|<|>)\s*([-+0-9.eE]+)\s*")
_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Condition:
    """A bound on a score of synthetic samples: "mask_confidence>=0.8".

    Attributes:
        score: a score of the store's index, or "judge", that of the stage `judge`.
        comparison: "<", "<=", ">" or ">=".
        bound: what the score is compared with.
    """

    score: str
    comparison: str
    bound: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """Read one; ConfigError where `text` is none."""
        match = _CONDITION.fullmatch(text)
        try:
            if match is not None:
                return cls(match[1], match[2], float(match[3]))
        except ValueError:
            pass
        raise ConfigError(
            f"--where is {text!r}; expected a score, <, <=, > or >=, and a number (judge>=60)"
        )

    def holds(self, scores: np.ndarray) -> np.ndarray:
        """Return bool [N] for float [N] `scores`; a missing score (NaN) fulfils nothing."""
        return _OPERATORS[self.comparison](scores, self.bound)


@dataclass(frozen=True, eq=False)
class Source:
    """One store.

    Attributes:
        name: "real/train", "masksyn/car", or the folder as it was given.
        store: the samples.
        split: "train", "val" or "test"; synthetic samples are for training.
        positions: of the samples that are exported, int64 [N].
    """

    name: str
    store: SampleStore
    split: str
    positions: np.ndarray

    @property
    def is_real(self) -> bool:
        """Whether it is a split of a real dataset."""
        return "method" not in self.store.manifest and "split" in self.store.manifest


@dataclass(frozen=True, eq=False)
class Selection:
    """The samples to export, and what they share.

    Attributes:
        sources: in the order they were given, splits and partitions in that of their names.
        taxonomy: the classes of all masks.
        colors: uint8 [num_classes, 3].
    """

    sources: tuple[Source, ...]
    taxonomy: Taxonomy
    colors: np.ndarray

    def __len__(self) -> int:
        return sum(len(source.positions) for source in self.sources)

    @cached_property
    def splits(self) -> dict[str, int]:
        """Number of samples of each split that has some, train first."""
        counts = {
            split: sum(len(s.positions) for s in self.sources if s.split == split)
            for split in SPLITS
        }
        return {split: count for split, count in counts.items() if count}

    @cached_property
    def licenses(self) -> list[str]:
        """Licences that manifests name, each once."""
        return list(
            dict.fromkeys(
                text for s in self.sources if (text := s.store.manifest.get("license")) is not None
            )
        )

    def without_instances(self, train_ids: Sequence[int]) -> dict[str, int]:
        """Return the samples that show one of these classes and have no instance map, by source."""
        missing = {}
        for source in self.sources:
            rows = source.store.index.iloc[source.positions]
            if len(rows):
                pixels = np.stack(rows["class_pixel_counts"].tolist())[:, list(train_ids)].sum(1)
                missing[source.name] = int(((pixels > 0) & (rows["instances_bytes"] == 0)).sum())
        return {name: count for name, count in missing.items() if count}

    def image_suffixes(self, split: str) -> set[str]:
        """Return the suffixes of stored images of a split."""
        return {
            source.store.manifest["store"]["image_format"]
            for source in self.sources
            if source.split == split and len(source.positions)
        }

    def samples(self) -> Iterator[ExportSample]:
        """Read the samples one by one; SampleStoreError where one is damaged."""
        for source, stem in zip(self.sources, self._stems(), strict=True):
            store, suffix = source.store, source.store.manifest["store"]["image_format"]
            keys = store.keys()
            for position in source.positions.tolist():
                yield ExportSample.read(
                    store,
                    position,
                    key=stem + keys[position],
                    split=source.split,
                    source=source.name,
                    image_suffix=suffix,
                )

    def _stems(self) -> list[str]:
        """Return what goes before the keys of each source, so that no two samples share a name."""
        seen: set[str] = set()
        stems = []
        for source in self.sources:
            keys = {source.store.keys()[p] for p in source.positions.tolist()}
            stem, attempt = "", 1
            while any(stem + key in seen for key in keys):
                attempt += bool(stem)
                stem = re.sub(r"\W+", "_", source.name) + (f"_{attempt}-" if attempt > 1 else "-")
            seen |= {stem + key for key in keys}
            stems.append(stem)
        return stems


def open_selection(
    names: Sequence[str],
    *,
    paths: ProjectPaths,
    limit: int | None = None,
    conditions: Sequence[Condition] = (),
) -> Selection:
    """Open the stores that `names` name.

    Args:
        names: "real", "real/<split>", "<method>", "<method>/<class>", or the folder of a store or
            of partitions.
        paths: the project.
        limit: most samples of each split, spread evenly over its sources; None takes all.
        conditions: bounds on scores of synthetic samples; real samples have none and stay.

    Raises:
        ConfigError: a name names nothing, stores are of different classes, a condition names a
            score that doesn't exist, or no sample is left.
        SampleStoreError: a store isn't finished or is damaged.
    """
    stores: dict[Path, tuple[str, SampleStore]] = {}
    for name in names:
        for label, store in _open(name, paths=paths):
            stores.setdefault(store.folder.resolve(), (label, store))
    rows = _shared_classes([store for _, store in stores.values()], paths=paths)
    taxonomy = Taxonomy.from_json(rows)
    sources = [
        Source(label, store, store.manifest.get("split", "train"), np.arange(len(store)))
        for label, store in stores.values()
    ]
    sources = [_filter(source, conditions, paths=paths) for source in sources]
    if limit is not None:
        sources = _limit(sources, limit)
    selection = Selection(tuple(sources), taxonomy, colors_of(rows))
    if not len(selection):
        counts = ", ".join(f"{source.name} ({len(source.store)})" for source in sources)
        reason = ", --where leaves none of them" if conditions else ""
        raise ConfigError(f"there is no sample to export; samples found: {counts}{reason}")
    return selection


def _open(name: str, *, paths: ProjectPaths) -> list[tuple[str, SampleStore]]:
    """Return the stores that a name names, each with its label."""
    plain = name.strip("/").replace("@", "/")
    first, _, second = plain.partition("/")
    if first == "real" and "/" not in second and second in ("", *SPLITS):
        splits = [second] if second else list(SPLITS)
        return [(f"real/{split}", SampleStore(paths.real(split))) for split in splits]
    method = paths.synthetic(first)
    if first in SYNTHESIS_METHODS or (SLUG.fullmatch(first) and method.is_dir()):
        if second and "/" not in second:
            return [(plain, SampleStore(method / second))]
        if not second:
            return [(f"{first}/{s.folder.name}", s) for s in open_partitions(method)]
    for folder in (paths.root / name, Path(name)):  # what lies in the project comes first
        if (folder / MANIFEST).is_file():
            return [(folder.resolve().name, SampleStore(folder))]
        if folder.is_dir() and any(folder.glob(f"*/{MANIFEST}")):
            stores = open_partitions(folder)
            return [(f"{folder.resolve().name}/{s.folder.name}", s) for s in stores]
    known = _known(paths)
    near = difflib.get_close_matches(plain, known, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    raise ConfigError(
        f"there are no samples {name!r} (no source, and no folder with a {MANIFEST}); {hint}"
        f"there are: {', '.join(known) or 'none; run: dvc repro dataset'}"
    )


def _known(paths: ProjectPaths) -> list[str]:
    """Return the names of what can be exported now."""
    known = [f"real/{split}" for split in SPLITS if (paths.real(split) / MANIFEST).is_file()]
    methods = paths.data / "synthetic"
    folders = methods.iterdir() if methods.is_dir() else ()
    return known + sorted(m.name for m in folders if any(m.glob(f"*/{MANIFEST}")))


def _shared_classes(stores: Sequence[SampleStore], *, paths: ProjectPaths) -> list[dict[str, Any]]:
    """Return the classes that all stores have, as rows with colours.

    Raises:
        ConfigError: two stores have different classes.
        SampleStoreError: nothing says which classes a store has.
    """
    shared: list[dict[str, Any]] = []
    for store in stores:
        rows = store.manifest.get("classes")
        if rows is None:  # made before manifests named their classes
            if not paths.taxonomy.is_file():
                raise SampleStoreError(
                    f"{store.folder / MANIFEST} names no classes, and there is no "
                    f"{paths.taxonomy}; {remedy(store.folder)}"
                )
            taxonomy = Taxonomy.read(paths.taxonomy)
            wanted = store.manifest.get("taxonomy", taxonomy.digest)
            if taxonomy.digest != wanted or len(taxonomy) != store.manifest["store"]["num_classes"]:
                raise SampleStoreError(
                    f"{store.folder} shows other classes than {paths.taxonomy}; "
                    f"{remedy(store.folder)}"
                )
            palette = class_palette(len(taxonomy)).tolist()
            rows = [r | {"color": c} for r, c in zip(taxonomy.to_json(), palette, strict=True)]
        if shared and Taxonomy.from_json(rows) != Taxonomy.from_json(shared):
            raise ConfigError(
                f"{stores[0].folder} and {store.folder} show different classes; expected stores "
                "of one dataset: export them one by one"
            )
        shared = shared or rows
    return shared


def _filter(source: Source, conditions: Sequence[Condition], *, paths: ProjectPaths) -> Source:
    """Keep the samples of a synthetic source that fulfil all conditions."""
    if source.is_real or not len(source.store):
        return source
    keep = np.ones(len(source.store), bool)
    for condition in conditions:
        keep &= condition.holds(_scores(source, condition.score, paths=paths))
    return Source(source.name, source.store, source.split, source.positions[keep])


def quality_scores(index: pd.DataFrame) -> list[str]:
    """Return the names of the scores in a store's index, sorted."""
    columns = [str(column) for column in index.columns]
    return sorted(c.removeprefix(QUALITY_PREFIX) for c in columns if c.startswith(QUALITY_PREFIX))


def _scores(source: Source, name: str, *, paths: ProjectPaths) -> np.ndarray:
    """Return a score of each sample, float64 [N], NaN where a sample has none."""
    index = source.store.index
    if name == "judge":
        method = source.store.manifest.get("method", source.name.partition("/")[0])
        file = paths.report("judge", method) / "scores.csv"
        if not file.is_file():
            raise ConfigError(f"--where judge needs {file}; run: dvc repro judge@{method}")
        scores = pd.read_csv(file).set_index("key")["score"]
        return index["key"].map(scores).to_numpy(np.float64)
    if QUALITY_PREFIX + name not in index.columns:
        known = quality_scores(index)
        raise ConfigError(
            f"{source.name} has no score {name!r}; it has: {', '.join(['judge', *known])}"
        )
    return index[QUALITY_PREFIX + name].to_numpy(np.float64)


def _limit(sources: Sequence[Source], limit: int) -> list[Source]:
    """Take `limit` samples of each split at even distances."""
    limited = []
    for split in SPLITS:
        ours = [source for source in sources if source.split == split]
        total = sum(len(source.positions) for source in ours)
        num = min(limit, total)
        taken = np.arange(num) * total // max(num, 1)
        start = 0
        for source in ours:
            end = start + len(source.positions)
            mine = source.positions[taken[(taken >= start) & (taken < end)] - start]
            limited.append(Source(source.name, source.store, split, mine))
            start = end
    return limited
