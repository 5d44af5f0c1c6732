"""Whether a store was made from the dataset that params.yaml names now.

The manifest of every store names a digest of the classes that its masks show, that of a real split
also the reader that made it.
"""

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from seggen_core.config import Split
from seggen_core.errors import DatasetError, SampleStoreError
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.format import MANIFEST, read_manifest
from seggen_core.store.reader import SampleStore

if TYPE_CHECKING:
    from seggen_core.datasets.reader import DatasetReader


def is_of_dataset(
    folder: Path, *, reader: "DatasetReader", dataset: str, split: Split | None
) -> bool:
    """Return whether a store was made from a dataset.

    It wasn't if its masks show other classes, or, for a real split, if another reader made it or
    none of its samples is among the dataset's.

    Args:
        folder: of the store; one that can't be read counts as the dataset's.
        reader: of the dataset.
        dataset: name of the reader.
        split: which real split the store holds; None for a synthetic partition.
    """
    try:
        manifest = read_manifest(folder)
        if manifest.get("taxonomy", reader.taxonomy.digest) != reader.taxonomy.digest:
            return False
        if split is None:
            return True
        if manifest.get("dataset", dataset) != dataset:
            return False
        names = SampleStore(folder).index["source_key"].dropna()
    except SampleStoreError:
        return True
    return names.empty or not set(names).isdisjoint(reader.keys(split))


def check_real_stores(paths: ProjectPaths, *, dataset: str) -> None:
    """Raise DatasetError where another reader than `dataset` made a store of data/real."""
    for split in get_args(Split):
        folder = paths.real(split)
        if not (folder / MANIFEST).is_file():
            continue
        made_by = read_manifest(folder).get("dataset", dataset)
        if made_by != dataset:
            raise DatasetError(
                f"{folder} holds samples of another dataset: {made_by!r}, but params.yaml names "
                f"{dataset!r}; run: dvc repro dataset"
            )
