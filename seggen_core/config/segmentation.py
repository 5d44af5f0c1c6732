"""Sections on the segmenter, the arms of the ablation and their scores."""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from seggen_core.config.base import (
    Factor,
    LearningRate,
    Positive,
    Probability,
    Section,
    Size,
    Slug,
    TrackedPath,
    Weight,
)
from seggen_core.config.library_settings import (
    check_hrnet_settings,
    check_mask2former,
    first_error,
)
from seggen_core.config.recipe import MultiScaleConfig, RecipeConfig

Splice = Annotated[int, Field(gt=0, le=16)]
SYNTHESIS_METHODS = ("masksyn", "imgsyn", "seediff", "diffumask")
"""Methods that fill data/synthetic/<method>/<class>."""


_INPUT = re.compile(r"data/(real|synthetic)/[A-Za-z0-9_./-]+")
"""What an arm may read: outs of the stages dataset, masksyn, imgsyn, seediff and diffumask."""


class SegmenterConfig(RecipeConfig):
    """Segmentation training, the same for every arm."""

    model: Literal["hrnet", "mask2former"] = "hrnet"
    """"hrnet" (timm) or "mask2former" (transformers)."""
    strategy: Literal["replace", "pretrain"] = "replace"
    """"replace" swaps each real sample for a synthetic one with probability p_aug; "pretrain"
    trains on synthetic samples first and on real ones after (SegGen 3.4).
    """
    p_aug: Probability = 0.6
    """Replacement probability (paper: 0.6)."""
    num_steps: Positive = 600
    """Optimisation steps in all; under "pretrain", the first `pretrain_share` of them see synthetic
    data.
    """
    pretrain_share: Probability = 0.6
    """Share of the steps that strategy "pretrain" spends on synthetic samples."""
    batch_size: Size = 16
    """Samples of a step."""
    learning_rate: LearningRate = 1e-3
    """Peak learning rate."""
    weight_decay: Weight = 1e-4
    """Weight decay of all that `undecayed` doesn't name."""
    warmup_steps: int = Field(50, ge=0, le=1_000_000_000)
    """Steps over which the learning rate rises linearly to its peak."""
    lr_scheduler: Literal["poly", "cosine", "step"] = "poly"
    """How the learning rate falls after the warm-up: "poly" to zero, to the power 0.9 of the steps
    left (SegGen A.3); "cosine" to zero; "step" to a tenth after 8/9 and again after 26/27 of the
    steps (Mask2Former on COCO). With strategy "pretrain", each phase has its own schedule.
    """
    max_grad_norm: Factor | None = 10.0
    """Gradients are clipped to this norm; None leaves them."""
    backbone_multiplier: Factor = 1.0
    """Factor on the learning rate of the backbone's parameters (Mask2Former's authors: 0.1)."""
    class_balance: Probability = 0.0
    """A class weighs (median class frequency / its frequency) to this power in HRNet's
    cross-entropy; frequencies are shares of the pixels of the whole real training split, in every
    arm. 0 weighs all pixels alike, 1 is median frequency balancing (Eigen and Fergus, ICCV 2015;
    SegNet on CamVid).
    """
    checkpoint_every: Positive = 200
    """Steps between the states that an interrupted training resumes from."""
    backbone: str = "hrnet_w18_small"
    """Timm model name of "hrnet"."""
    backbone_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Changes to timm's definition of the backbone, by timm's names ("stem_width", "stage2":
    {...}).
    """
    backbone_source: str | None = None
    """Pretrained weights of the backbone: a safetensors file, or a folder with model.safetensors,
    relative to the project's folder. "hrnet" needs timm's weights, "mask2former" those of
    transformers. None trains from scratch.
    """
    stem_stride: Literal[1, 2, 4] = 4
    """Factor by which HRNet's stem shrinks the image: 4 as published, 2 or 1 for small images."""
    head_width: Size = 64
    """Channels of HRNet's segmentation head."""
    mask2former: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers' Mask2FormerConfig, including `backbone_config`. If
    `mask2former_source` is given, they change its configuration.
    """
    mask2former_source: str | None = None
    """Transformers folder, or hub repository with `mask2former_revision`; None trains from scratch.
    """
    mask2former_revision: str | None = None
    """Commit of a hub repository; required for one."""
    overrides: dict[Literal["hrnet", "mask2former"], dict[str, Any]] = Field(default_factory=dict)
    """Fields of this section that differ for one model: {"mask2former": {"learning_rate": 1.0e-4}}.
    """

    def for_model(self, model: Literal["hrnet", "mask2former"] | None) -> "SegmenterConfig":
        """Return the section for `model`, with its overrides; None stands for `self.model`."""
        name = model or self.model
        changes = self.overrides.get(name, {}) | {"model": name, "overrides": {}}
        # As JSON, because values are strict there, but a list is a tuple.
        text = json.dumps(self.model_dump(mode="json") | changes)
        return SegmenterConfig.model_validate_json(text, strict=True)

    @model_validator(mode="after")
    def _check(self) -> "SegmenterConfig":
        check_hrnet_settings(self.backbone_kwargs)
        if self.mask2former:
            check_mask2former(self.mask2former)
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size is {self.micro_batch_size}; expected a divisor of batch_size "
                f"{self.batch_size}"
            )
        for name, changes in self.overrides.items():
            if "model" in changes or "overrides" in changes:
                raise ValueError(f"overrides of {name} can't change 'model' or 'overrides'")
            try:
                self.for_model(name)
            except ValidationError as error:
                raise ValueError(first_error(error, section=f"overrides.{name}")) from None
        return self


class SyntheticAugmentConfig(Section):
    """DiffuMask's augmentations of synthetic pairs. The augmentations of all samples come after."""

    splice: Probability = 0.3
    """Probability that several pairs are laid side by side and shrunk to one."""
    splice_grids: tuple[tuple[Splice, Splice], ...] = ((1, 2), (2, 1), (2, 2), (3, 3))
    """(rows, columns) of pairs that are laid side by side and shrunk to one."""
    perspective: Probability = 0.3
    """Probability of a perspective change."""
    max_perspective: Annotated[float, Field(ge=0, le=0.4)] = 0.2
    """A corner moves inward by at most this share of the side."""
    occlusion: Probability = 0.3
    """Probability that a rectangle of another pair covers a part."""
    occlusion_extent: tuple[Probability, Probability] = (0.15, 0.5)
    """Smallest and largest side of that rectangle, as shares of the image's side."""
    noise: Probability = 0.3
    """Probability of added Gaussian noise."""
    noise_sigma: float = Field(8.0, ge=0, le=255)
    """Standard deviation of the noise, in grey levels of 0 to 255."""

    @model_validator(mode="after")
    def _check(self) -> "SyntheticAugmentConfig":
        if not self.splice_grids or self.occlusion_extent[0] > self.occlusion_extent[1]:
            raise ValueError(
                "synthetic_augment needs a splice grid, and an occlusion_extent whose first value "
                "isn't the larger"
            )
        return self


class NoiseFilterConfig(Section):
    """FreeMask's filter of synthetic pixels, by a segmenter of the arm's real samples alone.

    That segmenter is trained first, as the arm without its synthetic samples would be: an arm with
    a filter takes twice the time.
    """

    tolerance: float = Field(1.25, gt=0, le=1e9)
    """A pixel is ignored if its cross-entropy exceeds this many times the mean of its class on the
    real samples (FreeMask: 1.25). With few real samples the segmenter overfits them, their mean
    falls, and more pixels are ignored.
    """


class VariantConfig(Section):
    """One arm of the ablation."""

    real: Literal["subset", "all", "none"] = "subset"
    """Which real samples it trains on: the N-sample "subset", "all" of the training split, or
    "none".
    """
    reads: tuple[Annotated[str, TrackedPath], Annotated[str, TrackedPath]]
    """Two inputs, because DVC requires every arm to list the same number. Folders below
    data/synthetic are the arm's synthetic sources. If an arm uses fewer than two, fill up with
    data/real/train/index.parquet and data/real/val/index.parquet.
    """
    shuffle_masks: bool = False
    """The control: each synthetic image gets the mask of another one."""
    model: Literal["hrnet", "mask2former"] | None = None
    """Train this model instead of `train_seg.model`."""
    strategy: Literal["replace", "pretrain"] | None = None
    """Train by this strategy instead of `train_seg.strategy`."""
    p_aug: Probability | None = None
    """Replace with this probability instead of `train_seg.p_aug`."""
    synthetic_augment: SyntheticAugmentConfig | None = None
    """Augmentations of the synthetic pairs of this arm; None uses none."""
    noise_filter: NoiseFilterConfig | None = None
    """Filter that ignores wrong pixels of synthetic pairs; None ignores none."""
    hide_unseen: bool = False
    """In real masks, ignore the pixels of classes in `zero_shot.unseen`; synthetic masks keep them.
    """

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the synthetic methods among `reads`."""
        return tuple(Path(p).name for p in self.reads if Path(p).parts[:2] == ("data", "synthetic"))

    @model_validator(mode="after")
    def _check(self) -> "VariantConfig":
        for path in self.reads:
            if not _INPUT.fullmatch(path) or ".." in path:
                raise ValueError(
                    f"reads names {path!r}; expected paths below data/real or data/synthetic, such "
                    "as data/synthetic/masksyn"
                )
        unknown = set(self.methods) - set(SYNTHESIS_METHODS)
        if unknown:
            raise ValueError(
                f"unknown synthetic source {sorted(unknown)}; known: {', '.join(SYNTHESIS_METHODS)}"
            )
        if self.real == "none" and not self.methods:
            raise ValueError(
                "the arm has no data: 'real' is none and 'reads' names nothing under data/synthetic"
            )
        if self.p_aug is not None and (
            self.real == "none" or not self.methods or self.strategy == "pretrain"
        ):
            raise ValueError(
                "'p_aug' replaces real samples by synthetic ones: it needs both, and strategy "
                "'replace'"
            )
        if self.noise_filter is not None and (self.real == "none" or not self.methods):
            raise ValueError(
                "'noise_filter' needs synthetic samples, and real ones to train the filter on"
            )
        return self


class ZeroShotConfig(Section):
    """Zero-shot segmentation: classes that only synthetic masks may teach (SeeDiff S2.1)."""

    unseen: tuple[Slug, ...] = ()
    """Slugs of those classes. `evaluate` adds mIoU over seen and over unseen classes and their
    harmonic mean; an arm with `hide_unseen` is trained without real labels of them.
    """


class EvaluateConfig(Section):
    """Evaluation on the held-out test split."""

    batch_size: Size = 32
    """Images of one prediction."""
    num_pictures: Size = 8
    """Test samples shown in the report."""
    checkpoint: Literal["last", "best"] = "last"
    """Score the weights after the last step, as the papers do, or the "best" ones by the
    validations while training (`train_seg.validate_every`).
    """
    short_side: Size | None = None
    """Short side in pixels that images are tested at; None takes `train_seg.test_short_side` and
    `train_seg.test_max_side`, with which the arm was trained.
    """
    max_side: Size | None = None
    """Largest long side in pixels beside `short_side`; None sets no limit."""
    multi_scale: MultiScaleConfig | None = None
    """Score each arm at several scales, too (`miou_ms`), which takes as many times as long as there
    are scales and flips; None scores at one.
    """

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        if self.max_side is not None and self.short_side is None:
            raise ValueError("'max_side' limits images that are resized: it needs 'short_side'")
        return self


class JudgeConfig(Section):
    """Scoring of synthetic pairs by the segmenter trained on all real samples."""

    variant: Slug = "full_real"
    """Arm whose first segmenter is the judge."""
    batch_size: Size = 32
    """Images of one prediction."""


class MemorizationConfig(Section):
    """Distances of synthetic samples to the nearest training samples."""

    neighbors: Size = 50
    """The relative distance compares the nearest training image with this many nearest ones
    (Carlini et al.: 50).
    """
    batch_size: Size = 256
    """Samples compared at once."""
    num_pictures: Size = 8
    """Number of nearest pairs in nearest.png, for each measure."""


class AblationConfig(Section):
    """The comparison table."""

    baseline: Slug = "baseline"
    """Arm that the others are compared with."""
