"""How near a method's samples come to the real training samples, against new real ones.

All samples are compared with all real training samples, those mirrored too (`evaluation.nearest`),
and so are the real validation samples: the reference.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from seggen_core.colors.palette import class_palette
from seggen_core.config import MemorizationConfig
from seggen_core.datasets.same_images import holds_changed_images, image_digests
from seggen_core.evaluation.methods import MethodSamples
from seggen_core.evaluation.nearest import (
    MASK_SIDE,
    Nearest,
    nearest_images,
    nearest_masks,
    pack_masks,
    reduce_image,
    reduce_mask,
)
from seggen_core.project.parallel import ordered_map
from seggen_core.project.publish import write_json
from seggen_core.reports.memorization import nearest_grid
from seggen_core.store.format import SIZE_COLUMNS
from seggen_core.store.reader import SampleStore

_SEARCHES = {
    "mask_distance": "mask",
    "image_rms": "image",
    "image_relative": "image",
    "image_structure": "structure",
}
"""What is measured, and which search's nearest training sample it belongs to.

The search "mask" gives the columns "mask_nearest" (a key) and "mask_mirrored", and so on.
"""

_REAL_MASKS = ("imgsyn",)
"""Methods whose samples have the masks of real ones."""

_LOW_PERCENTILE = 1
Pair = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True, eq=False)
class TrainingSet:
    """The real training samples, reduced as samples are compared with them.

    Attributes:
        store: all of them.
        images: uint8 [N, 32, 32, 3].
        masks: of `pack_masks`; None where masks aren't compared.
        mask_side: pixels of a reduced mask's side.
        num_classes: of the masks.
    """

    store: SampleStore
    images: np.ndarray
    masks: np.ndarray | None
    mask_side: int
    num_classes: int

    @classmethod
    def read(
        cls, store: SampleStore, *, num_classes: int, with_masks: bool, num_threads: int
    ) -> "TrainingSet":
        """Read and reduce all samples; masks keep their side, MASK_SIDE at most."""
        side = min(MASK_SIDE, _smallest_side(store))

        def read(key: str) -> tuple[np.ndarray, np.ndarray | None]:
            mask = reduce_mask(store.read_mask(key), side=side) if with_masks else None
            return reduce_image(store.read_image(key)), mask

        bar = tqdm(
            ordered_map(read, store.keys(), num_threads=num_threads),
            total=len(store),
            desc="memorization: read the training set",
            unit="image",
            disable=None,
        )
        images, masks = zip(*bar, strict=True)
        packed = pack_masks(np.stack(masks), num_classes=num_classes) if with_masks else None
        return cls(store, np.stack(images), packed, side, num_classes)


@dataclass(frozen=True, eq=False)
class Memorization:
    """What `measure_memorization` returns.

    Attributes:
        metrics: JSON-ready.
        distances: a row a sample: class_slug, key, source_key, the measures, and the nearest
            training sample by each search.
        reference: the same for the validation samples, without class_slug and source_key.
        pairs: by measure, the nearest samples and the training samples near them, mirrored where
            those are near: images, uint8 [H, W, 3], or masks, uint8 [H, W].
        num_classes: of the masks.
    """

    metrics: dict[str, Any]
    distances: pd.DataFrame
    reference: pd.DataFrame
    pairs: dict[str, list[Pair]]
    num_classes: int
    shown = ("nearest.png", "distances.csv")

    def write(self, folder: Path) -> dict[str, float]:
        """Write metrics.json, distances.csv, reference.csv, and nearest.png with `pairs`.

        Returns:
            the single figures in `metrics`, by "<group>/<measure>/<figure>".
        """
        write_json(folder / "metrics.json", self.metrics)
        self.distances.round(4).to_csv(folder / "distances.csv", index=False)
        self.reference.round(4).to_csv(folder / "reference.csv", index=False)
        picture = nearest_grid(self.pairs, palette=class_palette(self.num_classes))
        picture.save(folder / "nearest.png")
        return {
            f"{group}/{measure}/{name}": value
            for group in ("synthetic", "reference")
            for measure, figures in self.metrics[group].items()
            for name, value in figures.items()
            if value is not None
        }


def measure_memorization(
    samples: MethodSamples,
    *,
    train: SampleStore,
    validation: SampleStore,
    num_classes: int,
    settings: MemorizationConfig,
    num_threads: int,
    device: torch.device,
) -> Memorization:
    """Compare synthetic and validation samples with the training set.

    `metrics` has under "synthetic" and "reference" for each measure "median", "p5", "p1"
    (percentiles) and "min", and under "synthetic" also "below_reference": the percentage of samples
    nearer than the reference's first percentile, 1 for samples that are as new as real ones.
    "source_is_nearest" is the percentage of samples made from a real one whose image is the nearest
    (by "image_rms"). "masks" is "own", or says why masks aren't compared (`_compared_masks`).
    Validation samples that were trained on, too (`dataset.keep_val_in_train`), aren't compared with
    themselves; "reference_in_train" is their number.

    Args:
        samples: the synthetic samples.
        train, validation: the real samples.
        num_classes: of the masks.
        settings: how many samples are compared and shown.
        num_threads: threads that read samples.
        device: where image distances are computed.
    """
    masks = _compared_masks(samples)
    training = TrainingSet.read(
        train, num_classes=num_classes, with_masks=masks == "own", num_threads=num_threads
    )
    search = _Search(training, settings, num_threads, device)
    is_same = _same_images(validation, train)
    reference = search.measure(validation, is_same=is_same).drop(columns="source_key")
    tables = [
        search.measure(store).assign(class_slug=slug) for slug, store in samples.partitions.items()
    ]
    distances = pd.concat(tables, ignore_index=True)
    distances.insert(0, "class_slug", distances.pop("class_slug"))

    metrics: dict[str, Any] = {
        "samples": len(distances),
        "training_samples": len(train),
        "reference_samples": len(validation),
        "reference_in_train": int(is_same.any(1).sum()),
        "neighbors": settings.neighbors,
        "masks": masks,
        "synthetic": summarize_distances(distances),
        "reference": summarize_distances(reference),
    }
    for name, figures in metrics["synthetic"].items():
        figures["below_reference"] = _share_below(distances[name], reference[name])
    if (has_source := distances["source_key"].notna()).any():
        is_source = distances["source_key"] == distances["image_nearest"]
        metrics["source_is_nearest"] = round(100 * float(is_source[has_source].mean()), 4)
    pairs = _nearest_pairs(distances, samples=samples, train=train, count=settings.num_pictures)
    return Memorization(metrics, distances, reference, pairs, num_classes)


def _compared_masks(samples: MethodSamples) -> str:
    """Return "own" where masks are compared, else why they aren't.

    "real": they are real by design (ImgSyn). "one_class": they label one class at a time and come
    from a method that has seen no mask (SeeDiff, DiffuMask).
    """
    if samples.method in _REAL_MASKS:
        return "real"
    return "one_class" if samples.label_one_class else "own"


def summarize_distances(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Return "median", "p5", "p1" and "min" of each measure in `table`.

    They are over the samples that have it; None where none has.
    """

    def rounded(values: "pd.Series[float]", percentile: float) -> float | None:
        return None if values.empty else round(float(np.percentile(values, percentile)), 4)

    percentiles = {"median": 50, "p5": 5, "p1": _LOW_PERCENTILE, "min": 0}
    return {
        name: {figure: rounded(table[name].dropna(), p) for figure, p in percentiles.items()}
        for name in _measured(table)
    }


@dataclass(frozen=True, eq=False)
class _Search:
    """Looks for the training samples nearest to those of a store."""

    training: TrainingSet
    settings: MemorizationConfig
    num_threads: int
    device: torch.device

    def measure(self, store: SampleStore, *, is_same: np.ndarray | None = None) -> pd.DataFrame:
        """Return a row for each sample: key, source_key, the measures, and which samples are near.

        Args:
            store: the samples.
            is_same: bool [samples, training samples], pairs that are one sample.
        """
        keys, size = store.keys(), self.settings.batch_size
        samples = ordered_map(
            lambda key: self._reduce(store, key), keys, num_threads=self.num_threads
        )
        tables: list[pd.DataFrame] = []
        title = f"memorization: {store.folder.name}"
        with tqdm(total=len(keys), desc=title, unit="sample", disable=None) as progress:
            for start in range(0, len(keys), size):
                batch = keys[start : start + size]
                images, masks = zip(*(next(samples) for _ in batch), strict=True)
                same = None if is_same is None else is_same[start : start + size]
                columns = self._mask_columns(masks, same) | self._image_columns(images, same)
                tables.append(pd.DataFrame({"key": batch} | columns))
                progress.update(len(batch))
        table = pd.concat(tables, ignore_index=True)
        table.insert(1, "source_key", store.index["source_key"].to_numpy())
        return table

    def _reduce(self, store: SampleStore, key: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return a reduced image, and the reduced mask as it is and mirrored, if compared."""
        image = reduce_image(store.read_image(key))
        if self.training.masks is None:
            return image, []
        mask, side = store.read_mask(key), self.training.mask_side
        return image, [reduce_mask(mask, side=side), reduce_mask(mask[:, ::-1], side=side)]

    def _mask_columns(
        self, masks: tuple[list[np.ndarray], ...], same: np.ndarray | None
    ) -> dict[str, Any]:
        if self.training.masks is None:
            return {}
        plain, mirrored = (
            pack_masks(np.stack(view), num_classes=self.training.num_classes)
            for view in zip(*masks, strict=True)
        )
        near = nearest_masks(plain, mirrored=mirrored, training=self.training.masks, same=same)
        return {"mask_distance": near.distance} | self._near_columns("mask", near)

    def _image_columns(
        self, images: tuple[np.ndarray, ...], same: np.ndarray | None
    ) -> dict[str, Any]:
        near = nearest_images(
            np.stack(images),
            training=self.training.images,
            neighbors=self.settings.neighbors,
            device=self.device,
            same=same,
        )
        columns = {"image_rms": near.rms.distance, "image_relative": near.relative}
        columns |= self._near_columns("image", near.rms)
        columns |= {"image_structure": near.structure.distance}
        return columns | self._near_columns("structure", near.structure)

    def _near_columns(self, search: str, near: Nearest) -> dict[str, Any]:
        # The last of the keys stands for none, at position -1.
        keys = np.array([*self.training.store.keys(), None], object)
        return {f"{search}_nearest": keys[near.index], f"{search}_mirrored": near.mirrored}


def _nearest_pairs(
    distances: pd.DataFrame, *, samples: MethodSamples, train: SampleStore, count: int
) -> dict[str, list[Pair]]:
    """Return the nearest pairs by each measure; a measure that no sample has is left out."""
    pairs: dict[str, list[Pair]] = {}
    for name in _measured(distances):
        search, is_mask = _SEARCHES[name], name == "mask_distance"
        ranked = distances[distances[name].notna()].sort_values(
            [name, "class_slug", "key"], kind="stable"
        )
        for _, row in ranked[:count].iterrows():
            store, near_key = samples.partitions[row["class_slug"]], row[f"{search}_nearest"]
            near = train.read_mask(near_key) if is_mask else train.read_image(near_key)
            sample = store.read_mask(row["key"]) if is_mask else store.read_image(row["key"])
            near = near[:, ::-1] if row[f"{search}_mirrored"] else near
            pairs.setdefault(name, []).append((sample, near))
    return pairs


def _measured(table: pd.DataFrame) -> list[str]:
    return [name for name in _SEARCHES if name in table]


def _share_below(values: "pd.Series[float]", reference: "pd.Series[float]") -> float | None:
    """Return the percentage of values below the reference's first percentile; None without one."""
    if not reference.notna().any():
        return None
    limit = np.nanpercentile(reference, _LOW_PERCENTILE)
    return round(100 * float((values < limit).mean()), 4)


def _smallest_side(store: SampleStore) -> int:
    """Return the smallest side of a store's samples, in pixels."""
    return int(store.index[list(SIZE_COLUMNS)].to_numpy().min())


def _same_images(validation: SampleStore, train: SampleStore) -> np.ndarray:
    """Return which validation and training samples show one image, bool [V, T]."""
    if holds_changed_images(train):
        digests = np.array([*image_digests(validation, like=train)])
        return digests[:, None] == np.array([*image_digests(train)])
    return _digests(validation)[:, None] == _digests(train)


def _digests(store: SampleStore) -> np.ndarray:
    """Return a number for each image file (length and CRC-32), int64 [N]: equal for equal files."""
    length = store.index["image_bytes"].to_numpy(np.int64)
    return length << 32 | store.index["image_crc32"].to_numpy(np.int64)
