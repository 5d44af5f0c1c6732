"""Stage `memorization`: how near a method's samples come to the real training samples, against new real ones."""

import json
import shutil
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from seggen_core.colors.semantic import class_palette
from seggen_core.config import SYNTHESIS_METHODS, MemorizationConfig, RuntimeConfig, SegGenConfig
from seggen_core.errors import ConfigError, SampleStoreError
from seggen_core.evaluation.memorization import (
    MASK_SIDE,
    Nearest,
    PackedMasks,
    nearest_images,
    nearest_masks,
    pack_masks,
    reduce_image,
    reduce_mask,
)
from seggen_core.project.parallel import ordered_map
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.reports.grids import colorize, image_grid
from seggen_core.reports.memorization import MEASURES
from seggen_core.store.reader import SampleStore, open_partitions
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import track_stage

REFERENCE = "val"

_REAL_MASKS = ("imgsyn",)
"""Methods whose samples have the masks of real ones."""

_LOW_PERCENTILE = 1
_PICTURE_SIDE = 96


@dataclass(frozen=True)
class TrainingSet:
    """The real training samples as samples are compared with them.

    Attributes:
        store: all of them.
        images: uint8 [N, 32, 32, 3].
        masks: reduced to `mask_side`; None where masks aren't compared.
        mask_side: pixels.
    """

    store: SampleStore
    images: np.ndarray
    masks: PackedMasks | None
    mask_side: int


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/reports/memorization/<method>: metrics.json, distances.csv, reference.csv and nearest.png.

    All samples of the method are compared with all real training samples, those mirrored too
    (`evaluation.memorization`), and so are the real validation samples: the reference.
    distances.csv and reference.csv have a row a sample: for masks ("mask_distance", percent of
    pixels), and for images "image_rms" (grey levels), "image_relative" and "image_structure", with
    the keys of the nearest training samples, and whether it is mirrored ones that are near.
    metrics.json has under "synthetic" and "reference" for each measure "median", "p5", "p1"
    (percentiles) and "min", and under "synthetic" also "below_reference": the percentage of samples
    nearer than the reference's first percentile, 1 for samples that are as new as real ones.
    "source_is_nearest" is the percentage of samples made from a real one whose image is the nearest
    (by "image_rms").

    Masks aren't compared ("masks" says why) where they are real by design ("real": ImgSyn), or
    label one class at a time and come from a method that has seen no mask ("one_class": SeeDiff,
    DiffuMask).

    Validation samples that were trained on, too (`dataset.keep_val_in_train`), aren't compared with
    themselves; "reference_in_train" counts them.

    Raises:
        ConfigError: there is no such method.
        SampleStoreError: the method has no sample.
    """
    if item not in SYNTHESIS_METHODS:
        raise ConfigError(
            f"there is no synthetic method {item!r}; known: {', '.join(SYNTHESIS_METHODS)}"
        )
    settings = config.memorization
    limit_threads(config.runtime)
    device = pick_device(config.runtime)
    params = settings.model_dump(mode="json")
    with track_stage(
        "memorization", item=item, params=params, runtime=config.runtime, paths=paths
    ) as tracked:
        # 1. What is compared with what.
        taxonomy = Taxonomy.read(paths.taxonomy)
        stores = {
            store.folder.name: store
            for store in open_partitions(paths.synthetic(item))
            if len(store)
        }
        if not stores:
            raise SampleStoreError(
                f"{paths.synthetic(item)} holds no sample in any class partition; run: dvc repro {item}"
            )
        for name, folder in (
            (item, paths.synthetic(item)),
            ("real_train", paths.real("train")),
            ("real_val", paths.real("val")),
        ):
            tracked.log_input(name=name, path=folder)
        masks = "own"
        if item in _REAL_MASKS:
            masks = "real"
        elif all(store.index["source_key"].isna().all() for store in stores.values()):
            masks = "one_class"
        train, val = SampleStore(paths.real("train")), SampleStore(paths.real(REFERENCE))
        training = read_training_set(
            train,
            num_classes=len(taxonomy),
            with_masks=masks == "own",
            num_threads=config.runtime.num_threads,
        )

        # 2. Distances.
        same = _digests(val)[:, None] == _digests(train)
        reference = _measure(
            val,
            training=training,
            num_classes=len(taxonomy),
            settings=settings,
            runtime=config.runtime,
            device=device,
            same=same,
        )
        tables = [
            _measure(
                store,
                training=training,
                num_classes=len(taxonomy),
                settings=settings,
                runtime=config.runtime,
                device=device,
            ).assign(class_slug=slug)
            for slug, store in stores.items()
        ]
        distances = pd.concat(tables, ignore_index=True)
        distances.insert(0, "class_slug", distances.pop("class_slug"))

        # 3. Figures.
        metrics: dict[str, Any] = {
            "samples": len(distances),
            "training_samples": len(train),
            "reference_samples": len(val),
            "reference_in_train": int(same.any(1).sum()),
            "neighbors": settings.neighbors,
            "masks": masks,
            "synthetic": summarize_distances(distances),
            "reference": summarize_distances(reference),
        }
        for name in _measured(distances):
            limit = (
                np.nanpercentile(reference[name], _LOW_PERCENTILE)
                if reference[name].notna().any()
                else np.nan
            )
            metrics["synthetic"][name]["below_reference"] = (
                None if np.isnan(limit) else round(100 * float((distances[name] < limit).mean()), 4)
            )
        if (made := distances["source_key"].notna()).any():
            is_source = distances["source_key"] == distances["image_nearest"]
            metrics["source_is_nearest"] = round(100 * float(is_source[made].mean()), 4)
        scratch = paths.scratch / "memorization" / item
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        (scratch / "metrics.json").write_text(
            json.dumps(metrics, indent=1, allow_nan=False) + "\n", encoding="utf-8"
        )
        distances.round(4).to_csv(scratch / "distances.csv", index=False)
        reference.drop(columns="source_key").round(4).to_csv(scratch / "reference.csv", index=False)

        # 4. The nearest pairs.
        palette = class_palette(len(taxonomy))
        rows: list[list[np.ndarray]] = []
        labels: list[str] = []
        for name in _measured(distances):
            kind = name.split("_")[0]
            finder = "structure" if name == "image_structure" else kind
            chosen = distances[distances[name].notna()].sort_values(
                [name, "class_slug", "key"], kind="stable"
            )
            chosen = chosen[: settings.num_pictures]
            if chosen.empty:
                continue
            pairs = [
                _pair(
                    kind,
                    store=stores[row["class_slug"]],
                    train=train,
                    row=row,
                    finder=finder,
                    palette=palette,
                )
                for _, row in chosen.iterrows()
            ]
            rows += [[own for own, _ in pairs], [other for _, other in pairs]]
            labels += [MEASURES[name], "  training sample"]
        scale = max(1, _PICTURE_SIDE // config.dataset.image_size)
        image_grid(rows, scale=scale, labels=labels).save(scratch / "nearest.png")

        # 5. Report, and into place.
        for group in ("synthetic", "reference"):
            for name in _measured(distances):
                values = {
                    f"{group}/{name}/{k}": v
                    for k, v in metrics[group][name].items()
                    if v is not None
                }
                tracked.log_metrics(values)
        for name in ("nearest.png", "distances.csv"):
            tracked.log_artifact(scratch / name)
        out = paths.report("memorization", item)
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch.replace(out)


def read_training_set(
    store: SampleStore, *, num_classes: int, with_masks: bool, num_threads: int
) -> TrainingSet:
    """Read and reduce all samples of a store; masks to the side that they have, at most MASK_SIDE."""
    mask_side = min(MASK_SIDE, *store.read_mask(0).shape)

    def read(key: str) -> tuple[np.ndarray, np.ndarray | None]:
        return reduce_image(store.read_image(key)), reduce_mask(
            store.read_mask(key), side=mask_side
        ) if with_masks else None

    bar = tqdm(
        ordered_map(read, store.keys(), num_threads=num_threads),
        total=len(store),
        desc="memorization: read the training set",
        unit="image",
        disable=None,
    )
    images, masks = zip(*bar, strict=True)
    packed = pack_masks(np.stack(masks), num_classes=num_classes) if with_masks else None
    return TrainingSet(store, np.stack(images), packed, mask_side)


def summarize_distances(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Return "median", "p5", "p1" and "min" of each measure in `table`, over samples that have it; None where none has."""

    def rounded(values: "pd.Series[float]", percentile: float) -> float | None:
        return None if values.empty else round(float(np.percentile(values, percentile)), 4)

    return {
        name: {
            what: rounded(table[name].dropna(), percentile)
            for what, percentile in (("median", 50), ("p5", 5), ("p1", _LOW_PERCENTILE), ("min", 0))
        }
        for name in _measured(table)
    }


def _measured(table: pd.DataFrame) -> list[str]:
    return [name for name in MEASURES if name in table]


def _measure(
    store: SampleStore,
    *,
    training: TrainingSet,
    num_classes: int,
    settings: MemorizationConfig,
    runtime: RuntimeConfig,
    device: torch.device,
    same: np.ndarray | None = None,
) -> pd.DataFrame:
    """Return a row for each sample of `store`: key, source_key, MEASURES, and which training sample is near, by each search.

    Args:
        same: bool [samples, training samples], pairs that are one sample.
    """
    keys, side = store.keys(), training.mask_side
    training_keys = np.array(
        [*training.store.keys(), None], object
    )  # the last stands for none, at -1
    masks_of_training = training.masks

    def read(key: str) -> tuple[np.ndarray, list[np.ndarray]]:
        image = reduce_image(store.read_image(key))
        if masks_of_training is None:
            return image, []
        mask = store.read_mask(key)
        return image, [reduce_mask(mask, side=side), reduce_mask(mask[:, ::-1], side=side)]

    def columns(name: str, found: Nearest) -> dict[str, Any]:
        return {f"{name}_nearest": training_keys[found.index], f"{name}_mirrored": found.mirrored}

    parts: list[pd.DataFrame] = []
    samples = ordered_map(read, keys, num_threads=runtime.num_threads)
    with tqdm(
        total=len(keys), desc=f"memorization: {store.folder.name}", unit="sample", disable=None
    ) as progress:
        for start in range(0, len(keys), settings.batch_size):
            batch = keys[start : start + settings.batch_size]
            images, masks = zip(*(next(samples) for _ in batch), strict=True)
            excluded = None if same is None else same[start : start + len(batch)]
            part: dict[str, Any] = {"key": batch}
            if masks_of_training is not None:
                own, mirrored = (
                    pack_masks(np.stack(m), num_classes=num_classes)
                    for m in zip(*masks, strict=True)
                )
                near = nearest_masks(
                    own, mirrored=mirrored, training=masks_of_training, same=excluded
                )
                part |= {"mask_distance": near.distance} | columns("mask", near)
            found = nearest_images(
                np.stack(images),
                training=training.images,
                neighbors=settings.neighbors,
                device=device,
                same=excluded,
            )
            part |= {"image_rms": found.rms.distance, "image_relative": found.relative} | columns(
                "image", found.rms
            )
            part |= {"image_structure": found.structure.distance} | columns(
                "structure", found.structure
            )
            parts.append(pd.DataFrame(part))
            progress.update(len(batch))
    table = pd.concat(parts, ignore_index=True)
    table.insert(1, "source_key", store.index["source_key"].to_numpy())
    return table


def _digests(store: SampleStore) -> np.ndarray:
    """Return a number, int64 [N], that two samples share where the files of their images do (length and CRC-32)."""
    return store.index["image_bytes"].to_numpy(np.int64) << 32 | store.index[
        "image_crc32"
    ].to_numpy(np.int64)


def _pair(
    kind: str,
    *,
    store: SampleStore,
    train: SampleStore,
    row: "pd.Series[Any]",
    finder: str,
    palette: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Return pictures, uint8 [H, W, 3], of a sample and of the training sample near it, mirrored where that one is near."""

    def read(source: SampleStore, key: str) -> np.ndarray:
        return (
            colorize(source.read_mask(key), palette) if kind == "mask" else source.read_image(key)
        )

    other = read(train, row[f"{finder}_nearest"])
    return read(store, row["key"]), other[:, ::-1] if row[f"{finder}_mirrored"] else other
