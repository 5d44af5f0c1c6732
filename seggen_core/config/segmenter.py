"""Sections on the training of segmenters: those of the file, and the settings of one arm.

`train_seg` has a section for each thing that an arm may depend on. So dvc.yaml can name those that
an arm does depend on, and a change of another one does not make it stale.
"""

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from seggen_core.config.base import (
    Factor,
    LearningRate,
    Positive,
    Probability,
    Section,
    Size,
    Weight,
)
from seggen_core.config.library_settings import (
    check_eomt,
    check_hrnet_settings,
    check_mask2former,
    first_error,
)
from seggen_core.config.recipe import PostprocessConfig, RecipeConfig, Task
from seggen_core.config.segmentation import ModelName, VariantConfig


class SegmenterTrainingConfig(RecipeConfig):
    """What every arm is trained by."""

    task: Task = "semantic"
    """What segmenters are trained for: a class for each pixel ("semantic"), or segments that tell
    things apart: of every pixel ("panoptic") or of things alone ("instance").
    """
    postprocess: PostprocessConfig = PostprocessConfig()
    """How queries become segments and instances."""
    num_steps: Positive = 600
    """Optimisation steps in all; under "pretrain", the first `pretrain_share` of them see synthetic
    data.
    """
    batch_size: Size = 16
    """Samples of a step."""
    warmup_steps: int = Field(50, ge=0, le=1_000_000_000)
    """Steps over which the learning rate rises linearly to its peak."""
    lr_scheduler: Literal["poly", "cosine", "step"] = "poly"
    """How the learning rate falls after the warm-up: "poly" to zero, to the power 0.9 of the steps
    left (SegGen A.3); "cosine" to zero; "step" to a tenth after 8/9 and again after 26/27 of the
    steps (Mask2Former on COCO). With strategy "pretrain", each phase has its own schedule.
    """
    checkpoint_every: Positive = 200
    """Steps between the states that an interrupted training resumes from."""

    @model_validator(mode="after")
    def _check_micro_batches(self) -> "SegmenterTrainingConfig":
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ValueError(
                f"micro_batch_size is {self.micro_batch_size}; expected a divisor of batch_size "
                f"{self.batch_size}"
            )
        return self


class _ModelConfig(Section):
    """What each model has settings of its own for."""

    learning_rate: LearningRate = 1e-3
    """Peak learning rate."""
    weight_decay: Weight = 1e-4
    """Weight decay of all that `undecayed` doesn't name."""
    max_grad_norm: Factor | None = 10.0
    """Gradients are clipped to this norm; None leaves them."""
    backbone_multiplier: Factor = 1.0
    """Factor on the learning rate of the backbone's parameters (Mask2Former's authors: 0.1)."""
    backbone_source: str | None = None
    """Pretrained weights of the backbone: a safetensors file, or a folder with model.safetensors,
    relative to the project's folder. "hrnet" needs timm's weights, "mask2former" those of
    transformers, "detectron2" those of detectron2. None trains from scratch.
    """


class _HRNetConfig(_ModelConfig):
    """HRNet's own settings."""

    class_balance: Probability = 0.0
    """A class weighs (median class frequency / its frequency) to this power in HRNet's
    cross-entropy; frequencies are shares of the pixels of the whole real training split, in every
    arm. 0 weighs all pixels alike, 1 is median frequency balancing (Eigen and Fergus, ICCV 2015;
    SegNet on CamVid).
    """
    backbone: str = "hrnet_w18_small"
    """Timm model name."""
    backbone_kwargs: dict[str, Any] = Field(default_factory=dict)
    """Changes to timm's definition of the backbone, by timm's names ("stem_width", "stage2":
    {...}).
    """
    stem_stride: Literal[1, 2, 4] = 4
    """Factor by which HRNet's stem shrinks the image: 4 as published, 2 or 1 for small images."""
    head_width: Size = 64
    """Channels of HRNet's segmentation head."""

    @model_validator(mode="after")
    def _check_backbone(self) -> "_HRNetConfig":
        check_hrnet_settings(self.backbone_kwargs)
        return self


class _Mask2FormerConfig(_ModelConfig):
    """Mask2Former's own settings."""

    architecture: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers' Mask2FormerConfig, including `backbone_config`. If `source` is given,
    they change its configuration.
    """
    source: str | None = None
    """Transformers folder, or hub repository with `revision`; None trains from scratch."""
    revision: str | None = None
    """Commit of a hub repository; required for one."""
    ignored_pixels: Literal["negatives", "left_out"] = "negatives"
    """What pixels without a label are in Mask2Former's loss: negatives of every mask, as the
    authors have it, or "left_out" of it. Arms with `hidden_classes` always leave them out.
    """

    @model_validator(mode="after")
    def _check_architecture(self) -> "_Mask2FormerConfig":
        # A `SegmenterConfig` may be one of EoMT, which has the same keys.
        if self.architecture:
            is_eomt = getattr(self, "model", None) == "eomt"
            (check_eomt if is_eomt else check_mask2former)(self.architecture)
        return self


class _Detectron2Config(_ModelConfig):
    """Settings of models of detectron2."""

    config: str = "Misc/semantic_R_50_FPN_1x.yaml"
    """A configuration that detectron2 ships, by its name, or a file of yours, relative to the
    project's folder. It describes the network alone: what is trained on, and how, is said by
    `train_seg`.
    """
    options: dict[str, Any] = Field(default_factory=dict)
    """Keys of that configuration that differ: {"MODEL.RESNETS.DEPTH": 101}."""


class _Overrides(Section):
    """Settings of one model that differ from those of every arm."""

    overrides: dict[str, Any] = Field(default_factory=dict)
    """Keys of `train_seg.common` that differ for this model: {"num_steps": 2000}."""

    @field_validator("overrides")
    @classmethod
    def _check_overrides(cls, changes: dict[str, Any]) -> dict[str, Any]:
        known = SegmenterTrainingConfig.model_fields
        if unknown := [key for key in changes if key not in known]:
            raise ValueError(f"{unknown[0]!r} is no key of train_seg.common: {', '.join(known)}")
        return changes


class HRNetConfig(_HRNetConfig, _Overrides):
    """The arms with ``model: hrnet``."""


class Mask2FormerConfig(_Mask2FormerConfig, _Overrides):
    """The arms with ``model: mask2former``."""


class EomtConfig(_ModelConfig, _Overrides):
    """The arms with ``model: eomt``."""

    learning_rate: LearningRate = 1e-4
    """Peak learning rate."""
    weight_decay: Weight = 0.05
    """Weight decay of all that `undecayed` doesn't name."""
    max_grad_norm: Factor | None = 0.01
    """Gradients are clipped to this norm; None leaves them."""
    architecture: dict[str, Any] = Field(default_factory=dict)
    """Fields of transformers' EomtConfig. If `source` is given, they change its configuration.
    Images are scaled to fit into a square of `image_size` and padded, whatever their size.
    """
    source: str | None = None
    """Transformers folder, or hub repository with `revision`; None trains from scratch, with masked
    attention that is annealed as published.
    """
    revision: str | None = None
    """Commit of a hub repository; required for one."""

    @model_validator(mode="after")
    def _check_eomt(self) -> "EomtConfig":
        if self.architecture:
            check_eomt(self.architecture)
        return self


class Detectron2Config(_Detectron2Config, _Overrides):
    """The arms with ``model: detectron2``."""


class PlainConfig(Section):
    """The arms with ``strategy: plain``. There is nothing to set."""


class ReplaceConfig(Section):
    """The arms with ``strategy: replace``."""

    p_aug: Probability = 0.6
    """Probability that a real sample is replaced by a synthetic one (paper: 0.6)."""


class PretrainingConfig(Section):
    """The arms with ``strategy: pretrain``."""

    pretrain_share: Probability = 0.6
    """Share of the steps that are spent on synthetic samples."""


class SegmenterConfig(
    SegmenterTrainingConfig,
    _HRNetConfig,
    _Mask2FormerConfig,
    _Detectron2Config,
    ReplaceConfig,
    PretrainingConfig,
):
    """The settings of one arm, collected from the sections that it depends on.

    Settings of the other models and of the other strategies have their defaults.
    """

    model: ModelName = "hrnet"
    """The segmenter."""
    strategy: Literal["plain", "replace", "pretrain"] = "replace"
    """Which samples a batch holds (`VariantConfig.strategy`)."""

    def to_json(self) -> dict[str, Any]:
        """Return, JSON-ready, the settings that this arm depends on."""
        return self.model_dump(mode="json", exclude_unset=True)


class TrainSegConfig(Section):
    """Training of the segmenters. Each arm depends on `common`, its model and its strategy."""

    common: SegmenterTrainingConfig = SegmenterTrainingConfig()
    """What every arm is trained by."""
    hrnet: HRNetConfig = HRNetConfig()
    """The arms with ``model: hrnet``."""
    mask2former: Mask2FormerConfig = Mask2FormerConfig()
    """The arms with ``model: mask2former``."""
    eomt: EomtConfig = EomtConfig()
    """The arms with ``model: eomt``."""
    detectron2: Detectron2Config = Detectron2Config()
    """The arms with ``model: detectron2``."""
    plain: PlainConfig = PlainConfig()
    """The arms with ``strategy: plain``."""
    replace: ReplaceConfig = ReplaceConfig()
    """The arms with ``strategy: replace``."""
    pretrain: PretrainingConfig = PretrainingConfig()
    """The arms with ``strategy: pretrain``."""

    def for_arm(self, variant: VariantConfig) -> SegmenterConfig:
        """Return the settings that an arm is trained by.

        Raises:
            ValueError: its `overrides` name unknown keys, or contradict the other settings.
        """
        model: Section = getattr(self, variant.model)
        strategy: Section = getattr(self, variant.strategy)
        tree = self.common.model_dump(mode="json") | model.model_dump(mode="json")
        tree |= strategy.model_dump(mode="json") | tree.pop("overrides")
        if unknown := [key for key in variant.overrides if key not in tree]:
            sections = f"train_seg.common, {variant.model} and {variant.strategy}"
            raise ValueError(
                f"overrides: {unknown[0]!r} is no key of {sections}: {', '.join(sorted(tree))}"
            )
        tree |= variant.overrides
        tree |= {"model": variant.model, "strategy": variant.strategy}
        if variant.task is not None:
            tree["task"] = variant.task
        if variant.p_aug is not None:
            tree["p_aug"] = variant.p_aug
        if variant.model == "mask2former" and variant.hidden_classes:
            tree["ignored_pixels"] = "left_out"
        try:
            # As JSON, because values are strict there, but a list is a tuple.
            return SegmenterConfig.model_validate_json(json.dumps(tree), strict=True)
        except ValidationError as error:
            raise ValueError(first_error(error, section="overrides")) from None

    @model_validator(mode="after")
    def _check_overridden(self) -> "TrainSegConfig":
        """Check what the overrides of each model make of `common`."""
        for name, changes in (
            ("hrnet", self.hrnet.overrides),
            ("mask2former", self.mask2former.overrides),
            ("eomt", self.eomt.overrides),
            ("detectron2", self.detectron2.overrides),
        ):
            text = json.dumps(self.common.model_dump(mode="json") | changes)
            try:
                SegmenterTrainingConfig.model_validate_json(text, strict=True)
            except ValidationError as error:
                raise ValueError(first_error(error, section=f"{name}.overrides")) from None
        return self


def keys_of_version_0_1(tree: Mapping[str, Any]) -> list[str]:
    """Say how the keys of a params.yaml of version 0.1 are written now.

    Args:
        tree: the whole file, unchecked.

    Returns:
        A line "key: what to write" for each section that has such keys.
    """
    lines: list[str] = []
    section, variants = tree.get("train_seg"), tree.get("variants")
    if isinstance(section, Mapping) and (moved := [key for key in section if key in _MOVED]):
        places = "; ".join(f"{key} is now {_MOVED[key]}" for key in moved)
        lines.append(f"train_seg: it has sections now: {places}")
    arms = variants.items() if isinstance(variants, Mapping) else ()
    for name, arm in arms:
        if not isinstance(arm, Mapping):
            continue
        if "hide_unseen" in arm:
            lines.append(
                f"variants.{name}: 'hide_unseen' is gone; list the classes themselves: "
                "hidden_classes: [cat, dog]"
            )
        if absent := [key for key in ("model", "strategy") if key not in arm]:
            lines.append(
                f"variants.{name}: the arm lacks {' and '.join(absent)}; write model: hrnet or "
                "mask2former, and strategy: plain (one kind of samples), replace or pretrain"
            )
    return lines


_MOVED = {
    **{key: f"train_seg.common.{key}" for key in SegmenterTrainingConfig.model_fields},
    **{
        key: f"train_seg.hrnet.{key}, or the same of mask2former"
        for key in _ModelConfig.model_fields
    },
    **{
        key: f"train_seg.hrnet.{key}"
        for key in _HRNetConfig.model_fields.keys() - _ModelConfig.model_fields.keys()
    },
    "p_aug": "train_seg.replace.p_aug",
    "pretrain_share": "train_seg.pretrain.pretrain_share",
    "model": "the key 'model' of each arm in variants",
    "strategy": "the key 'strategy' of each arm in variants (plain for an arm without synthetic "
    "samples, or without real ones)",
    "mask2former_source": "train_seg.mask2former.source",
    "mask2former_revision": "train_seg.mask2former.revision",
    "overrides": "a key of the model's own section, train_seg.mask2former",
}
"""Where the keys that `train_seg` had in version 0.1 are now."""
