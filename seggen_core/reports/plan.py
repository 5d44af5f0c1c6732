"""What a run will take, reckoned from params.yaml before anything is spent: samples, hours, disk, stages.

An estimate, not a promise: seconds per network call times calls, from a table of throughputs that
says where its numbers come from (`plan_rates.json`), scaled by the number of pixels. Where a stage
has been run here before, its time is the one it took.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from seggen_core.config import (
    DiffusionTrainingConfig,
    PretrainConfig,
    RandomCrops,
    SamplingConfig,
    SegGenConfig,
)
from seggen_core.datasets.reader import SPLITS, open_dataset
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.paths import ProjectPaths

PUBLISHED_SIZES = {
    "ade20k": (20_210, 2_000),
    "camvid": (367, 101),
    "cityscapes": (2_975, 500),
    "coco_instance": (117_266, 4_952),
    "coco_panoptic": (118_287, 5_000),
    "coco_stuff": (118_287, 5_000),
    "voc2012": (1_464, 1_449),
}
"""Train and val samples of the datasets as published, for a plan without the files."""

_SBD_TRAIN = 10_582
_PNG_SHARE = 0.6
"""Bytes of a PNG photograph per byte of pixels; measured on CamVid at 64 to 480 px: 0.5 to 0.7."""

_TRAIN_PASSES = 3.9
"""Forward passes that one training row costs: forward, backward twice as much, and the optimiser (measured on the embedded
foundation; rates may have their own, "train_passes"); checkpointing repeats the forward pass."""
_CONTROLNET = 0.4
"""A ControlNet is the encoder half of its UNet. Training it costs that much more than training the UNet, unless rates have
"mask2img_training": the locked half needs no gradients of its weights, which large networks save more by."""


@dataclass(frozen=True)
class StagePlan:
    """One stage.

    Attributes:
        stage: its name.
        items: how many DVC items it has.
        work: what it does, in words.
        hours: of one device.
        gigabytes: on disk, without DVC's cache.
        basis: "measured", "assumed" or "last run here".
    """

    stage: str
    items: int
    work: str
    hours: float
    gigabytes: float
    basis: str


@dataclass(frozen=True)
class Plan:
    """What `plan_project` reckoned."""

    profile: str
    stages: list[StagePlan]
    notes: list[str]

    def render(self) -> str:
        """Return a readable table."""
        rows = [["stage", "items", "work", "hours", "GB", "hours from"]]
        rows += [
            [s.stage, str(s.items), s.work, _number(s.hours), _number(s.gigabytes), s.basis]
            for s in self.stages
        ]
        hours, disk = sum(s.hours for s in self.stages), sum(s.gigabytes for s in self.stages)
        rows.append(
            ["total", str(sum(s.items for s in self.stages)), "", _number(hours), _number(disk), ""]
        )
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        left = (0, 2, 5)
        table = [
            "  ".join(
                c.ljust(w) if i in left else c.rjust(w)
                for i, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        return "\n".join(
            [
                f"plan of the profile {self.profile}",
                "",
                *table,
                "",
                *(f"note: {n}" for n in self.notes),
            ]
        )


def load_rates(path: Path | None, *, device: str) -> dict[str, Any]:
    """Return the throughputs of a device ("gpu", "cpu"), from the user's table or the one that comes with the package.

    Raises:
        ConfigError: the table can't be read, or has no such device.
    """
    try:
        if path is None:
            text = (
                resources.files("seggen_core.reports")
                .joinpath("plan_rates.json")
                .read_text(encoding="utf-8")
            )
        else:
            text = path.read_text(encoding="utf-8")
        return json.loads(text)[device]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"no throughputs of {device!r} can be read from {path}: {error!r}; see docs/datasets.md"
        ) from None


def plan_project(config: SegGenConfig, *, paths: ProjectPaths, rates: Mapping[str, Any]) -> Plan:
    """Reckon the stages that `dvc repro ablation` runs.

    Args:
        config: the project's parameters.
        paths: where the dataset, earlier stages and their durations may be found.
        rates: of one device, as `load_rates` gives them.

    Raises:
        ConfigError: the dataset's settings are wrong, or `rates` lacks what is needed.
    """
    notes: list[str] = [f"hours of one device: {rates['source']}"]
    counts = _count(config, paths=paths, notes=notes)
    size = config.dataset.image_size
    family = foundation_family(config, paths=paths)
    network = rates[family]
    unet, vae = (
        network[name] * (size / network["image_size"]) ** 2 for name in ("unet_s", "vae_s")
    )
    basis = network.get("basis", rates["basis"])
    pretraining = config.foundation.pretrain if config.foundation.mode == "pretrain" else None
    if pretraining is not None and pretraining.unet_channels != PretrainConfig().unet_channels:
        basis = "assumed"  # the embedded UNet's rates are for its own channels
    passes = network.get("train_passes", _TRAIN_PASSES)
    flips = 2  # latents of a training picture are kept as it is and mirrored
    picture = 3 * size**2 * _PNG_SHARE / 1e9
    wanted = {m for v in config.variants.values() for m in v.methods} | set(config.methods)
    seeds = len(config.dataset.subset_seeds)
    sources = _num_sources(config, paths=paths, train=counts["train"])
    stages: list[StagePlan] = []

    # 1. What every profile runs.
    total = sum(counts.values())
    stages.append(
        StagePlan(
            "dataset", 1, f"{total:,} real samples", total * 0.02 / 3600, total * picture, "assumed"
        )
    )
    asks = config.captions.captioner not in ("class_list", "file")
    hours = counts["train"] * rates["caption_s"] / 3600 if asks else 0.0
    stages.append(
        StagePlan(
            "captions",
            1,
            f"{counts['train']:,} by {config.captions.captioner}",
            hours,
            0.0,
            "assumed",
        )
    )
    source, hours = str(config.foundation.source), 0.0
    if pretraining is not None:
        source = f"{pretraining.unet_steps:,} steps of {pretraining.batch_size}"
        seconds = pretraining.unet_steps * pretraining.batch_size * passes * unet
        if pretraining.data == "training_images":
            seconds += flips * _num_views(pretraining.random_crops) * counts["train"] * vae
        hours = seconds / 3600
        if pretraining.init_from is None:
            notes.append("foundation: without the autoencoder's training")
    stages.append(StagePlan("foundation", 1, source, hours, network["gigabytes"], basis))

    # 2. Generators.
    segments = {"masksyn": ("text2mask", "mask2img"), "imgsyn": ("mask2img",)}
    for name in ("text2mask", "mask2img"):
        if any(name in segments.get(method, ()) for method in wanted):
            section: DiffusionTrainingConfig = getattr(config, name)
            control = name == "mask2img"
            rows = section.num_steps * section.batch_size
            cost = (passes + (1 if section.gradient_checkpointing else 0)) * unet
            if control:
                cost *= network.get("mask2img_training", 1 + _CONTROLNET)
            seconds = rows * cost + flips * _num_views(section.random_crops) * counts["train"] * vae
            disk = network["gigabytes"] * (_CONTROLNET if control else 1)
            work = f"{section.num_steps:,} steps of {section.batch_size}"
            stages.append(StagePlan(name, 1, work, seconds / 3600, disk, basis))

    # 3. Samples.
    made: dict[str, int] = {}
    for method in ("masksyn", "imgsyn"):
        if method in wanted:
            settings = getattr(config, method)
            made[method] = sources * settings.samples_per_source
            row = _sampling_seconds(settings.mask2img, unet=unet * (1 + _CONTROLNET), vae=vae)
            if method == "masksyn":
                row += _sampling_seconds(settings.text2mask, unet=unet, vae=vae)
            work = f"{made[method]:,} samples: {sources:,} sources x {settings.samples_per_source}"
            stages.append(
                StagePlan(
                    method,
                    len(config.classes),
                    work,
                    made[method] * row / 3600,
                    made[method] * picture,
                    basis,
                )
            )
    for method in ("seediff", "diffumask"):
        if method in wanted:
            settings = getattr(config, method)
            if settings is None:
                raise ConfigError(
                    f"{method} is among the methods or read by an arm, but params.yaml has no section {method}"
                )
            made[method] = len(config.classes) * settings.samples_per_class
            drawn = float(made[method])
            if method == "diffumask" and settings.noise_learning is not None:
                drawn /= max(
                    1 - settings.noise_learning.drop_share, 1e-3
                )  # noise learning drops some of what is drawn
            row = _sampling_seconds(settings.sampling, unet=unet, vae=vae)
            work = f"{made[method]:,} samples: {len(config.classes)} classes x {settings.samples_per_class:,}"
            hours = drawn * row / 3600
            stages.append(
                StagePlan(method, len(config.classes), work, hours, made[method] * picture, basis)
            )
            notes.append(
                f"{method}: as if every attempt gave a usable mask; three attempts a sample are the most"
            )
    if "diffumask" in wanted:
        notes.append(
            "diffumask: without the training of its AffinityNet and of the networks of noise learning"
        )

    # 4. Segmenters.
    hours = evaluation = disk = 0.0
    for variant in config.variants.values():
        segmenter = config.train_seg.for_model(variant.model)
        cost = rates["segmenter"][segmenter.model]
        crop = segmenter.crop_size or size
        disk += seeds * cost["gigabytes"]
        hours += (
            seeds
            * segmenter.num_steps
            * segmenter.batch_size
            * cost["train_s"]
            * (crop / cost["image_size"]) ** 2
            / 3600
        )
        evaluation += (
            seeds * counts["test"] * cost["predict_s"] * (size / cost["image_size"]) ** 2 / 3600
        )
    arms = len(config.variants)
    work = f"{seeds} seed(s) x {config.train_seg.num_steps:,} steps"
    stages.append(StagePlan("train_seg", arms, work, hours, disk, rates["basis"]))
    stages.append(
        StagePlan(
            "evaluate", arms, f"{counts['test']:,} test samples", evaluation, 0.0, rates["basis"]
        )
    )
    judged = sum(made.get(m, 0) for m in config.methods)
    cost = rates["segmenter"][config.train_seg.model]
    hours = judged * cost["predict_s"] * (size / cost["image_size"]) ** 2 / 3600
    stages.append(
        StagePlan("judge", len(config.methods), f"{judged:,} samples", hours, 0.0, rates["basis"])
    )
    cost, seconds = rates["nearest"], 0.0
    for method in config.methods:
        compared = made.get(method, 0) + counts["val"]
        pair = cost["image_pair_s"] + (cost["mask_pair_s"] if method == "masksyn" else 0)
        read = cost["read_s"] * (size / cost["image_size"]) ** 2 / config.runtime.num_threads
        seconds += (compared + counts["train"]) * read + compared * counts["train"] * pair
    work = f"{judged:,} samples against {counts['train']:,}"
    stages.append(
        StagePlan("memorization", len(config.methods), work, seconds / 3600, 0.0, rates["basis"])
    )
    stages.append(StagePlan("ablation", 1, "tables and figures", 0.0, 0.0, rates["basis"]))
    notes.append(
        "disk: DVC's cache holds everything a second time, unless it can link (dvc config cache.type)"
    )
    return Plan(config.profile, _with_durations(stages, paths=paths), notes)


def foundation_family(config: SegGenConfig, *, paths: ProjectPaths) -> str:
    """Return "sdxl", "sd" or "embedded": of a local folder by its files, of a hub repository by its name."""
    if config.foundation.mode == "pretrain":
        return "embedded"
    source = str(config.foundation.source)
    folder = paths.root / source
    if not folder.is_dir():
        if source.count("/") != 1:
            raise ConfigError(
                f"foundation.source {source} is neither a folder in {paths.root} nor a hub repository (owner/name)"
            )
        return "sdxl" if "xl" in source.lower() else "sd"
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        vae = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
        if "XL" in index["_class_name"]:
            return "sdxl"
        return "sd" if len(vae["block_out_channels"]) >= 4 else "embedded"
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"foundation.source {folder} is no diffusers pipeline folder: {error!r}"
        ) from None


def _count(config: SegGenConfig, *, paths: ProjectPaths, notes: list[str]) -> dict[str, int]:
    """Return the samples of each split: of the files where they are, else as published."""
    dataset = config.dataset
    if dataset.root is not None or dataset.name == "scenes":
        try:
            reader = open_dataset(dataset, seed=config.seed, base=paths.root)
            return {split: len(reader.keys(split)) for split in SPLITS}
        except DatasetError as error:
            notes.append(f"published sizes are used, since the dataset can't be opened: {error}")
    if dataset.name not in PUBLISHED_SIZES:
        raise ConfigError(
            f"dataset.root of {dataset.name} is not set or can't be read; its size isn't known otherwise"
        )
    if dataset.root is None:
        notes.append("published sizes are used: dataset.root is not set")
    train, val = PUBLISHED_SIZES[dataset.name]
    train = _SBD_TRAIN if dataset.use_sbd else train
    held = dataset.num_val or max(1, round(0.1 * train))
    remaining = train if dataset.keep_val_in_train else train - held
    return {"train": dataset.num_train or remaining, "val": held, "test": dataset.num_test or val}


def _num_sources(config: SegGenConfig, *, paths: ProjectPaths, train: int) -> int:
    """Return how many real samples MaskSyn and ImgSyn start from: the union of the subsets, at most."""
    if paths.subsets.is_file():
        subsets: dict[str, Sequence[str]] = json.loads(paths.subsets.read_text(encoding="utf-8"))
        return len({key for keys in subsets.values() for key in keys})
    size = config.dataset.subset_size
    return train if size is None else min(train, size * len(config.dataset.subset_seeds))


def _num_views(crops: RandomCrops | None) -> int:
    return 1 + (crops.per_sample if crops else 0)


def _sampling_seconds(sampling: SamplingConfig, *, unet: float, vae: float) -> float:
    """Return the seconds of one sample: guidance doubles every step."""
    return sampling.num_inference_steps * (2 if sampling.guidance_scale > 1 else 1) * unet + vae


def _with_durations(stages: list[StagePlan], *, paths: ProjectPaths) -> list[StagePlan]:
    """Replace reckoned hours by those that a stage took here the last time, where all its items were run."""
    file = paths.root / ".seggen" / "durations.json"
    try:
        taken: dict[str, float] = (
            json.loads(file.read_text(encoding="utf-8"))["stages"] if file.is_file() else {}
        )
    except (OSError, ValueError, KeyError, TypeError):
        return stages  # a broken file of durations is no reason not to plan
    found = []
    for s in stages:
        own = [seconds for name, seconds in taken.items() if name.partition("@")[0] == s.stage]
        known = len(own) == s.items
        found.append(
            StagePlan(s.stage, s.items, s.work, sum(own) / 3600, s.gigabytes, "last run here")
            if known
            else s
        )
    return found


def _number(value: float) -> str:
    """Write a number with as many digits as are worth reading."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 1 else f"{value:.2f}"
