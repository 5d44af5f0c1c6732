"""The synthetic samples of a method, opened for what scores them."""

from collections.abc import Sequence
from dataclasses import dataclass

from seggen_core.config import SegGenConfig
from seggen_core.errors import ConfigError, SampleStoreError
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.format import method_stage
from seggen_core.store.reader import SampleStore, open_partitions
from seggen_core.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False)
class MethodSamples:
    """All samples of a method.

    Attributes:
        method: "masksyn", ...
        partitions: the class partitions that hold a sample, by class slug.
    """

    method: str
    partitions: dict[str, SampleStore]

    @classmethod
    def open(cls, paths: ProjectPaths, *, method: str, classes: Sequence[str]) -> "MethodSamples":
        """Open the partitions of `method` of these classes.

        Raises:
            SampleStoreError: the method has no sample, or a partition is missing, isn't finished or
                is of another dataset.
        """
        folder = paths.synthetic(method)
        taxonomy = Taxonomy.read(paths.taxonomy)
        partitions = open_partitions(folder, classes=classes, taxonomy=taxonomy)
        stores = {store.folder.name: store for store in partitions if len(store)}
        if not stores:
            raise SampleStoreError(
                f"{folder} holds no sample in any class partition; "
                f"run: dvc repro {method_stage(method)}"
            )
        return cls(method, stores)

    def __len__(self) -> int:
        return sum(len(store) for store in self.partitions.values())

    @property
    def label_one_class(self) -> bool:
        """Whether a sample labels one class alone, as those of attention methods (no source) do."""
        return all(store.index["source_key"].isna().all() for store in self.partitions.values())


def check_method(name: str | None, *, config: SegGenConfig) -> str:
    """Return the name of a synthetic method or mask recipe; ConfigError lists the known ones."""
    if name not in config.synthetic_stores:
        known = ", ".join(config.synthetic_stores)
        raise ConfigError(f"there is no synthetic method {name!r}; known: {known}")
    return name
