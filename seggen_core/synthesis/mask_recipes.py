"""The stores of one attention method: its own, and those of the mask recipes.

Stores with the same images (`config.mask_recipe.has_same_images`) are made together. Whoever
samples, the stage of the method or that of a recipe, puts the masks of every one of them into the
cache of that store. So the images are sampled once, if the recipes stand in params.yaml before the
method runs; else once more, for all of them. No attention is stored: self-attention at 64x64 takes
33 MB for an image, 2 TB for the 60,000 of SeeDiff's tables.

The caches only save work. A store has the same bytes whether its masks were found or made.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from seggen_core.config import SegGenConfig
from seggen_core.config.mask_recipe import has_same_images
from seggen_core.errors import ConfigError, SampleStoreError
from seggen_core.project.storage import storage_errors
from seggen_core.stage import Stage
from seggen_core.store.cache import RecordCache
from seggen_core.synthesis.attention_method import AttentionMethod, MaskSink
from seggen_core.synthesis.attention_partition import attention_partition
from seggen_core.synthesis.partition import make_partition, write_method_card


def make_attention_partition(stage: Stage, method_class: type[AttentionMethod[Any]]) -> None:
    """Make the partition of an attention method that a stage names, and publish it.

    Args:
        stage: the method and the class.
        method_class: of the method.

    Raises:
        SegGenError: as `attention_partition`.
    """
    settings = _settings(stage.config, stage.name).for_class(stage.class_slug)
    with _other_sinks(stage, but=stage.name) as others:
        make_partition(
            stage,
            lambda cache, folder: attention_partition(
                method_class,
                stage,
                MaskSink(stage.name, settings, cache),
                folder,
                others=others,
            ),
        )


def make_mask_recipe(stage: Stage, methods: Mapping[str, type[AttentionMethod[Any]]]) -> None:
    """Make every class partition of a mask recipe, and publish them as one folder.

    Args:
        stage: `mask_recipe`, with the name of a recipe in params.yaml.
        methods: classes of the methods, by name.

    Raises:
        SegGenError: as `attention_partition`.
    """
    name = stage.item
    assert name is not None, "the stage looks at its item"
    method, settings = stage.config.mask_recipe[name].method, _settings(stage.config, name)
    folder, out = stage.scratch(["stores"]), stage.paths.synthetic(name)
    for slug in stage.config.classes:
        # To the streams of noise and to the caches, it is the stage of the method.
        part = replace(stage, name=method, item=slug)
        place = stage.paths.record_cache(name, slug)
        with RecordCache(place, wait=True) as cache, _other_sinks(part, but=name) as others:
            sink = MaskSink(name, settings.for_class(slug), cache)
            partition = attention_partition(
                methods[method], part, sink, folder / slug, others=others
            )
            with storage_errors(folder, remains=f"All that was made is kept in {cache.folder}."):
                cache.keep(partition.folder, digests=partition.digests, others=partition.others)
        stage.run.log_metrics({f"{slug}/{key}": value for key, value in partition.metrics.items()})
    stage.publish(folder, out)
    write_method_card(out / stage.config.classes[0])


def _settings(config: SegGenConfig, name: str) -> Any:
    """Return the settings of a method or recipe; ConfigError where there is no section for it."""
    try:
        return config.attention_settings(name)
    except ValueError as error:
        raise ConfigError(f"{error}; its keys are in seggen_core/config") from None


@contextmanager
def _other_sinks(stage: Stage, *, but: str) -> Iterator[list[MaskSink[Any]]]:
    """Open the recipes that have the images of a store, whose name is `but`.

    A recipe whose cache another process has open is left out: that process makes its masks.
    """
    config, slug = stage.config, stage.class_slug
    images = _settings(config, but)
    sinks: list[MaskSink[Any]] = []
    try:
        for name, recipe in config.mask_recipe.items():
            if name == but or recipe.method != stage.name:
                continue
            settings = _settings(config, name)
            if has_same_images(images, settings):
                with suppress(SampleStoreError):
                    cache = RecordCache(stage.paths.record_cache(name, slug))
                    sinks.append(MaskSink(name, settings.for_class(slug), cache))
        yield sinks
    finally:
        for sink in sinks:
            sink.cache.close()
