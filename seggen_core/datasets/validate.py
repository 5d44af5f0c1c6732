"""Checks of the real dataset and of every sample store made from it, without changing anything."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from tqdm import tqdm

from seggen_core.config import SegGenConfig, Split
from seggen_core.datasets.reader import SPLITS, DatasetReader, open_dataset
from seggen_core.datasets.validation_report import (
    Problem,
    SplitSummary,
    StoreSummary,
    ValidationReport,
)
from seggen_core.errors import DatasetError, SampleStoreError
from seggen_core.project.parallel import ordered_map
from seggen_core.project.paths import ProjectPaths
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

if TYPE_CHECKING:
    from seggen_core.store.reader import SampleStore


class _Checked(NamedTuple):
    """A sound sample: size as "WIDTHxHEIGHT"; hash of its image and pixels per id, where it was decoded."""

    size: str
    digest: bytes | None
    pixels: np.ndarray | None


def validate_project(
    config: SegGenConfig, *, paths: ProjectPaths, max_bad: int = 0, headers_only: bool = False
) -> ValidationReport:
    """Check every sample of the real dataset and of every store below data/real and data/synthetic.

    Args:
        config: which dataset; its `classes` are compared with the taxonomy.
        paths: the project.
        max_bad: bad samples a split may have before they count as problems.
        headers_only: look at names, links and headers alone, and leave the stores: ten times as
            fast.

    Raises:
        ConfigError, DatasetError: the dataset can't be opened at all.
    """
    reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
    taxonomy = reader.taxonomy
    report = ValidationReport(
        config.dataset.name, [c.name for c in taxonomy], [], [], headers_only=headers_only
    )
    report.notes.extend(reader.notes)

    # 1. Classes.
    unknown = [slug for slug in config.classes if slug not in taxonomy.slugs]
    if unknown:
        report.problems.append(
            Problem(
                "params.yaml",
                f"classes names {', '.join(unknown)}; {config.dataset.name} has {', '.join(taxonomy.slugs)}",
            )
        )
    unlisted = [slug for slug in taxonomy.slugs if slug not in config.classes]
    if unlisted:
        report.notes.append(
            f"no synthetic samples are made for {', '.join(unlisted)}: not among 'classes' in params.yaml"
        )

    # 2. Every sample of every split.
    held_by: dict[bytes, list[tuple[Split, str]]] = defaultdict(list)
    for split in SPLITS:
        summary, bad, hashes = _check_split(
            reader, split, num_threads=config.runtime.num_threads, headers_only=headers_only
        )
        report.splits.append(summary)
        (report.tolerated if len(bad) <= max_bad else report.problems).extend(bad)
        for key, digest in hashes.items():
            held_by[digest].append((split, key))
    if headers_only:
        return report
    for i, name in enumerate(report.class_names):
        absent = [s.split for s in report.splits if not s.class_samples[i]]
        if absent:
            report.notes.append(f"class {name!r} occurs in no sample of {', '.join(absent)}")

    # 3. The same picture twice: a leak between splits, or a duplicate within one.
    twice = wanted = 0
    for copies in held_by.values():
        splits = {split for split, _ in copies}
        twice += sum(len([k for s, k in copies if s == split]) - 1 for split in splits)
        if config.dataset.keep_val_in_train and splits == {"train", "val"}:
            wanted += 1
        elif len(splits) > 1:
            where = " = ".join(f"{split}/{key}" for split, key in copies)
            report.problems.append(
                Problem(
                    where,
                    "the same image is in several splits, so the evaluation is not on unseen data; keep it in one",
                )
            )
    if twice:
        report.notes.append(f"{twice} image(s) repeat another of the same split")
    if wanted:
        report.notes.append(
            f"{wanted} validation image(s) are trained on too, as dataset.keep_val_in_train says"
        )

    # 4. Stores.
    for folder in _store_folders(paths):
        store_summary, store_problems = check_store(
            folder, taxonomy=taxonomy, name=folder.relative_to(paths.root).as_posix()
        )
        report.stores.append(store_summary)
        report.problems.extend(store_problems)
    return report


def _check_split(
    reader: DatasetReader, split: Split, *, num_threads: int, headers_only: bool
) -> tuple[SplitSummary, list[Problem], dict[str, bytes]]:
    """Return the summary of a split, its bad samples, and the hash of every sound image that was decoded."""
    num_classes = len(reader.taxonomy)
    keys = reader.keys(split)
    problems: list[Problem] = []
    hashes: dict[str, bytes] = {}
    sizes: Counter[str] = Counter()
    pixels, samples = np.zeros(256, np.int64), np.zeros(256, np.int64)

    def check(key: str) -> _Checked | DatasetError:
        try:
            if headers_only:
                width, height = reader.read_header(split, key)
                return _Checked(f"{width}x{height}", None, None)
            sample = reader.read(split, key)
        except DatasetError as error:
            return error
        height, width = sample.segmentation_map.shape
        size = f"{width}x{height}"
        # SHA-1 is the fastest where the processor has it; nobody gains by a collision here.
        digest = hashlib.sha1(size.encode(), usedforsecurity=False)
        digest.update(np.ascontiguousarray(sample.image).data)
        return _Checked(
            size, digest.digest(), np.bincount(sample.segmentation_map.ravel(), minlength=256)
        )

    checked = ordered_map(check, keys, num_threads=num_threads)
    bar = tqdm(checked, total=len(keys), desc=f"check {split}", unit="image", disable=None)
    for key, result in zip(keys, bar, strict=True):
        if isinstance(result, DatasetError):
            problems.append(Problem(f"{split}/{key}", str(result)))
            continue
        sizes[result.size] += 1
        if result.digest is not None and result.pixels is not None:
            hashes[key] = result.digest
            pixels += result.pixels
            samples += result.pixels > 0
    if not keys:
        problems.append(Problem(split, "the split holds no samples; expected at least one"))
    foreign = np.flatnonzero(pixels[num_classes:IGNORE_INDEX]) + num_classes
    assert not foreign.size, f"the reader let train ids {foreign.tolist()} through"
    summary = SplitSummary(
        split=split,
        num_samples=len(keys),
        num_bad=len(problems),
        sizes=dict(sizes.most_common()),
        class_pixels=[] if headers_only else pixels[:num_classes].tolist(),
        class_samples=[] if headers_only else samples[:num_classes].tolist(),
        ignored_pixels=int(pixels[IGNORE_INDEX]),
    )
    return summary, problems, hashes


def _store_folders(paths: ProjectPaths) -> Iterator[Path]:
    """Yield the folders of the real splits and of all class partitions that exist."""
    yield from (paths.real(split) for split in SPLITS if paths.real(split).is_dir())
    synthetic = paths.data / "synthetic"
    yield from sorted(p for p in synthetic.glob("*/*") if p.is_dir())


def check_store(
    folder: Path, *, taxonomy: Taxonomy, name: str
) -> tuple[StoreSummary, list[Problem]]:
    """Decode every sample of one store and compare its masks with the taxonomy; `name` is how problems call the store."""
    from seggen_core.store.reader import SampleStore

    try:
        store = SampleStore(folder)
        keys = store.keys()
    except SampleStoreError as error:
        return StoreSummary(name, 0, 0), [Problem(name, str(error))]
    problems: list[Problem] = []
    for key in tqdm(keys, desc=f"check {name}", unit="sample", disable=None):
        try:
            what = store_sample_problem(store, key, taxonomy=taxonomy)
        except SampleStoreError as error:
            what = str(error)
        if what:
            problems.append(Problem(f"{name}/{key}", what))
    return StoreSummary(name, len(keys), len(problems)), problems


def store_sample_problem(store: "SampleStore", key: str, *, taxonomy: Taxonomy) -> str | None:
    """Return what is wrong with a sample that can be decoded, or None; SampleStoreError where it can't."""
    sample = store[key]
    if sample.image.shape[:2] != sample.segmentation_map.shape:
        return f"the image is {sample.image.shape[:2]} but its mask {sample.segmentation_map.shape}; expected the same size"
    ids = np.unique(sample.segmentation_map)
    foreign = ids[(ids >= len(taxonomy)) & (ids != IGNORE_INDEX)]
    if foreign.size:
        return f"the mask has label {', '.join(map(str, foreign[:5]))}; expected 0-{len(taxonomy) - 1} or {IGNORE_INDEX}"
    return None
