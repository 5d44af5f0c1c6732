"""Checks of the real dataset and of every sample store made from it, without changing anything."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from seggen_core.config import SegGenConfig, Split
from seggen_core.datasets.reader import SPLITS, DatasetReader, open_dataset
from seggen_core.errors import DatasetError, SampleStoreError
from seggen_core.paths import ProjectPaths
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

if TYPE_CHECKING:
    from seggen_core.synthesis.sample_store import SampleStore

_CHUNK = 256


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, and what was found and expected."""

    where: str
    what: str


@dataclass(frozen=True)
class SplitSummary:
    """One split of the real dataset.

    Attributes:
        split: its name.
        num_samples: keys listed, bad ones among them.
        num_bad: samples that can't be used.
        sizes: sound samples by "WIDTHxHEIGHT", most frequent first.
        class_pixels: pixels per train id.
        class_samples: sound samples in which the class occurs, per train id.
        ignored_pixels: pixels that belong to no class.
    """

    split: str
    num_samples: int
    num_bad: int
    sizes: dict[str, int]
    class_pixels: list[int]
    class_samples: list[int]
    ignored_pixels: int


@dataclass(frozen=True)
class StoreSummary:
    """One sample store of the project: its folder, and how many of its samples are bad."""

    name: str
    num_samples: int
    num_bad: int


@dataclass(frozen=True)
class ValidationReport:
    """What `validate_project` found.

    Attributes:
        dataset: name of the reader.
        class_names: in train-id order.
        splits: the real dataset.
        stores: sample stores below data/.
        problems: what has to be put right; the dataset is sound where this is empty.
        tolerated: bad samples of the dataset, where there are no more than `max_bad` in a split.
        notes: worth knowing, not wrong.
    """

    dataset: str
    class_names: list[str]
    splits: list[SplitSummary]
    stores: list[StoreSummary]
    problems: list[Problem] = field(default_factory=list)
    tolerated: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict:
        """Return plain dicts and lists, for the report file."""
        return asdict(self)

    def render(self, *, max_listed: int = 20) -> str:
        """Return readable tables, with the first `max_listed` problems in full."""
        lines = [f"{self.dataset}: " + ", ".join(f"{s.split} {s.num_samples}" for s in self.splits) + " samples", ""]
        names = ["class", *(f"{s.split} %" for s in self.splits), *(f"in {s.split}" for s in self.splits)]
        rows = [names]
        for i, name in enumerate(self.class_names):
            shares = [f"{100 * s.class_pixels[i] / max(1, sum(s.class_pixels) + s.ignored_pixels):.2f}" for s in self.splits]
            rows.append([name, *shares, *(str(s.class_samples[i]) for s in self.splits)])
        ignored = [f"{100 * s.ignored_pixels / max(1, sum(s.class_pixels) + s.ignored_pixels):.2f}" for s in self.splits]
        rows.append(["(ignored)", *ignored, *("" for _ in self.splits)])
        lines += [*_table(rows), ""]
        for s in self.splits:
            sizes = ", ".join(f"{size} ({n})" for size, n in list(s.sizes.items())[:4]) + (", ..." if len(s.sizes) > 4 else "")
            lines.append(f"{s.split}: {s.num_bad} of {s.num_samples} samples bad; sizes: {sizes or 'none'}")
        if self.stores:
            lines += [
                "",
                *_table([["store", "samples", "bad"], *([s.name, str(s.num_samples), str(s.num_bad)] for s in self.stores)]),
            ]
        lines += ["", *(f"note: {n}" for n in self.notes)] if self.notes else []
        for title, problems in (("tolerated", self.tolerated), ("problem", self.problems)):
            lines += ["", *(f"{title}: {p.where}: {p.what}" for p in problems[:max_listed])] if problems else []
            lines += [f"... and {len(problems) - max_listed} more"] if len(problems) > max_listed else []
        lines += ["", f"{len(self.problems)} problem(s)" if self.problems else "no problems"]
        return "\n".join(lines)


def validate_project(config: SegGenConfig, *, paths: ProjectPaths, max_bad: int = 0) -> ValidationReport:
    """Decode every sample of the real dataset and of every store below data/real and data/synthetic.

    Args:
        config: which dataset; its `classes` are compared with the taxonomy.
        paths: the project.
        max_bad: bad samples a split may have before they count as problems.

    Raises:
        ConfigError, DatasetError: the dataset can't be opened at all.
    """
    reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
    taxonomy = reader.taxonomy
    report = ValidationReport(config.dataset.name, [c.name for c in taxonomy], [], [])

    # 1. Classes.
    unknown = [slug for slug in config.classes if slug not in taxonomy.slugs]
    if unknown:
        report.problems.append(
            Problem("params.yaml", f"classes names {', '.join(unknown)}; {config.dataset.name} has {', '.join(taxonomy.slugs)}")
        )
    unlisted = [slug for slug in taxonomy.slugs if slug not in config.classes]
    if unlisted:
        report.notes.append(f"no synthetic samples are made for {', '.join(unlisted)}: not among 'classes' in params.yaml")

    # 2. Every sample of every split.
    held_by: dict[str, list[tuple[Split, str]]] = defaultdict(list)
    for split in SPLITS:
        summary, bad, hashes = _check_split(reader, split, num_threads=config.runtime.num_threads)
        report.splits.append(summary)
        (report.tolerated if len(bad) <= max_bad else report.problems).extend(bad)
        for key, digest in hashes.items():
            held_by[digest].append((split, key))
    for i, name in enumerate(report.class_names):
        absent = [s.split for s in report.splits if not s.class_samples[i]]
        if absent:
            report.notes.append(f"class {name!r} occurs in no sample of {', '.join(absent)}")

    # 3. The same picture twice: a leak between splits, or a duplicate within one.
    for copies in held_by.values():
        if len({split for split, _ in copies}) > 1:
            where = " = ".join(f"{split}/{key}" for split, key in copies)
            report.problems.append(
                Problem(where, "the same image is in several splits, so the evaluation is not on unseen data; keep it in one")
            )
    twice = sum(len(c) - 1 for c in held_by.values() if len(c) > 1 and len({split for split, _ in c}) == 1)
    if twice:
        report.notes.append(f"{twice} image(s) repeat another of the same split")

    # 4. Stores.
    for folder in _store_folders(paths):
        store_summary, store_problems = _check_store(folder, taxonomy=taxonomy, name=folder.relative_to(paths.root).as_posix())
        report.stores.append(store_summary)
        report.problems.extend(store_problems)
    return report


def _check_split(reader: DatasetReader, split: Split, *, num_threads: int) -> tuple[SplitSummary, list[Problem], dict[str, str]]:
    """Return the summary of a split, its bad samples, and the hash of every sound image."""
    num_classes = len(reader.taxonomy)
    keys = reader.keys(split)
    problems: list[Problem] = []
    hashes: dict[str, str] = {}
    sizes: Counter[str] = Counter()
    pixels, samples = np.zeros(256, np.int64), np.zeros(256, np.int64)

    def check(key: str) -> tuple[str, str, np.ndarray] | DatasetError:
        try:
            sample = reader.read(split, key)
        except DatasetError as error:
            return error
        height, width = sample.segmentation_map.shape
        digest = hashlib.blake2b(
            f"{width}x{height}".encode() + np.ascontiguousarray(sample.image).data, digest_size=16
        ).hexdigest()
        return digest, f"{width}x{height}", np.bincount(sample.segmentation_map.ravel(), minlength=256)

    with ThreadPoolExecutor(num_threads) as pool, tqdm(total=len(keys), desc=f"check {split}", unit="image", disable=None) as bar:
        for start in range(0, len(keys), _CHUNK):  # in chunks, so that results don't pile up
            chunk = keys[start : start + _CHUNK]
            for key, result in zip(chunk, pool.map(check, chunk), strict=True):
                bar.update()
                if isinstance(result, DatasetError):
                    problems.append(Problem(f"{split}/{key}", str(result)))
                    continue
                hashes[key] = result[0]
                sizes[result[1]] += 1
                pixels += result[2]
                samples += result[2] > 0
    if not keys:
        problems.append(Problem(split, "the split holds no samples; expected at least one"))
    foreign = np.flatnonzero(pixels[num_classes:IGNORE_INDEX]) + num_classes
    assert not foreign.size, f"the reader let train ids {foreign.tolist()} through"
    summary = SplitSummary(
        split=split,
        num_samples=len(keys),
        num_bad=len(problems),
        sizes=dict(sizes.most_common()),
        class_pixels=pixels[:num_classes].tolist(),
        class_samples=samples[:num_classes].tolist(),
        ignored_pixels=int(pixels[IGNORE_INDEX]),
    )
    return summary, problems, hashes


def _store_folders(paths: ProjectPaths) -> Iterator[Path]:
    """Yield the folders of the real splits and of all class partitions that exist."""
    yield from (paths.real(split) for split in SPLITS if paths.real(split).is_dir())
    synthetic = paths.data / "synthetic"
    yield from sorted(p for p in synthetic.glob("*/*") if p.is_dir())


def _check_store(folder: Path, *, taxonomy: Taxonomy, name: str) -> tuple[StoreSummary, list[Problem]]:
    """Decode every sample of one store and compare its masks with the taxonomy."""
    from seggen_core.synthesis.sample_store import SampleStore

    try:
        store = SampleStore(folder)
        keys = store.keys()
    except SampleStoreError as error:
        return StoreSummary(name, 0, 0), [Problem(name, str(error))]
    problems: list[Problem] = []
    for key in tqdm(keys, desc=f"check {name}", unit="sample", disable=None):
        try:
            what = _store_sample_problem(store, key, taxonomy=taxonomy)
        except SampleStoreError as error:
            what = str(error)
        if what:
            problems.append(Problem(f"{name}/{key}", what))
    return StoreSummary(name, len(keys), len(problems)), problems


def _store_sample_problem(store: "SampleStore", key: str, *, taxonomy: Taxonomy) -> str | None:
    sample = store[key]
    if sample.image.shape[:2] != sample.segmentation_map.shape:
        return f"the image is {sample.image.shape[:2]} but its mask {sample.segmentation_map.shape}; expected the same size"
    ids = np.unique(sample.segmentation_map)
    foreign = ids[(ids >= len(taxonomy)) & (ids != IGNORE_INDEX)]
    if foreign.size:
        return f"the mask has label {', '.join(map(str, foreign[:5]))}; expected 0-{len(taxonomy) - 1} or {IGNORE_INDEX}"
    return None


def _table(rows: list[list[str]]) -> list[str]:
    """Align columns: the first to the left, numbers to the right."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(r, widths, strict=True))).rstrip()
        for r in rows
    ]
