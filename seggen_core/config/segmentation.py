"""Sections on the segmenter, the arms of the ablation and their scores."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from seggen_core.config.base import (
    NumSamples,
    Probability,
    Section,
    Size,
    Slug,
    TrackedPath,
)
from seggen_core.config.recipe import MultiScaleConfig, PostprocessConfig, Task

Splice = Annotated[int, Field(gt=0, le=16)]
ModelName = Literal["hrnet", "mask2former", "eomt", "detectron2"]
SYNTHESIS_METHODS = ("masksyn", "imgsyn", "seediff", "diffumask")
"""Methods that fill data/synthetic/<method>/<class>."""


_INPUT = re.compile(r"data/(real|synthetic)/[A-Za-z0-9_./-]+")
"""What an arm may read: outs of the stages dataset, masksyn, imgsyn, seediff, diffumask and
mask_recipe.
"""


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
    """One arm of the ablation.

    An arm names its model and its strategy. dvc.yaml makes it depend on the sections of `train_seg`
    that have these names, and on `train_seg.common`; so no other settings make it stale. What only
    this arm has different stands here, so it makes no other arm stale.
    """

    model: ModelName
    """The segmenter: "hrnet" (timm), "mask2former" or "eomt" (transformers) or "detectron2" (a
    model of detectron2, which is installed by itself), with the settings of the section of
    `train_seg` that has its name.
    """
    strategy: Literal["plain", "replace", "pretrain"]
    """"plain" trains on real samples alone or, with ``real: none``, on synthetic ones alone.
    "replace" swaps each real sample for a synthetic one with probability `p_aug`. "pretrain" trains
    on synthetic samples first and on real ones after (SegGen 3.4); an arm without synthetic samples
    then trains on real ones in both phases, as SegGen's baselines do.
    """
    real: Literal["subset", "all", "none"] = "subset"
    """Which real samples it trains on: the N-sample "subset", "all" of the training split, or
    "none".
    """
    reads: tuple[Annotated[str, TrackedPath], Annotated[str, TrackedPath]]
    """Two inputs, because DVC requires every arm to list the same number. Folders below
    data/synthetic are the arm's synthetic sources. If an arm uses fewer than two, fill up with
    data/real/train/index.parquet and data/real/val/index.parquet.
    """
    task: Task | None = None
    """What the segmenter is trained for, instead of `train_seg.common.task`: "semantic", "panoptic"
    or "instance".
    """
    shuffle_masks: bool = False
    """The control: each synthetic image gets the mask of another one."""
    p_aug: Probability | None = None
    """Replace with this probability instead of `train_seg.replace.p_aug`."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of the arm's sections of `train_seg` that differ for this arm, whole values each:
    {"num_steps": 2000, "backbone": "hrnet_w48"}.
    """
    subset_size: NumSamples | None = None
    """N of this arm, instead of `dataset.subset_size`. Its samples are taken from the subset of the
    seed, or added to it (`segmentation.subsets.arm_subset`); no store is made again.
    """
    num_synthetic: NumSamples | None = None
    """Synthetic samples that the arm reads, in all; None reads every one. They are spread evenly
    over sources, or over classes where there are none, and a smaller number is a part of a larger.
    """
    synthetic_augment: SyntheticAugmentConfig | None = None
    """Augmentations of the synthetic pairs of this arm; None uses none."""
    noise_filter: NoiseFilterConfig | None = None
    """Filter that ignores wrong pixels of synthetic pairs; None ignores none."""
    hidden_classes: tuple[Slug, ...] = ()
    """Slugs of classes whose pixels are ignored in real masks; synthetic masks keep them. To
    Mask2Former such pixels are then no negatives either (`train_seg.mask2former.ignored_pixels`).
    """
    known_classes: tuple[Slug, ...] = ()
    """Slugs of the classes that the segmenter has; pixels of all others are one more class, "rest".
    For methods that teach some classes only (SeeDiff on Cityscapes). Empty: all classes.
    """
    ignored_is_rest: bool = False
    """With `known_classes`: pixels that synthetic masks ignore are of the class "rest", too. So the
    surroundings of an object teach what it isn't.
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
        if self.real == "none" and not self.methods:
            raise ValueError(
                "the arm has no data: 'real' is none and 'reads' names nothing under data/synthetic"
            )
        is_mixed = self.real != "none" and bool(self.methods)
        if self.model == "eomt" and self.hidden_classes:
            raise ValueError(
                "eomt takes pixels without a label as negatives of every class, so it would learn "
                "that hidden classes are nothing; write model: mask2former or hrnet"
            )
        if self.strategy == "replace" and not is_mixed:
            raise ValueError(
                "strategy 'replace' replaces real samples by synthetic ones, and this arm has only "
                "one kind; write strategy: plain"
            )
        if self.strategy == "plain" and is_mixed:
            raise ValueError(
                "strategy 'plain' trains on one kind of samples, and this arm has real and "
                "synthetic ones; write strategy: replace, or pretrain"
            )
        if self.p_aug is not None and self.strategy != "replace":
            raise ValueError(
                f"'p_aug' has no effect under strategy {self.strategy}; remove it, or write "
                "strategy: replace"
            )
        if self.noise_filter is not None and (self.real == "none" or not self.methods):
            raise ValueError(
                "'noise_filter' needs synthetic samples, and real ones to train the filter on"
            )
        self._check_sizes()
        self._check_classes()
        return self

    def _check_sizes(self) -> None:
        if self.subset_size is not None and self.real == "all":
            raise ValueError(
                "'subset_size' has no effect with real: all; remove it, or write real: subset"
            )
        if self.num_synthetic is not None and not self.methods:
            raise ValueError(
                "'num_synthetic' has no effect: 'reads' names nothing under data/synthetic"
            )
        if twice := [key for key in ("p_aug", "model", "strategy") if key in self.overrides]:
            raise ValueError(f"'overrides' holds {twice[0]!r}, which is a key of the arm itself")

    def _check_classes(self) -> None:
        for name in ("hidden_classes", "known_classes"):
            slugs = getattr(self, name)
            if len(set(slugs)) != len(slugs):
                raise ValueError(f"{name!r} repeats a class: {list(slugs)}")
        if "rest" in self.known_classes:
            raise ValueError(
                "'known_classes' lists 'rest', the name of the class of all other pixels; remove it"
            )
        if self.known_classes and (unknown := set(self.hidden_classes) - set(self.known_classes)):
            raise ValueError(
                f"'hidden_classes' has {', '.join(sorted(unknown))}, which 'known_classes' lacks"
            )
        if self.ignored_is_rest and not self.known_classes:
            raise ValueError("'ignored_is_rest' needs 'known_classes': without it nothing is rest")


class ZeroShotConfig(Section):
    """Zero-shot segmentation: classes that only synthetic masks may teach (SeeDiff S2.1)."""

    unseen: tuple[Slug, ...] = ()
    """Slugs of those classes. `evaluate` adds mIoU over seen and over unseen classes and their
    harmonic mean. Arms that list them in `hidden_classes` are trained without real labels of them.
    """
    left_out: tuple[Slug, ...] = ()
    """Slugs of classes that count as neither seen nor unseen (VOC's background)."""

    @model_validator(mode="after")
    def _check(self) -> "ZeroShotConfig":
        if both := sorted(set(self.unseen) & set(self.left_out)):
            raise ValueError(f"{', '.join(both)}: both in 'unseen' and in 'left_out'")
        return self


ClassGroups = dict[Slug, tuple[Slug, ...]]
"""Slugs of classes, by the name of the group that they form."""


def check_groups(groups: ClassGroups, *, name: str) -> None:
    """Raise ValueError for a group without a class, and a class in two groups."""
    if not groups or not all(groups.values()):
        raise ValueError(f"{name} has a group without a class; list at least one class in each")
    listed = [slug for slugs in groups.values() for slug in slugs]
    if twice := sorted({slug for slug in listed if listed.count(slug) > 1}):
        raise ValueError(f"{name} lists {', '.join(twice)} more than once")


class EvaluateConfig(Section):
    """Evaluation on the held-out test split."""

    batch_size: Size = 32
    """Images of one prediction."""
    num_pictures: Size = 8
    """Test samples shown in the report."""
    checkpoint: Literal["last", "best"] = "last"
    """Score the weights after the last step, as the papers do, or the "best" ones by the
    validations while training (`train_seg.common.validate_every`).
    """
    short_side: Size | None = None
    """Short side in pixels that images are tested at; None takes `test_short_side` and
    `test_max_side` of `train_seg.common`, with which the arm was trained.
    """
    max_side: Size | None = None
    """Largest long side in pixels beside `short_side`; None sets no limit."""
    multi_scale: MultiScaleConfig | None = None
    """Score each arm with task "semantic" at several scales, too (`miou_ms`), which takes as many
    times as long as there are scales and flips; None scores at one. Segments and instances of
    several scales can't be averaged, so other arms are scored at one, as Mask2Former's authors do.
    """

    groups: dict[Slug, ClassGroups] = Field(default_factory=dict)
    """Further scores, by name: {"diffumask": {"vehicle": ["car", "bus"], "person": ["person"]}}.
    The classes of a group count as one class, all other classes as one more, the rest. The score is
    the mean IoU of the groups.
    """
    postprocess: PostprocessConfig | None = None
    """How queries become segments and instances; None takes `train_seg.common.postprocess`, with
    which the arm was validated.
    """
    write_predictions: bool = True
    """Write the predictions of panoptic and instance arms in COCO's formats, with the truth."""

    @model_validator(mode="after")
    def _check(self) -> "EvaluateConfig":
        for name, groups in self.groups.items():
            check_groups(groups, name=f"groups.{name}")
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
