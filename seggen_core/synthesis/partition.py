"""One class partition of a method: what it needs of its stage, and how it is published."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.cache import RecordCache
from seggen_core.store.files import storage_errors
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import StageRun

if TYPE_CHECKING:
    import torch


class PartitionContext(Protocol):
    """What the making of a partition needs of the stage that asks for it."""

    @property
    def name(self) -> str:
        """The stage."""

    @property
    def class_slug(self) -> str:
        """The class."""

    @property
    def config(self) -> SegGenConfig:
        """All of params.yaml."""

    @property
    def paths(self) -> ProjectPaths:
        """Where artifacts are."""

    @property
    def run(self) -> StageRun:
        """Gets inputs."""

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes."""

    @property
    def device(self) -> "torch.device":
        """Where to compute."""

    @property
    def code_digest(self) -> str:
        """A digest of the code that the samples depend on."""

    def publish(self, finished: Path, out: Path) -> Path:
        """Move a finished folder to its place."""

    def scratch(self, identity: Sequence[Any]) -> Path:
        """Return a folder for unfinished work."""


@dataclass(frozen=True)
class FinishedPartition:
    """A partition that is ready to be published.

    Attributes:
        folder: the sample store, with metrics.json and previews.png.
        metrics: what is reported of it.
        digests: the digest under which each sample lies in the cache, by key; the cache keeps
            these. Empty where no later run could use them.
        others: digests of further records that the cache keeps.
    """

    folder: Path
    metrics: Mapping[str, float]
    digests: Mapping[str, str]
    others: Sequence[str] = ()


def code_identity(context: PartitionContext) -> list[str]:
    """Return what of the code a sample's bytes depend on, that of libraries included."""
    return [context.code_digest, *(version(package) for package in ("torch", "diffusers"))]


def open_cache(context: PartitionContext) -> RecordCache:
    """Open the cache of a partition: what an earlier run made is found there.

    Raises:
        SampleStoreError: another process has opened it.
        StorageError: it can't be written.
    """
    return RecordCache(context.paths.record_cache(context.name, context.class_slug))


def publish_partition(
    context: PartitionContext, partition: FinishedPartition, cache: RecordCache
) -> None:
    """Move a finished partition to its place, let `cache` hold it, and report it.

    Raises:
        StorageError: the place can't be written.
    """
    out = context.paths.synthetic(context.name, context.class_slug)
    context.run.log_metrics(partition.metrics)
    with storage_errors(out, kept=f"All that was made is kept in {cache.folder}."):
        context.publish(partition.folder, out)
        cache.keep(out, digests=partition.digests, others=partition.others)
    for picture in sorted(out.glob("*.png")):
        context.run.log_artifact(picture)
