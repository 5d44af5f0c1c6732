"""The stores that an ablation arm is trained and validated with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from seggen_core.config import VariantConfig
from seggen_core.project.artefacts import read_artefact
from seggen_core.project.digests import content_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.arms import ArmConfig, ArmSamples
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.mixing import TrainingSeed
from seggen_core.segmentation.segment_labels import check_task, require_instances
from seggen_core.segmentation.subsets import arm_subset
from seggen_core.store.reader import SampleStore, open_partitions
from seggen_core.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False)
class ArmStores:
    """The stores that an arm is trained and validated with."""

    train: SampleStore
    """The real training split."""
    validation: SampleStore
    """The real validation split."""
    partitions: dict[str, list[SampleStore]]
    """By synthetic method, the stores of the classes."""
    subsets: dict[str, list[str]]
    """Keys of the real samples by subset seed."""

    @classmethod
    def open(
        cls, paths: ProjectPaths, *, variant: VariantConfig, classes: Sequence[str]
    ) -> "ArmStores":
        """Open what `variant` reads; of its synthetic methods, the partitions of `classes`.

        Raises:
            SampleStoreError: a store is missing, isn't finished, or is of another dataset.
        """
        taxonomy = Taxonomy.read(paths.taxonomy)
        return cls(
            SampleStore(paths.real("train")),
            SampleStore(paths.real("val")),
            {
                method: open_partitions(paths.synthetic(method), classes=classes, taxonomy=taxonomy)
                for method in variant.methods
            },
            read_artefact(paths.subsets, dict[str, list[str]], stage="dataset"),
        )

    def samples(
        self, variant: VariantConfig, *, labels: LabelSpace, seed: TrainingSeed
    ) -> ArmSamples:
        """Return what a segmenter of an arm may be trained on.

        Raises:
            ConfigError: there are fewer training samples than the arm asks for.
        """
        if variant.real == "all":
            keys = self.train.keys()
        else:
            counts = self.train.class_pixel_counts()
            keys = arm_subset(self.subsets, size=variant.subset_size, counts=counts, seed=seed)
        return ArmSamples(self.train, keys, self.partitions, labels)

    def check_instances(self, config: ArmConfig, *, labels: LabelSpace) -> None:
        """Check before a training that the samples have what the arm's task needs.

        Raises:
            ConfigError: samples lack instance maps, or no class is a thing.
        """
        task = config.settings.task
        check_task(task, taxonomy=labels.taxonomy)
        synthetic = [store for group in self.partitions.values() for store in group]
        real = [self.validation] if config.variant.real == "none" else [self.train, self.validation]
        for store in (*real, *synthetic):
            require_instances(store, keys=store.keys(), task=task, labels=labels)

    def identity(self) -> list[Any]:
        """Return JSON-ready what a training depends on: the subsets and a digest of each store."""
        stores = [self.train, self.validation]
        stores += [store for group in self.partitions.values() for store in group]
        return [self.subsets, [content_digest(store.folder) for store in stores]]
