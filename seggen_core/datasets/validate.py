"""Checks of the real dataset and of every sample store made from it, without changing anything."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from seggen_core.config import SegGenConfig, Split
from seggen_core.datasets.arm_tasks import instance_faults, source_faults
from seggen_core.datasets.bad_samples import attempt_all
from seggen_core.datasets.class_names import class_name_faults, unused_class_names
from seggen_core.datasets.identity import is_of_dataset
from seggen_core.datasets.label_checks import SampleLabels, SplitLabels, label_faults
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS, DatasetReader
from seggen_core.datasets.subset import subset_faults
from seggen_core.datasets.validate_store import check_store, store_folders
from seggen_core.datasets.validation_report import Problem, SplitSummary, ValidationReport
from seggen_core.datasets.words import WordsReader
from seggen_core.errors import DatasetError
from seggen_core.project.paths import ProjectPaths
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

Copies = dict[bytes, list[tuple[Split, str]]]
"""Split and key of every sample that has an image, by the hash of the image."""


class _CheckedSample(NamedTuple):
    """A sound sample.

    Attributes:
        size: "WIDTHxHEIGHT".
        digest: hash of its image; None where it wasn't decoded.
        labels: its labels; None where it wasn't decoded.
    """

    size: str
    digest: bytes | None
    labels: SampleLabels | None


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
    _check_class_list(report, listed=config.classes, taxonomy=taxonomy)
    report.notes.extend(unused_class_names(config, taxonomy=taxonomy))
    faults = class_name_faults(config, taxonomy=taxonomy)
    faults += source_faults(config, taxonomy=taxonomy)
    faults += subset_faults(config, num_train=len(reader.keys("train")))
    report.problems.extend(Problem("params.yaml", fault) for fault in faults)
    copies: Copies = defaultdict(list)
    num_threads = config.runtime.num_threads
    train = SplitLabels("train")
    counted = [train, *(train.of_split(s) for s in SPLITS if s != "train")]
    for labels in counted:
        bad = _check_split(report, reader, labels, num_threads=num_threads, copies=copies)
        (report.tolerated if len(bad) <= max_bad else report.problems).extend(bad)
    if headers_only:
        return report
    _check_labels(report, reader, counted, config=config)
    _check_copies(report, copies, keep_val_in_train=config.dataset.keep_val_in_train)
    real = {paths.real(split): split for split in SPLITS}
    foreign: list[str] = []
    for folder in store_folders(paths):
        name = folder.relative_to(paths.root).as_posix()
        if not is_of_dataset(
            folder, reader=reader, dataset=config.dataset.name, split=real.get(folder)
        ):
            foreign.append(name)
            continue
        summary, problems = check_store(folder, taxonomy=taxonomy, name=name)
        report.stores.append(summary)
        report.problems.extend(problems)
    if foreign:
        report.notes.append(
            f"{len(foreign)} store(s) are of another dataset than params.yaml names "
            f"({', '.join(foreign[:5])}{', ...' if len(foreign) > 5 else ''}) and weren't checked; "
            "dvc repro makes them again"
        )
    return report


def _check_class_list(
    report: ValidationReport, *, listed: tuple[str, ...], taxonomy: Taxonomy
) -> None:
    """Note the classes of the dataset that params.yaml doesn't list."""
    unlisted = [slug for slug in taxonomy.slugs if slug not in listed]
    if unlisted:
        report.notes.append(
            f"no synthetic samples are made for {', '.join(unlisted)}: not among 'classes' in "
            "params.yaml"
        )


def _check_labels(
    report: ValidationReport,
    reader: DatasetReader,
    counted: Sequence[SplitLabels],
    *,
    config: SegGenConfig,
) -> None:
    """Judge the labels of each split as a whole; what else is absent is a note."""
    for labels in counted:
        faults = label_faults(labels, train=counted[0], reader=reader, config=config)
        report.problems.extend(Problem(labels.split, fault.what) for fault in faults)
        lacking = instance_faults(config, labels=labels, taxonomy=reader.taxonomy)
        report.problems.extend(Problem(labels.split, what) for what in lacking)
    for i, name in enumerate(report.class_names):
        if isinstance(reader, WordsReader):
            break
        absent = [s.split for s in report.splits if not s.class_samples[i]]
        if absent:
            report.notes.append(f"class {name!r} occurs in no sample of {', '.join(absent)}")


def _check_split(
    report: ValidationReport,
    reader: DatasetReader,
    labels: SplitLabels,
    *,
    num_threads: int,
    copies: Copies,
) -> list[Problem]:
    """Go through a split.

    Its summary comes into the report, its samples into `labels`, their images into `copies`.

    Returns:
        The bad samples.
    """
    num_classes, split = len(reader.taxonomy), labels.split
    keys = reader.keys(split)
    problems: list[Problem] = []
    sizes: Counter[str] = Counter()
    samples = np.zeros(IGNORE_INDEX + 1, np.int64)
    unlisted = 0.0

    def check(key: str) -> _CheckedSample:
        return _check_sample(reader, split, key, headers_only=report.headers_only)

    checked = attempt_all(keys, check, num_threads=num_threads, label=f"check {split}")
    for key, result in checked:
        if isinstance(result, DatasetError):
            problems.append(Problem(f"{split}/{key}", str(result)))
            continue
        sizes[result.size] += 1
        if result.digest is not None and result.labels is not None:
            copies[result.digest].append((split, key))
            labels.add(key, result.labels)
            unlisted += result.labels.unlisted_share * result.labels.pixels.sum()
            samples += result.labels.pixels > 0
    if not keys and not isinstance(reader, WordsReader):
        problems.append(Problem(split, "the split holds no samples; expected at least one"))
    pixels = labels.pixels
    foreign = np.flatnonzero(pixels[num_classes:IGNORE_INDEX]) + num_classes
    assert not foreign.size, f"the reader let train ids {foreign.tolist()} through"
    report.splits.append(
        SplitSummary(
            split=split,
            num_samples=len(keys),
            num_bad=len(problems),
            sizes=dict(sizes.most_common()),
            class_pixels=[] if report.headers_only else pixels[:num_classes].tolist(),
            class_samples=[] if report.headers_only else samples[:num_classes].tolist(),
            ignored_pixels=int(pixels[IGNORE_INDEX]),
            unlisted_pixels=round(unlisted),
        )
    )
    return problems


def _check_sample(
    reader: DatasetReader, split: Split, key: str, *, headers_only: bool
) -> _CheckedSample:
    """Read one sample; DatasetError where it is bad."""
    if headers_only:
        width, height = reader.read_header(split, key)
        return _CheckedSample(f"{width}x{height}", None, None)
    sample = reader.read(split, key)
    height, width = sample.segmentation_map.shape
    size = f"{width}x{height}"
    # SHA-1 is the fastest where the processor has it; nobody gains by a collision here.
    digest = hashlib.sha1(size.encode(), usedforsecurity=False)
    digest.update(np.ascontiguousarray(sample.image).data)
    return _CheckedSample(size, digest.digest(), SampleLabels.of(sample))


def _check_copies(report: ValidationReport, copies: Copies, *, keep_val_in_train: bool) -> None:
    """Report images that occur twice: a leak between splits, or a duplicate within one."""
    num_repeated = num_kept = 0
    for places in copies.values():
        splits = {split for split, _ in places}
        num_repeated += len(places) - len(splits)
        if keep_val_in_train and splits == {"train", "val"}:
            num_kept += 1
        elif len(splits) > 1:
            where = " = ".join(f"{split}/{key}" for split, key in places)
            report.problems.append(
                Problem(
                    where,
                    "the same image is in several splits, so the evaluation is not on unseen data; "
                    "keep it in one",
                )
            )
    if num_repeated:
        report.notes.append(f"{num_repeated} image(s) repeat another of the same split")
    if num_kept:
        report.notes.append(
            f"{num_kept} validation image(s) are trained on too, as dataset.keep_val_in_train says"
        )
