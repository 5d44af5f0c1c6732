"""One class partition of MaskSyn or ImgSyn: which samples, resumed where an interrupted run stopped, published whole."""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from tqdm import tqdm

from seggen_core.colors import code as color_code
from seggen_core.colors import panoptic as panoptic_color_map
from seggen_core.colors import semantic as color_map
from seggen_core.colors.code import ColorCode
from seggen_core.colors.semantic import class_palette
from seggen_core.config import SegGenConfig, SegGenSynthesisConfig
from seggen_core.datasets.subset import rarest_class_partition
from seggen_core.errors import CaptionError
from seggen_core.generators import foundation, sampling
from seggen_core.generators.foundation import load_mask2img, load_pipeline
from seggen_core.project import rng
from seggen_core.project.digests import content_digest, json_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import publish
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.reports.grids import pair_grid
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.synthesis import seggen
from seggen_core.synthesis.kept_samples import KeptSamples, code_digest, keep_samples, sample_digest
from seggen_core.synthesis.seggen import (
    SynthesisTask,
    SynthesizedPairs,
    synthesize_pairs,
    task_seed,
)
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import track_stage

_NUM_PICTURES = 10


def list_tasks(
    *,
    store: SampleStore,
    captions: pd.DataFrame,
    subsets: Mapping[str, Sequence[str]],
    taxonomy: Taxonomy,
    class_slug: str,
    per_source: int,
) -> list[SynthesisTask]:
    """List the samples to make for one class: `per_source` for each real sample of the subsets whose rarest class it is.

    A class partition is the same whatever other partitions exist, so adding a class makes new
    partitions only.

    Raises:
        ConfigError: the taxonomy has no class with this slug.
        CaptionError: a source has no caption.
    """
    taxonomy.by_slug(class_slug)
    index = store.index
    counts = dict(zip(index["key"], index["class_pixel_counts"], strict=True))
    wanted = {key for keys in subsets.values() for key in keys}
    sources = [key for key in rarest_class_partition(counts, taxonomy)[class_slug] if key in wanted]
    prompts = dict(zip(captions["sample_key"], captions["caption"], strict=True))
    missing = [key for key in sources if key not in prompts]
    if missing:
        raise CaptionError(
            f"{len(missing)} samples have no caption, e.g. {missing[0]} (run: dvc repro captions)"
        )
    return [
        SynthesisTask(key, number, prompts[key]) for key in sources for number in range(per_source)
    ]


def synthesize_partition(
    config: SegGenConfig,
    *,
    paths: ProjectPaths,
    method: Literal["masksyn", "imgsyn"],
    class_slug: str,
) -> None:
    """Make the partition `class_slug` of `method` and move it to data/synthetic/<method>/<class>.

    Samples are committed as they are made, in a scratch folder named by all that defines them; a
    run that was killed goes on after the last one. Samples of the last finished run whose own
    inputs are the same (prompt, mask, models, settings) are taken over, so an edited caption costs
    its own samples alone. The result is the same bytes either way.
    """
    settings: SegGenSynthesisConfig = getattr(config, method)
    params = settings.model_dump(mode="json")
    limit_threads(config.runtime)
    with track_stage(
        method, item=class_slug, params=params, runtime=config.runtime, paths=paths
    ) as tracked:
        # 1. What to make.
        taxonomy = Taxonomy.read(paths.taxonomy)
        taxonomy.by_slug(class_slug)  # before its prompts are looked for
        store = SampleStore(paths.real("train"))
        tasks = list_tasks(
            store=store,
            captions=pd.read_parquet(paths.prompts(class_slug)),
            subsets=json.loads(paths.subsets.read_text(encoding="utf-8")),
            taxonomy=taxonomy,
            class_slug=class_slug,
            per_source=settings.samples_per_source,
        )
        models = (
            ["foundation", "mask2img"]
            if method == "imgsyn"
            else ["foundation", "text2mask", "mask2img"]
        )
        hashes = {name: content_digest(paths.model(name)) for name in models}
        for name in models:
            tracked.log_input(name=name, path=paths.model(name))
        tracked.log_input(name="prompts", path=paths.prompts(class_slug))
        common: list[Any] = [
            method,
            config.seed,
            config.dataset.image_size,
            config.dataset.color_map,
            taxonomy.to_json(),
            hashes,
        ]
        identity = [*common, params]
        # Neither the batch size nor other samples change a sample's bytes.
        code = code_digest(
            [color_code, color_map, panoptic_color_map, foundation, rng, sampling, seggen]
        )
        shared = [
            *common,
            settings.model_dump(mode="json", exclude={"batch_size"}),
            pick_device(config.runtime).type,
            code,
        ]
        digests = _digest_tasks(tasks, method=method, shared=shared, store=store)
        identity += [[t.source_key, t.number, t.prompt] for t in tasks]
        if method == "imgsyn":
            identity.append(content_digest(paths.real("train")))
        scratch = paths.scratch / method / class_slug / json_digest(identity)

        # 2. Make what isn't there yet.
        with SampleStoreWriter(scratch / "store", num_classes=len(taxonomy)) as writer:
            _fill(
                writer,
                tasks,
                config=config,
                paths=paths,
                method=method,
                class_slug=class_slug,
                store=store,
                hashes=hashes,
                digests=digests,
            )
            about = {
                "method": method,
                "class_slug": class_slug,
                "params": params,
                "seed": config.seed,
                "model_hashes": hashes,
            }
            writer.finish(manifest=about)

        # 3. Metrics and pictures, then all of it into place.
        made = SampleStore(scratch / "store")
        metrics = partition_metrics(made, taxonomy=taxonomy)
        (made.folder / "metrics.json").write_text(
            json.dumps(metrics, indent=1) + "\n", encoding="utf-8"
        )
        tracked.log_metrics({k: float(v) for k, v in metrics.items()})
        if len(made):
            shown = [made[k] for k in range(0, len(made), max(1, len(made) // _NUM_PICTURES))][
                :_NUM_PICTURES
            ]
            picture = made.folder / "previews.png"
            pair_grid(shown, palette=class_palette(len(taxonomy)), num_columns=5, scale=2).save(
                picture
            )
            tracked.log_artifact(picture)
        out = publish(made.folder, paths.synthetic(method, class_slug))
        keep_samples(paths.kept / method / class_slug, published=out, digests=digests)
        shutil.rmtree(scratch.parent)


def _digest_tasks(
    tasks: Sequence[SynthesisTask],
    *,
    method: Literal["masksyn", "imgsyn"],
    shared: Sequence[Any],
    store: SampleStore,
) -> dict[str, str]:
    """Return for each sample's key a digest of all that its bytes depend on: `shared`, and what is its own."""
    digests: dict[str, str] = {}
    masks: dict[str, str] = {}
    for task in tasks:
        if method == "imgsyn" and task.source_key not in masks:
            shown = [store.read_bytes(task.source_key, member) for member in ("mask", "instances")]
            masks[task.source_key] = ":".join(hashlib.sha256(part).hexdigest() for part in shown)
        mask = masks.get(task.source_key)
        digests[task.key(method)] = sample_digest(
            [*shared, task.source_key, task.number, task.prompt, mask]
        )
    return digests


def _fill(
    writer: SampleStoreWriter,
    tasks: list[SynthesisTask],
    *,
    config: SegGenConfig,
    paths: ProjectPaths,
    method: Literal["masksyn", "imgsyn"],
    class_slug: str,
    store: SampleStore,
    hashes: dict[str, str],
    digests: dict[str, str],
) -> None:
    settings: SegGenSynthesisConfig = getattr(config, method)
    done = len(writer.committed)
    if done == len(tasks) or writer.finished:
        return
    kept = KeptSamples(paths.kept / method / class_slug)
    draw: Callable[[list[SynthesisTask]], SynthesizedPairs] | None = None
    # Whole sources, so that network calls are full; the first batch after a resumption may be a
    # part of one.
    size = max(1, settings.batch_size // settings.samples_per_source) * settings.samples_per_source
    with tqdm(
        total=len(tasks), initial=done, desc=f"{method} {class_slug}", unit="pair", disable=None
    ) as progress:
        for start in range(done - done % size, len(tasks), size):
            batch = tasks[max(start, done) : start + size]
            samples = {t: kept.find(t.key(method), digest=digests[t.key(method)]) for t in batch}
            fresh = [t for t in batch if samples[t] is None]
            if fresh:
                draw = draw or _load_models(config, paths=paths, method=method, store=store)
                pairs = draw(fresh)
                for position, task in enumerate(fresh):
                    metadata: dict[str, Any] = {
                        "source_key": task.source_key,
                        "class_slug": class_slug,
                        "seed": task_seed(task, method=method, seed=config.seed),
                        "prompt": task.prompt,
                        "model_hash": hashes["mask2img"],
                        "quality": pairs.quality[position],
                    }
                    mask, instances = (
                        pairs.segmentation_maps[position],
                        pairs.instance_maps[position],
                    )
                    samples[task] = Sample(
                        task.key(method), pairs.images[position], mask, instances, metadata
                    )
            for task in batch:
                sample = samples[task]
                assert sample is not None, task
                writer.add(sample)
            writer.commit()
            progress.update(len(batch))


def _load_models(
    config: SegGenConfig,
    *,
    paths: ProjectPaths,
    method: Literal["masksyn", "imgsyn"],
    store: SampleStore,
) -> Callable[[list[SynthesisTask]], SynthesizedPairs]:
    """Load what the method needs and return the function that makes the pairs of some tasks."""
    settings: SegGenSynthesisConfig = getattr(config, method)
    device = pick_device(config.runtime)
    taxonomy = Taxonomy.read(paths.taxonomy)
    code = ColorCode(taxonomy, kind=config.dataset.color_map)
    mask2img = load_mask2img(paths.model("foundation"), paths.model("mask2img")).to(device)
    text2mask = load_pipeline(paths.model("text2mask")).to(device) if method == "masksyn" else None

    def draw(tasks: list[SynthesisTask]) -> SynthesizedPairs:
        real_masks = [store.read_mask(t.source_key) for t in tasks] if method == "imgsyn" else None
        real_instances = None
        if method == "imgsyn" and code.kind == "panoptic":
            real_instances = [store.read_instances(t.source_key) for t in tasks]
        return synthesize_pairs(
            tasks,
            method=method,
            config=settings,
            seed=config.seed,
            mask2img=mask2img,
            code=code,
            image_size=config.dataset.image_size,
            text2mask=text2mask,
            real_masks=real_masks,
            real_instances=real_instances,
        )

    return draw


def partition_metrics(store: SampleStore, *, taxonomy: Taxonomy) -> dict[str, float]:
    """Return the number of samples, the share of pixels per class, and the mean of each quality column."""
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
