"""One class partition of a method: how it is made, kept in a cache and published."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from seggen_core.colors.class_colors import read_class_colors
from seggen_core.generators.origin import foundation_origin
from seggen_core.project.storage import storage_errors
from seggen_core.stage import Stage
from seggen_core.store.cache import RecordCache
from seggen_core.store.card import CARD, describe_classes, method_card
from seggen_core.store.format import INDEX, MANIFEST, read_manifest


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


def describe_origin(stage: Stage, *, trained_on_real: bool) -> dict[str, Any]:
    """Return what a partition's manifest says about its classes, its licence and its foundation.

    Args:
        stage: the method and the class.
        trained_on_real: the method's models or masks come from the real training samples, so that
            their licence counts; else nothing of the real dataset is in the samples.
    """
    paths = stage.paths
    license_text = None
    if trained_on_real and (paths.real("train") / MANIFEST).is_file():
        license_text = read_manifest(paths.real("train")).get("license")
    return {
        **describe_classes(
            stage.taxonomy, colors=read_class_colors(paths.taxonomy), license_text=license_text
        ),
        "models": {"foundation": foundation_origin(stage.config.foundation)},
    }


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
        with storage_errors(out, remains=f"All that was made is kept in {cache.folder}."):
            stage.publish(partition.folder, out)
            write_method_card(out)
            cache.keep(out, digests=partition.digests, others=partition.others)
    for picture in sorted(out.glob("*.png")):
        stage.run.log_artifact(picture)


def write_method_card(partition: Path) -> None:
    """Write README.md beside a method's class partitions, so that the whole folder can be loaded.

    It is no stage's output: .dvcignore hides it from the stages that read the method's folder.
    Of partitions that are finished at the same time, each looks again after it has written.
    """
    card, manifest = partition.with_name(CARD), read_manifest(partition)

    def text() -> str:
        indices = []
        for index in sorted(partition.parent.glob(f"*/{INDEX}")):
            with suppress(FileNotFoundError):  # another partition is being replaced
                indices.append(index.read_bytes())
        return method_card(manifest, indices=indices)

    while not card.is_file() or card.read_text(encoding="utf-8") != text():
        unfinished = partition.with_name(f".{CARD}.{partition.name}")
        unfinished.write_text(text(), encoding="utf-8")
        unfinished.replace(card)
