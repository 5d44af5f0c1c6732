"""One class partition of a method: how it is made, kept in a cache and published."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from seggen_core.project.storage import storage_errors
from seggen_core.stage import Stage
from seggen_core.store.cache import RecordCache


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


def code_identity(stage: Stage) -> list[str]:
    """Return what of the code a sample's bytes depend on, that of libraries included."""
    return [stage.code_digest, *(version(package) for package in ("torch", "diffusers"))]


def make_partition(
    stage: Stage, synthesize: Callable[[RecordCache, Path], FinishedPartition]
) -> None:
    """Make one class partition, move it to its place and report it.

    The cache holds what an earlier run made. Afterwards it holds the finished partition.

    Args:
        stage: the method and the class.
        synthesize: (cache, folder) -> the partition in that folder.

    Raises:
        SampleStoreError: another process has opened the cache.
        StorageError: the cache or the place can't be written.
    """
    out = stage.paths.synthetic(stage.name, stage.class_slug)
    with RecordCache(stage.paths.record_cache(stage.name, stage.class_slug)) as cache:
        partition = synthesize(cache, stage.scratch(["store"]))
        stage.run.log_metrics(partition.metrics)
        with storage_errors(out, kept=f"All that was made is kept in {cache.folder}."):
            stage.publish(partition.folder, out)
            cache.keep(out, digests=partition.digests, others=partition.others)
    for picture in sorted(out.glob("*.png")):
        stage.run.log_artifact(picture)
