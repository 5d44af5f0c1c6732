"""What a plan costs in GPU memory and money, and which settings would halve it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from seggen_core.config import DiffusionTrainingConfig, SegGenConfig, Text2MaskConfig
from seggen_core.config.generation import LoraConfig
from seggen_core.reports.plan_inputs import Workload
from seggen_core.reports.plan_stages import StagePlan, estimate_stages

_TRAINED_BYTES, _FROZEN_BYTES = 20, 4
"""Bytes a weight, in float32: with gradient, two moments and average; alone."""

_LORA_SHARE = 0.02
"""Weights of the adapters relative to the UNet's, at rank 32: 0.8% of SD 2-base, 1.8% of SDXL."""

_HALVED = 0.5


class _Lever(NamedTuple):
    """One setting that can be smaller.

    Attributes:
        key: in params.yaml.
        value: the smaller value.
        config: with it.
    """

    key: str
    value: Any
    config: SegGenConfig


def gpu_gigabytes(w: Workload) -> dict[str, float]:
    """Return the peak of GPU memory of the stages that train or sample, in GB.

    Weights, gradients, moments and averages follow from the numbers of weights; memory a row of a
    batch is measured for SD and SDXL (docs/results.md) and assumed for segmenters. Without such
    numbers in the rates (the embedded foundation; a table of the user's own), there is none.
    """
    memory = w.network.get("memory")
    peaks: dict[str, float] = {}
    if memory is not None:
        for stage in ("text2mask", "mask2img"):
            peaks[stage] = _training(w, memory, getattr(w.config, stage))
        weights = _FROZEN_BYTES * (memory["unet"] + memory["controlnet"] + memory["rest"])
        for stage in ("masksyn", "imgsyn"):
            rows = getattr(w.config, stage).mask2img.micro_batch_size
            peaks[stage] = weights + rows * memory["sample_gb"] * w.pixel_ratio
        for stage in ("seediff", "diffumask"):
            section = getattr(w.config, stage)
            if section is not None:
                rows = section.sampling.micro_batch_size
                peaks[stage] = weights + rows * memory["sample_gb"] * w.pixel_ratio
    arms = [_segmenter(w, arm) for arm in w.config.variants.values()]
    if arms and None not in arms:
        peaks["train_seg"] = max(gb for gb in arms if gb is not None)
    return peaks


def _training(w: Workload, memory: Mapping[str, float], section: DiffusionTrainingConfig) -> float:
    unet, controlnet, rest = memory["unet"], memory["controlnet"], memory["rest"]
    if not isinstance(section, Text2MaskConfig):  # a ControlNet beside a frozen UNet
        weights = _TRAINED_BYTES * controlnet + _FROZEN_BYTES * (unet + rest)
    elif section.lora is None:
        weights = _TRAINED_BYTES * unet + _FROZEN_BYTES * rest
    else:
        share = _LORA_SHARE * section.lora.rank / LoraConfig().rank
        weights = _TRAINED_BYTES * share * unet + _FROZEN_BYTES * (unet + rest)
    row = memory["row_checkpointing_gb" if section.gradient_checkpointing else "row_gb"]
    return weights + section.batch_size * row * w.pixel_ratio


def _segmenter(w: Workload, arm: Any) -> float | None:
    settings = w.config.train_seg.for_arm(arm)
    rates = w.rates["segmenter"].get(settings.model, {})
    if "row_gb" not in rates:
        return None
    size = w.config.dataset.image_size
    height, width = settings.crop_shape or (size, size)
    rows = settings.micro_batch_size or settings.batch_size
    return 1.0 + rows * rates["row_gb"] * height * width / rates["image_size"] ** 2


def with_memory(stages: Sequence[StagePlan], w: Workload) -> list[StagePlan]:
    """Return the stages with their peaks of GPU memory."""
    peaks = gpu_gigabytes(w)
    return [replace(s, gpu_gigabytes=peaks.get(s.stage)) for s in stages]


def halving_notes(stages: Sequence[StagePlan], w: Workload) -> list[str]:
    """Say which settings would halve the hours, and the largest GPU memory.

    The settings that save most come first. Nothing is said of what they cost in quality.
    """
    notes = []
    total = sum(s.hours for s in stages)
    if total > 0:
        notes.append(f"to halve the hours: {_halve_hours(w, total=total)}")
    memory = {s.stage: s.gpu_gigabytes for s in stages if s.gpu_gigabytes}
    if memory:
        largest = max(memory, key=lambda stage: memory[stage] or 0.0)
        peak = memory[largest] or 0.0
        notes.append(
            f"the largest GPU memory is {peak:.0f} GB, of {largest}; smaller: "
            f"{_shrink(w, largest) or 'nothing that the plan knows'}"
        )
    return notes


def _halve_hours(w: Workload, *, total: float) -> str:
    config, parts = w.config, []
    hours = total
    remaining = list(_LEVERS)
    while hours > _HALVED * total and remaining:
        options = [(lever(config), lever) for lever in remaining]
        candidates = [(_hours(replace(w, config=o.config)), o, lever) for o, lever in options if o]
        if not candidates:
            break
        least, option, lever = min(candidates, key=lambda item: item[0])
        if least >= hours - 0.005 * total:
            break
        parts.append(f"{option.key} {option.value} (-{_short(hours - least)} h)")
        hours, config = least, option.config
        w = replace(w, config=config)
        remaining.remove(lever)
    if hours > _HALVED * total:
        parts.append("and fewer arms")
    return ", ".join(parts)


def _short(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _hours(w: Workload) -> float:
    return sum(s.hours for s in estimate_stages(w))


def _half(section: str, key: str) -> Callable[[SegGenConfig], _Lever | None]:
    """Return what halves one number of a section."""

    def lever(config: SegGenConfig) -> _Lever | None:
        part = getattr(config, section)
        if part is None or getattr(part, key) < 2:
            return None
        value = getattr(part, key) // 2
        changed = config.model_copy(update={section: part.model_copy(update={key: value})})
        return _Lever(f"{section}.{key}", value, changed)

    return lever


def _half_segmenter_steps(config: SegGenConfig) -> _Lever | None:
    part = config.train_seg
    value = part.common.num_steps // 2
    if value < 1:
        return None
    common = part.common.model_copy(update={"num_steps": value})
    changed = config.model_copy(update={"train_seg": part.model_copy(update={"common": common})})
    return _Lever("train_seg.common.num_steps", value, changed)


def _half_pretraining(config: SegGenConfig) -> _Lever | None:
    part = config.foundation
    if part.mode != "pretrain" or part.pretrain is None or part.pretrain.unet_steps < 2:
        return None
    value = part.pretrain.unet_steps // 2
    pretrain = part.pretrain.model_copy(update={"unet_steps": value})
    foundation = part.model_copy(update={"pretrain": pretrain})
    changed = config.model_copy(update={"foundation": foundation})
    return _Lever("foundation.pretrain.unet_steps", value, changed)


def _one_seed(config: SegGenConfig) -> _Lever | None:
    seeds = config.dataset.subset_seeds[:1]
    if seeds == config.dataset.subset_seeds:
        return None
    dataset = config.dataset.model_copy(update={"subset_seeds": seeds})
    return _Lever(
        "dataset.subset_seeds", list(seeds), config.model_copy(update={"dataset": dataset})
    )


_LEVERS = (
    _half_pretraining,
    _half("text2mask", "num_steps"),
    _half("mask2img", "num_steps"),
    _half("masksyn", "samples_per_source"),
    _half("imgsyn", "samples_per_source"),
    _half("seediff", "samples_per_class"),
    _half("diffumask", "samples_per_class"),
    _half_segmenter_steps,
    _one_seed,
)


def _shrink(w: Workload, stage: str) -> str:
    """Name the settings that make one stage smaller, each with the peak that it leaves."""
    if stage == "train_seg":
        common = w.config.train_seg.common
        size = common.micro_batch_size or common.batch_size
        return f"train_seg.common.micro_batch_size {max(size // 2, 1)}" if size > 1 else ""
    section = getattr(w.config, stage)
    if not isinstance(section, DiffusionTrainingConfig):
        return f"{stage}.mask2img.micro_batch_size, halved"
    changes: list[dict[str, Any]] = []
    if not section.gradient_checkpointing:
        changes.append({"gradient_checkpointing": True})
    if isinstance(section, Text2MaskConfig) and section.lora is None:
        changes.append({"lora": LoraConfig()})
    if section.batch_size > 1:
        changes.append({"batch_size": section.batch_size // 2})
    parts = []
    for change in changes:
        config = w.config.model_copy(update={stage: section.model_copy(update=change)})
        peak = gpu_gigabytes(replace(w, config=config))[stage]
        ((key, value),) = change.items()
        shown = "{rank: 32}" if key == "lora" else str(value).lower()
        parts.append(f"{stage}.{key} {shown} ({peak:.0f} GB)")
    return ", ".join(parts)
