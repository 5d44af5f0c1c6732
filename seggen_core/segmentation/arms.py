"""The arms of the ablation: their settings, what they train on, and their checkpoints."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel

from seggen_core.config import (
    ModelName,
    PostprocessConfig,
    SegGenConfig,
    SegmenterConfig,
    SyntheticAugmentConfig,
    Task,
    VariantConfig,
)
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.project.artefacts import damaged, read_artefact
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.geometry import RandomCrop
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.mixing import BatchPlan, SyntheticSample, TrainingSeed
from seggen_core.segmentation.models import load_segmenter
from seggen_core.segmentation.pairs import Arrays, Pair, PairPool
from seggen_core.segmentation.predict import AS_STORED, TestProtocol
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.segmentation.sources import count_unmatched, select_sources, shuffled_masks
from seggen_core.segmentation.subsets import limit_synthetic
from seggen_core.segmentation.synthetic_augment import augment_synthetic
from seggen_core.store.reader import SampleStore

_NUM_PARTNERS = 16
"""Synthetic pairs that a batch is spliced and occluded with."""


def find_variant(config: SegGenConfig, name: str | None) -> VariantConfig:
    """Return the arm called `name`; ConfigError lists the known ones for any other name."""
    if name not in config.variants:
        raise ConfigError(
            f"there is no variant {name!r}; params.yaml has: {', '.join(config.variants)}"
        )
    return config.variants[name]


class PredictedAt(BaseModel):
    """The size that an arm is tested at (`predict.TestProtocol`)."""

    short_side: int | None = None
    """Pixels of the short side; None keeps the image's."""
    max_side: int | None = None
    """Largest long side in pixels; None sets no limit."""


class ArmMetrics(BaseModel):
    """What is read of an arm's metrics.json."""

    model: ModelName
    task: Task = "semantic"
    seeds: dict[str, dict[str, Any]]
    postprocess: PostprocessConfig = PostprocessConfig()
    tested_at: PredictedAt | None = None
    known_classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArmConfig:
    """How an arm is trained.

    Attributes:
        variant: the arm's section.
        settings: `TrainSegConfig.for_arm`.
    """

    variant: VariantConfig
    settings: SegmenterConfig

    @classmethod
    def read(cls, config: SegGenConfig, name: str | None) -> "ArmConfig":
        """Read the section of the arm called `name`.

        Raises:
            ConfigError: there is no such arm.
        """
        variant = find_variant(config, name)
        return cls(variant, config.train_seg.for_arm(variant))

    @property
    def params(self) -> dict[str, Any]:
        """JSON-ready: every parameter that the training depends on."""
        return {
            "variant": self.variant.model_dump(mode="json"),
            **self.settings.to_json(),
        }


BEST = "best"
"""Folder beside a seed's last segmenter: the best one by the validations during its training."""


@dataclass(frozen=True)
class TrainedArm:
    """The checkpoints of an arm."""

    folder: Path
    """data/checkpoints/<variant>."""
    model: ModelName
    """The segmenter."""
    seeds: tuple[str, ...]
    """Subset seeds, one checkpoint each."""
    protocol: TestProtocol = AS_STORED
    """At which size it was validated, and is tested."""
    facts: dict[str, Any] = field(default_factory=dict)
    """The content of metrics.json (`ArmTraining.train`)."""
    checkpoint: Literal["last", "best"] = "last"
    """"last", or "best" by the validations during its training."""
    known_classes: tuple[str, ...] = ()
    """Slugs of the classes that it has besides "rest"; empty for all."""
    task: Task = "semantic"
    """What it was trained for."""
    postprocess: PostprocessConfig = field(default_factory=PostprocessConfig)
    """How its queries became segments in validation."""

    @classmethod
    def read(cls, paths: ProjectPaths, *, variant: str) -> "TrainedArm":
        """Read an arm's metrics.json.

        Raises:
            ArtefactError: the file is damaged.
            FoundationError: the arm hasn't been trained.
        """
        folder = paths.checkpoint(variant)
        file = folder / "metrics.json"
        if not file.is_file():
            raise FoundationError(
                f"{file} doesn't exist: the arm {variant} isn't trained; "
                f"run: dvc repro train_seg@{variant}"
            )
        stage = f"train_seg@{variant}"
        metrics = read_artefact(file, ArmMetrics, stage=stage)
        if not metrics.seeds or not all(seed.isdecimal() for seed in metrics.seeds):
            raise damaged(file, "seeds names no subset seeds", stage=stage)
        tested_at = metrics.tested_at or PredictedAt()
        protocol = TestProtocol(tested_at.short_side, tested_at.max_side)
        facts = read_artefact(file, dict[str, Any], stage=stage)
        return cls(
            folder,
            metrics.model,
            tuple(metrics.seeds),
            protocol,
            facts,
            known_classes=metrics.known_classes,
            task=metrics.task,
            postprocess=metrics.postprocess,
        )

    def load(self, seed: str, *, device: torch.device) -> Segmenter:
        """Load the segmenter of a subset seed, in evaluation mode, to `device`.

        Raises:
            FoundationError: the best one is asked for, and nothing was validated while it trained.
        """
        folder = self.folder / f"seed{seed}"
        if self.checkpoint == "best":
            folder = folder / BEST
            if not folder.is_dir():
                raise FoundationError(
                    f"{folder} doesn't exist: {self.folder.name} was trained without validation; "
                    "set train_seg.common.validate_every, or evaluate.checkpoint to last"
                )
        return load_segmenter(folder).to(device)


@dataclass(frozen=True, eq=False)
class ArmSamples:
    """The samples that an arm may train on with one subset.

    Attributes:
        real: the training split.
        real_keys: the real samples it is given; for ``real: none`` the sources of its synthetic
            ones.
        partitions: by method, the stores of the classes.
        labels: the segmenter's classes.
    """

    real: SampleStore
    real_keys: Sequence[str]
    partitions: Mapping[str, Sequence[SampleStore]]
    labels: LabelSpace


@dataclass(frozen=True, eq=False)
class Batch:
    """The samples of one network call, on the CPU: of a step, or of a part of it."""

    step: int
    """Counted from 0."""
    part: int
    """Which part of the step, from 0."""
    rows: slice
    """The samples' places in the step."""
    images: torch.Tensor
    """uint8 [B, 3, H, W]."""
    segmentation_maps: torch.Tensor
    """uint8 or int32 [B, H, W], labels (`segmentation.segment_labels`)."""
    is_synthetic: torch.Tensor
    """bool [B]."""
    filled: torch.Tensor | None = None
    """int64 [B, 2], (height, width) of each sample at the top left of its crop; the rest is
    padding. None where the samples aren't cropped yet."""
    segments: tuple[torch.Tensor, ...] | None = None
    """int64 [n] for each sample, its segments before it was cropped; None where labels are train
    ids or the samples aren't cropped yet."""


@dataclass(frozen=True, eq=False)
class Arm:
    """What an arm trains on."""

    plan: BatchPlan
    """Which samples, step by step."""
    pool: PairPool
    """Where they are."""
    seed: TrainingSeed
    """Names the random streams."""
    synthetic_augment: SyntheticAugmentConfig | None
    """How synthetic pairs are augmented before the augmentation of all samples; None doesn't."""
    crop: RandomCrop | None
    """How samples are resized and cropped as they are read; None leaves that to the step."""
    part_size: int
    """Samples of one network call."""
    facts: dict[str, Any]
    """JSON-ready: num_real, num_synthetic (by method), and unmatched_sources: by method, the number
    of real samples that are no synthetic one's source."""
    things: tuple[bool, ...] = ()
    """Which classes are things, by train id; empty for the task "semantic"."""

    @property
    def num_parts(self) -> int:
        """Network calls of a step."""
        return self.plan.batch_size // self.part_size

    def read(self, index: int) -> Batch:
        """Read the samples of network call `index`; step s has calls s * num_parts and onward.

        Several threads may read at once. What is drawn is named by step and place in the step, so
        it doesn't depend on who reads first.

        Raises:
            ConfigError: samples that aren't cropped as they are read differ in size.
        """
        step, part = divmod(index, self.num_parts)
        rows = slice(part * self.part_size, (part + 1) * self.part_size)
        pairs = self.pool.read_slots(slots := self.plan.slots(step)[rows])
        is_synthetic = [slot.synthetic is not None for slot in slots]
        if self.synthetic_augment is not None and any(is_synthetic):
            pairs = self._augment_synthetic(pairs, is_synthetic, step=step, part=part)
        filled = segments = None
        if self.crop is not None:
            if pairs[0][1].dtype != np.uint8:
                segments = tuple(torch.from_numpy(np.unique(ids)).long() for _, ids in pairs)
            places = range(rows.start, rows.stop)
            rngs = [self.seed.numpy_rng("crop", step, place) for place in places]
            crops = [self.crop(*pair, rng=rng) for pair, rng in zip(pairs, rngs, strict=True)]
            pairs = [(crop.image, crop.mask) for crop in crops]
            filled = torch.tensor([crop.filled for crop in crops])
        images, masks = _stack(pairs)
        return Batch(
            step,
            part,
            rows,
            torch.from_numpy(images).permute(0, 3, 1, 2),
            torch.from_numpy(masks),
            torch.tensor(is_synthetic),
            filled,
            segments,
        )

    def _augment_synthetic(
        self, pairs: list[Arrays], is_synthetic: list[bool], *, step: int, part: int
    ) -> list[Arrays]:
        """Augment the synthetic ones among `pairs`."""
        assert self.synthetic_augment is not None
        name = (step,) if self.num_parts == 1 else (step, part)
        rng = self.seed.numpy_rng("synthetic augment", *name)
        partners = rng.integers(self.plan.num_synthetic, size=_NUM_PARTNERS)
        augmented = iter(
            augment_synthetic(
                [pair for pair, flag in zip(pairs, is_synthetic, strict=True) if flag],
                pool=self.pool.read_synthetic(partners.tolist()),
                config=self.synthetic_augment,
                rng=rng,
            )
        )
        return [
            next(augmented) if flag else pair
            for pair, flag in zip(pairs, is_synthetic, strict=True)
        ]


def _stack(pairs: Sequence[Arrays]) -> Arrays:
    """Return images uint8 [B, H, W, 3] and labels [B, H, W]."""
    images, masks = zip(*pairs, strict=True)
    if len(sizes := sorted({mask.shape for mask in masks})) > 1:
        raise ConfigError(
            f"the samples of a step differ in size, e.g. {sizes[0]} and {sizes[-1]}, but "
            "train_seg.common.resize is zoom, which takes samples of one size; set it to "
            "short_side or scale_jitter (or dataset.fit to stretch)"
        )
    return np.stack(images), np.stack(masks)


def open_arm(
    variant: VariantConfig, *, config: SegmenterConfig, samples: ArmSamples, seed: TrainingSeed
) -> Arm:
    """Bring an arm's real and synthetic samples together.

    Args:
        variant: the arm.
        config: the training.
        samples: what the arm may train on.
        seed: names the random streams.

    Raises:
        ConfigError: one of the methods has nothing for these real samples.
    """
    # 1. Synthetic samples, without those whose source isn't given to this segmenter.
    stores, synthetic = _list_synthetic(samples, num_synthetic=variant.num_synthetic, seed=seed)
    absent = sorted(set(samples.partitions) - {sample.method for sample in synthetic})
    if absent:
        raise ConfigError(
            f"{', '.join(absent)}: no sample was made from one of the {len(samples.real_keys)} "
            f"real ones of subset seed {seed.subset_seed}; `classes` may not hold the rarest class "
            f"of any of them (run: dvc repro {' '.join(absent)})"
        )
    positions: Sequence[int] = range(len(synthetic))
    masks = shuffled_masks(synthetic, seed=seed) if variant.shuffle_masks else positions

    # 2. Where every image and mask is, and which fill a batch.
    real_keys = samples.real_keys if variant.real != "none" else ()
    labels = samples.labels
    things = tuple(c.is_thing for c in labels.taxonomy) if config.task != "semantic" else None
    real = {
        key: Pair((samples.real, key), (samples.real, key), labels.real_table, things)
        for key in real_keys
    }
    places = [(stores[sample.method, sample.key], sample.key) for sample in synthetic]
    pairs = [
        Pair(places[i], places[mask], labels.synthetic_table, things)
        for i, mask in zip(positions, masks, strict=True)
    ]
    plan = BatchPlan(
        config,
        real_keys=samples.real_keys,
        synthetic=synthetic,
        synthetic_only=variant.real == "none",
        seed=seed,
    )
    facts = {
        "num_real": len(real_keys),
        "num_synthetic": {
            method: sum(s.method == method for s in synthetic) for method in samples.partitions
        },
        "unmatched_sources": count_unmatched(synthetic, real_keys=samples.real_keys),
    }
    crop = None if config.resize == "zoom" else RandomCrop(config)
    as_pictures = crop is not None and variant.synthetic_augment is None
    pool = PairPool(real=real, synthetic=pairs, as_pictures=as_pictures)
    part_size = config.micro_batch_size or config.batch_size
    return Arm(plan, pool, seed, variant.synthetic_augment, crop, part_size, facts, things or ())


def _list_synthetic(
    samples: ArmSamples, *, num_synthetic: int | None, seed: TrainingSeed
) -> tuple[dict[tuple[str, str], SampleStore], list[SyntheticSample]]:
    """Return the store of each (method, key), and the samples that the arm reads."""
    stores: dict[tuple[str, str], SampleStore] = {}
    listed: list[SyntheticSample] = []
    for method, group in samples.partitions.items():
        for store in group:
            for key, source in zip(store.index["key"], store.index["source_key"], strict=True):
                stores[method, key] = store
                listed.append(
                    SyntheticSample(method, key, source if isinstance(source, str) else None)
                )
    listed = select_sources(listed, real_keys=samples.real_keys)
    groups = [s.source_key or stores[s.method, s.key].folder.name for s in listed]
    chosen = limit_synthetic(listed, groups=groups, num_synthetic=num_synthetic, seed=seed)
    return stores, [listed[position] for position in chosen]
