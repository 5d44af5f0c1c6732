"""One class partition of MaskSyn or ImgSyn: which samples, each made once, in a sample store."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from seggen_core.attention.masks import ACCEPTED
from seggen_core.colors.code import ColorCode
from seggen_core.datasets.subset import class_partitions, subset_union
from seggen_core.errors import CaptionError
from seggen_core.generators.foundation import load_mask2img
from seggen_core.generators.origin import generator_digest
from seggen_core.project.artefacts import read_artefact, read_table
from seggen_core.project.digests import json_digest
from seggen_core.project.publish import write_json
from seggen_core.project.storage import storage_errors
from seggen_core.reports.grids import store_grid
from seggen_core.stage import Stage
from seggen_core.store.cache import RecordCache
from seggen_core.store.format import encode_sample
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.synthesis.outcomes import Outcome
from seggen_core.synthesis.partition import FinishedPartition, code_identity, describe_origin
from seggen_core.synthesis.seggen import PairRecipe, SynthesisTask, draw_images
from seggen_core.synthesis.seggen_methods import SegGenMethod
from seggen_core.taxonomy import Taxonomy

logger = logging.getLogger(__name__)

AMBIGUOUS = "ambiguous"
"""Score of a sample, and the reason why one with too much of it is rejected."""


def list_tasks(
    *,
    store: SampleStore,
    captions: pd.DataFrame,
    subsets: Mapping[str, Sequence[str]],
    taxonomy: Taxonomy,
    class_slug: str,
    per_source: int,
) -> list[SynthesisTask]:
    """List the samples to make for one class.

    There are `per_source` for each real sample of the subsets in its partition. A class partition
    is the same whatever other partitions exist, so adding a class makes new partitions only.

    Raises:
        ConfigError: the taxonomy has no class with this slug.
        CaptionError: a source has no caption.
    """
    taxonomy.by_slug(class_slug)
    counts = store.class_pixel_counts()
    sources = class_partitions(counts, taxonomy, sources=subset_union(subsets))[class_slug]
    prompts = dict(zip(captions["sample_key"], captions["caption"], strict=True))
    missing = [key for key in sources if key not in prompts]
    if missing:
        raise CaptionError(
            f"{len(missing)} samples have no caption, e.g. {missing[0]} (run: dvc repro captions)"
        )
    return [
        SynthesisTask(key, index, prompts[key]) for key in sources for index in range(per_source)
    ]


def synthesize_partition(
    method_class: type[SegGenMethod],
    stage: Stage,
    cache: RecordCache,
    folder: Path,
) -> FinishedPartition:
    """Make one class partition of a method.

    Each sample is found in `cache` or made and added to it, by a digest of its own inputs: prompt,
    mask, models, settings. So a run that was killed goes on after its last commit, and an edited
    caption costs its own samples alone. The store is the same bytes either way.

    Args:
        method_class: MaskSyn or ImgSyn.
        stage: the method and the class.
        cache: what earlier runs have made.
        folder: emptied, and filled with the store.

    MaskSyn's samples with more ambiguous pixels than `max_ambiguous` are left out: the manifest
    lists their keys, the metrics count them ("rejected"). The cache keeps them, so another limit
    costs no drawing.

    Raises:
        CaptionError: a source has no caption.
        ConfigError: there is no such class.
        StorageError: the disk is full or not writable; what was committed is kept.
    """
    paths, taxonomy = stage.paths, stage.taxonomy
    taxonomy.by_slug(stage.class_slug)  # before its prompts are looked for
    store = SampleStore(paths.real("train"))
    method = method_class(stage, store)
    tasks = list_tasks(
        store=store,
        captions=read_table(
            paths.prompts(stage.class_slug),
            text_columns=["sample_key", "caption"],
            stage="captions",
        ),
        subsets=read_artefact(paths.subsets, dict[str, list[str]], stage="dataset"),
        taxonomy=taxonomy,
        class_slug=stage.class_slug,
        per_source=method.settings.samples_per_source,
    )
    for name in method.models:
        stage.run.log_input(name=name, path=paths.model(name))
    stage.run.log_input(name="prompts", path=paths.prompts(stage.class_slug))
    maker = _PairMaker(method, cache=cache)
    with storage_errors(folder, remains=f"What was committed is kept in {cache.folder}."):
        maker.make_missing(tasks)
        return _write_store(maker, tasks, folder=folder)


class _PairMaker:
    """Makes the pairs of one partition, with its models loaded when the first is to be made."""

    def __init__(self, method: SegGenMethod, *, cache: RecordCache) -> None:
        stage = self.stage = method.stage
        self.method, self.cache = method, cache
        self.settings = method.settings
        self.model_hashes = {
            name: generator_digest(stage.paths.model(name)) for name in method.models
        }
        # Neither the batch size, nor what is rejected, nor other samples change a sample's bytes.
        common = [
            method.name,
            stage.config.seed,
            stage.config.dataset.image_size,
            stage.config.dataset.color_map,
            stage.taxonomy.to_json(),
            self.model_hashes,
            self.settings.model_dump(mode="json", exclude={"batch_size", "max_ambiguous"}),
            stage.device.type,
            code_identity(stage),
        ]
        self._common = json_digest(common, length=32)
        self._source_digests: dict[str, str | None] = {}

    def digest(self, task: SynthesisTask) -> str:
        """Return a digest of all that the sample of `task` depends on."""
        if task.source_key not in self._source_digests:
            self._source_digests[task.source_key] = self.method.source_digest(task.source_key)
        source = self._source_digests[task.source_key]
        parts = [self._common, task.source_key, task.index, task.prompt, source]
        return json_digest(parts, length=32)

    def make_missing(self, tasks: Sequence[SynthesisTask]) -> None:
        """Make the samples that the cache doesn't hold, and commit them batch by batch."""
        per_source = self.settings.samples_per_source
        # Whole sources, so that network calls are full.
        size = max(1, self.settings.batch_size // per_source) * per_source
        title = f"{self.method.name} {self.stage.class_slug}"
        with tqdm(total=len(tasks), desc=title, unit="pair", disable=None) as progress:
            for start in range(0, len(tasks), size):
                batch = tasks[start : start + size]
                self._make([task for task in batch if self.digest(task) not in self.cache])
                progress.update(len(batch))

    def outcome(self, task: SynthesisTask) -> Outcome:
        """Return what became of `task`; a sample whose record is damaged is made again."""
        record = self.cache.find(self.digest(task))
        if record is None:
            self._make([task])
            record = self.cache.read_back(self.digest(task))
        outcome = Outcome.from_record(record)
        if outcome.quality.get(AMBIGUOUS, 0.0) > self.settings.max_ambiguous:
            return Outcome(AMBIGUOUS, outcome.quality, None)
        return outcome

    def _make(self, tasks: Sequence[SynthesisTask]) -> None:
        """Make samples, add them to the cache and commit them."""
        if not tasks:
            return
        masks = self._mask_source(tasks)
        images = draw_images(tasks, masks=masks, mask2img=self._mask2img, recipe=self._recipe)
        for k, task in enumerate(tasks):
            metadata: dict[str, Any] = {
                "source_key": task.source_key,
                "class_slug": self.stage.class_slug,
                "seed": task.seed(self.method.name, seed=self._recipe.seed),
                "prompt": task.prompt,
                "model_hash": self.model_hashes["mask2img"],
                "quality": masks.quality[k],
            }
            sample = Sample(
                task.key(self.method.name),
                images[k],
                masks.segmentation_maps[k],
                masks.instance_maps[k],
                metadata,
            )
            num_classes = len(self.stage.taxonomy)
            encoded = encode_sample(sample, num_classes=num_classes, **self.settings.encoding)
            outcome = Outcome(ACCEPTED, masks.quality[k], encoded)
            self.cache.add(self.digest(task), outcome.to_record())
        self.cache.commit()

    @cached_property
    def _recipe(self) -> PairRecipe:
        dataset = self.stage.config.dataset
        return PairRecipe(
            method=self.method.name,
            seed=self.stage.config.seed,
            image_size=dataset.image_size,
            settings=self.settings,
            code=ColorCode(self.stage.taxonomy, kind=dataset.color_map),
        )

    @cached_property
    def _mask2img(self) -> Any:
        paths = self.stage.paths
        pipeline = load_mask2img(paths.model("foundation"), paths.model("mask2img"))
        return pipeline.to(self.stage.device)

    @cached_property
    def _mask_source(self) -> Any:
        return self.method.open_masks(self._recipe)


def _write_store(
    maker: _PairMaker, tasks: Sequence[SynthesisTask], *, folder: Path
) -> FinishedPartition:
    """Write the samples in the order of their tasks, then metrics and pictures."""
    shutil.rmtree(folder, ignore_errors=True)
    stage, digests = maker.stage, {}
    rejected: dict[str, str] = {}
    settings, num_classes = maker.settings, len(stage.taxonomy)
    with SampleStoreWriter(folder, num_classes=num_classes, **settings.encoding) as writer:
        for task in tasks:
            outcome = maker.outcome(task)
            if outcome.sample is None:
                rejected[task.key(maker.method.name)] = maker.digest(task)
            else:
                writer.append(outcome.sample)
                digests[outcome.sample.key] = maker.digest(task)
        manifest: dict[str, Any] = {
            "method": maker.method.name,
            "class_slug": stage.class_slug,
            **describe_origin(stage, trained_on_real=True),
            "params": settings.model_dump(mode="json", exclude=settings.encoding_fields),
            "seed": stage.config.seed,
            "model_hashes": maker.model_hashes,
        }
        if maker.method.rejects:
            manifest["rejected"] = list(rejected)
        writer.finish(manifest=manifest)
    store = SampleStore(folder)
    metrics = partition_metrics(store, taxonomy=stage.taxonomy)
    if maker.method.rejects:
        metrics["rejected"] = float(len(rejected))
    if rejected:
        logger.warning(
            "%s %s: %d of %d samples rejected, more than %.1f%% of their pixels show no class "
            "(%s.max_ambiguous)",
            maker.method.name,
            stage.class_slug,
            len(rejected),
            len(tasks),
            100 * maker.settings.max_ambiguous,
            maker.method.name,
        )
    write_json(folder / "metrics.json", metrics)
    if len(store):
        picture = store_grid(
            store, num_classes=len(stage.taxonomy), num_pictures=10, num_columns=5, scale=2
        )
        picture.save(folder / "previews.png")
    return FinishedPartition(folder, metrics, digests, list(rejected.values()))


def partition_metrics(store: SampleStore, *, taxonomy: Taxonomy) -> dict[str, float]:
    """Return how many samples there are, each class's share of the pixels, and mean scores."""
    metrics: dict[str, float] = {"samples": float(len(store))}
    if len(store):
        shares = np.sum(store.index["class_pixel_counts"].tolist(), axis=0, dtype=np.float64)
        shares /= max(shares.sum(), 1.0)
        metrics |= {
            f"share_{slug}": round(float(s), 6)
            for slug, s in zip(taxonomy.slugs, shares, strict=True)
        }
        for column in sorted(c for c in store.index.columns if c.startswith("quality_")):
            metrics[column.removeprefix("quality_")] = round(float(store.index[column].mean()), 6)
    return metrics
