"""Checks of sample stores: every sample can be decoded and agrees with the taxonomy."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tqdm import tqdm

from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.validation_report import Problem, StoreSummary
from seggen_core.errors import SampleStoreError
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy


def store_folders(paths: ProjectPaths) -> Iterator[Path]:
    """Yield the folders of the real splits and of all class partitions that exist."""
    yield from (paths.real(split) for split in SPLITS if paths.real(split).is_dir())
    synthetic = paths.data / "synthetic"
    yield from sorted(p for p in synthetic.glob("*/*") if p.is_dir())


def check_store(
    folder: Path, *, taxonomy: Taxonomy, name: str
) -> tuple[StoreSummary, list[Problem]]:
    """Decode every sample of one store and compare its masks with the taxonomy.

    Args:
        folder: of the store.
        taxonomy: the classes that masks may show.
        name: of the store, in problems.
    """
    try:
        store = SampleStore(folder)
        keys = store.keys()
    except SampleStoreError as error:
        return StoreSummary(name, 0, 0), [Problem(name, str(error))]
    problems: list[Problem] = []
    for key in tqdm(keys, desc=f"check {name}", unit="sample", disable=None):
        try:
            what = _sample_problem(store, key, taxonomy=taxonomy)
        except SampleStoreError as error:
            what = str(error)
        if what:
            problems.append(Problem(f"{name}/{key}", what))
    return StoreSummary(name, len(keys), len(problems)), problems


def _sample_problem(store: SampleStore, key: str, *, taxonomy: Taxonomy) -> str | None:
    """Return what is wrong with a sample that can be decoded, or None.

    Raises:
        SampleStoreError: it can't be decoded.
    """
    sample = store[key]
    if sample.image.shape[:2] != sample.segmentation_map.shape:
        return (
            f"the image is {sample.image.shape[:2]} but its mask {sample.segmentation_map.shape}; "
            "expected the same size"
        )
    ids = np.unique(sample.segmentation_map)
    foreign = ids[(ids >= len(taxonomy)) & (ids != IGNORE_INDEX)]
    if foreign.size:
        return (
            f"the mask has label {', '.join(map(str, foreign[:5]))}; expected "
            f"0-{len(taxonomy) - 1} or {IGNORE_INDEX}"
        )
    return None
