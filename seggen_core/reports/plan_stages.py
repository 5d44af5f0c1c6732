"""Estimates the work of each stage: one function `estimate_<stage>` for each."""

from dataclasses import dataclass

from seggen_core.config import DiffusionTrainingConfig, RandomCrops, SamplingConfig
from seggen_core.config.mask_recipe import has_same_images
from seggen_core.config.words import WORDS
from seggen_core.reports.plan_inputs import PUBLISHED_SIZES, Workload

_TRAIN_PASSES = 3.9
"""Cost of one training row in forward passes: forward, backward (twice as much) and the optimiser.

It was measured on the embedded foundation. Rates may give another value as "train_passes".
Gradient checkpointing adds one forward pass.
"""

_CONTROLNET = 0.4
"""Size of a ControlNet, the encoder half of its UNet, relative to the UNet. Training Mask2Img costs
that much more than training the UNet. Large networks differ, because the locked UNet needs no
gradients of its weights; rates may give another factor as "mask2img_training".
"""

_NUM_FLIPS = 2
"""Each training picture is encoded twice: as it is and mirrored."""

_DATASET_SECONDS = 0.02
"""Seconds that stage `dataset` needs for one real sample."""


@dataclass(frozen=True)
class StagePlan:
    """The estimate of one stage."""

    stage: str
    """Its name."""
    items: int
    """Number of its DVC items."""
    work: str
    """Its work, in words."""
    hours: float
    """Hours of one device."""
    gigabytes: float
    """Size on disk, without DVC's cache."""
    basis: str
    """Origin of the hours: "measured", "assumed" or "last run here"."""
    notes: tuple[str, ...] = ()
    """Costs that the numbers leave out."""
    gpu_gigabytes: float | None = None
    """Peak of GPU memory; None where the rates don't tell."""


def estimate_stages(workload: Workload) -> list[StagePlan]:
    """Return the stages that `dvc repro ablation` runs, in that order.

    Those of a list of words, which has no table, are the stages that read no real image.
    """
    wanted, has_images = workload.methods, workload.config.dataset.name != WORDS
    plans = [
        estimate_dataset(workload),
        *([estimate_captions(workload)] if has_images else []),
        estimate_foundation(workload),
    ]
    if "masksyn" in wanted:
        plans.append(estimate_text2mask(workload))
    if wanted & {"masksyn", "imgsyn"}:
        plans.append(estimate_mask2img(workload))
    estimates = {
        "masksyn": estimate_masksyn,
        "imgsyn": estimate_imgsyn,
        "seediff": estimate_seediff,
        "diffumask": estimate_diffumask,
    }
    plans += [estimate(workload) for method, estimate in estimates.items() if method in wanted]
    if wanted & set(workload.config.mask_recipe):
        plans.append(estimate_mask_recipe(workload))
    plans.append(estimate_train_seg(workload))
    if not has_images:
        return [*plans, *([estimate_transfer(workload)] if workload.config.transfer else [])]
    plans += [
        estimate_evaluate(workload),
        *([estimate_transfer(workload)] if workload.config.transfer else []),
        estimate_judge(workload),
        estimate_memorization(workload),
        StagePlan("ablation", 1, "tables and figures", 0.0, 0.0, workload.rates["basis"]),
    ]
    return plans


def estimate_dataset(w: Workload) -> StagePlan:
    """Estimate reading and writing the real samples."""
    total = sum(w.counts.values())
    hours = total * _DATASET_SECONDS / 3600
    work = f"{total:,} real samples"
    return StagePlan("dataset", 1, work, hours, total * w.picture_gb, "assumed")


def estimate_captions(w: Workload) -> StagePlan:
    """Estimate the captioning model's calls."""
    captioner, count = w.config.captions.captioner, w.counts["train"]
    needs_model = captioner not in ("class_list", "file")
    hours = count * w.rates["caption_s"] / 3600 if needs_model else 0.0
    return StagePlan("captions", 1, f"{count:,} by {captioner}", hours, 0.0, "assumed")


def estimate_foundation(w: Workload) -> StagePlan:
    """Estimate the pretraining of the UNet; a foundation that is loaded takes no time."""
    gigabytes, foundation = w.network["gigabytes"], w.config.foundation
    if foundation.mode != "pretrain" or foundation.pretrain is None:
        return StagePlan("foundation", 1, str(foundation.source), 0.0, gigabytes, w.basis)
    section = foundation.pretrain
    work = f"{section.unet_steps:,} steps of {section.batch_size}"
    seconds = section.unet_steps * section.batch_size * _train_passes(w) * w.unet_s
    if section.data == "training_images":
        seconds += _encoding_seconds(w, section.random_crops)
    notes = ("foundation: without the autoencoder's training",) if section.init_from is None else ()
    return StagePlan("foundation", 1, work, seconds / 3600, gigabytes, w.basis, notes)


def estimate_text2mask(w: Workload) -> StagePlan:
    """Estimate the fine-tuning of Text2Mask."""
    section = w.config.text2mask
    row = _training_row_seconds(w, section)
    return _generator_plan(w, "text2mask", section, row=row, gigabytes=w.network["gigabytes"])


def estimate_mask2img(w: Workload) -> StagePlan:
    """Estimate the training of Mask2Img, a ControlNet."""
    section, gigabytes = w.config.mask2img, w.network["gigabytes"] * _CONTROLNET
    row = _training_row_seconds(w, section) * w.network.get("mask2img_training", 1 + _CONTROLNET)
    return _generator_plan(w, "mask2img", section, row=row, gigabytes=gigabytes)


def estimate_masksyn(w: Workload) -> StagePlan:
    """Estimate the sampling of masks, and of an image for each."""
    section = w.config.masksyn
    seconds = _sampling_seconds(section.mask2img, unet=w.unet_s * (1 + _CONTROLNET), vae=w.vae_s)
    seconds += _sampling_seconds(section.text2mask, unet=w.unet_s, vae=w.vae_s)
    return _seggen_plan(w, "masksyn", section.samples_per_source, seconds=seconds)


def estimate_imgsyn(w: Workload) -> StagePlan:
    """Estimate the sampling of images for real masks."""
    section = w.config.imgsyn
    seconds = _sampling_seconds(section.mask2img, unet=w.unet_s * (1 + _CONTROLNET), vae=w.vae_s)
    return _seggen_plan(w, "imgsyn", section.samples_per_source, seconds=seconds)


def estimate_seediff(w: Workload) -> StagePlan:
    """Estimate the sampling of images for class prompts."""
    return _attention_plan(w, "seediff", drawn=float(w.num_samples("seediff")))


def estimate_diffumask(w: Workload) -> StagePlan:
    """Estimate the sampling of images for class prompts; noise learning drops some of them."""
    drawn = float(w.num_samples("diffumask"))
    section = w.config.diffumask
    if section is not None and section.noise_learning is not None:
        drawn /= max(1 - section.noise_learning.drop_share, 1e-3)
    note = (
        "diffumask: without the training of its AffinityNet and of the networks of noise learning"
    )
    return _attention_plan(w, "diffumask", drawn=drawn, further_notes=(note,))


def estimate_mask_recipe(w: Workload) -> StagePlan:
    """Estimate the stores of the mask recipes, and the sampling of those with other images."""
    names = [name for name in w.config.mask_recipe if name in w.methods]
    counts = {name: w.num_samples(name) for name in names}
    hours, num_sampled = 0.0, 0
    for name in names:
        settings, method = w.config.attention_settings(name), w.config.mask_recipe[name].method
        if not has_same_images(settings, w.config.attention_settings(method)):
            seconds = _sampling_seconds(settings.sampling, unet=w.unet_s, vae=w.vae_s)
            hours, num_sampled = hours + counts[name] * seconds / 3600, num_sampled + 1
    total = sum(counts.values())
    note = (
        "mask_recipe: if its recipes are in params.yaml before their method runs; else the images "
        "are sampled once more, for all of them"
    )
    work = f"{total:,} samples, {num_sampled} of {len(names)} with images of their own"
    return StagePlan("mask_recipe", len(names), work, hours, total * w.picture_gb, w.basis, (note,))


def estimate_train_seg(w: Workload) -> StagePlan:
    """Estimate the training of every arm's segmenters."""
    seeds, size = len(w.config.dataset.subset_seeds), w.config.dataset.image_size
    hours = gigabytes = 0.0
    all_settings = [w.config.train_seg.for_arm(arm) for arm in w.config.variants.values()]
    for settings in all_settings:
        rates = w.segmenter_rates(settings.model)
        height, width = settings.crop_shape or (size, size)
        pixels = height * width / rates["image_size"] ** 2
        rows = seeds * settings.num_steps * settings.batch_size
        hours += rows * rates["train_s"] * pixels / 3600
        gigabytes += seeds * rates["gigabytes"]
    steps = sorted({settings.num_steps for settings in all_settings})
    most = f" to {steps[-1]:,}" if len(steps) > 1 else ""
    work = f"{seeds} seed(s) x {steps[0]:,}{most} steps"
    arms, basis = len(w.config.variants), w.rates["basis"]
    return StagePlan("train_seg", arms, work, hours, gigabytes, basis, _larger_segmenters(w))


def _larger_segmenters(w: Workload) -> tuple[str, ...]:
    """Return a note on the arms whose segmenter is larger than the one that was measured."""
    measured = w.segmenter_rates("mask2former").get("of")
    arms = [
        name
        for name, arm in w.config.variants.items()
        if arm.model not in ("hrnet", "mask2former")
        or (arm.model == "mask2former" and not w.config.train_seg.for_arm(arm).architecture)
    ]
    if measured is None or not arms:
        return ()
    return (
        f"train_seg: the hours of {', '.join(arms)} are those of {measured}; these arms train a "
        "larger segmenter, which takes many times as long here",
    )


def estimate_evaluate(w: Workload) -> StagePlan:
    """Estimate the predictions of every arm's segmenters on the test split."""
    seeds, count = len(w.config.dataset.subset_seeds), w.counts["test"]
    models = [variant.model for variant in w.config.variants.values()]
    hours = sum(seeds * count * w.predict_s(model) / 3600 for model in models)
    work = f"{count:,} test samples"
    return StagePlan("evaluate", len(models), work, hours, 0.0, w.rates["basis"])


def estimate_transfer(w: Workload) -> StagePlan:
    """Estimate the predictions of arms on other datasets; a dataset of unknown size counts 0."""
    seeds, hours, total = len(w.config.dataset.subset_seeds), 0.0, 0
    for test in w.config.transfer.values():
        count = test.dataset.num_test or PUBLISHED_SIZES.get(test.dataset.name, (0, 0))[1]
        model = w.config.variants[test.arm].model
        hours += seeds * count * w.predict_s(model) / 3600
        total += count
    work = f"{total:,} test samples of other datasets" if total else "datasets of unknown size"
    return StagePlan("transfer", len(w.config.transfer), work, hours, 0.0, w.rates["basis"])


def estimate_judge(w: Workload) -> StagePlan:
    """Estimate the judge's predictions on all synthetic samples."""
    methods = w.config.methods
    count = sum(w.num_samples(method) for method in methods)
    judge = w.config.variants.get(w.config.judge.variant)
    model = next(iter(w.config.variants.values())).model if judge is None else judge.model
    hours = count * w.predict_s(model) / 3600
    return StagePlan("judge", len(methods), f"{count:,} samples", hours, 0.0, w.rates["basis"])


def estimate_memorization(w: Workload) -> StagePlan:
    """Estimate comparing synthetic and validation samples with all training samples."""
    methods, rates, train = w.config.methods, w.rates["nearest"], w.counts["train"]
    seconds = 0.0
    for method in methods:
        compared = w.num_samples(method) + w.counts["val"]
        pair_s = rates["image_pair_s"] + (rates["mask_pair_s"] if method == "masksyn" else 0)
        seconds += (compared + train) * w.read_s() + compared * train * pair_s
    count = sum(w.num_samples(method) for method in methods)
    work = f"{count:,} samples against {train:,}"
    basis = w.rates["basis"]
    return StagePlan("memorization", len(methods), work, seconds / 3600, 0.0, basis)


def _train_passes(w: Workload) -> float:
    return w.network.get("train_passes", _TRAIN_PASSES)


def _training_row_seconds(w: Workload, section: DiffusionTrainingConfig) -> float:
    """Return the seconds of one row of a batch; checkpointing repeats the forward pass."""
    return (_train_passes(w) + (1 if section.gradient_checkpointing else 0)) * w.unet_s


def _encoding_seconds(w: Workload, crops: RandomCrops | None) -> float:
    """Return the seconds that encoding the training pictures and their crops takes."""
    views = 1 + (crops.per_sample if crops else 0)
    return _NUM_FLIPS * views * w.counts["train"] * w.vae_s


def _sampling_seconds(sampling: SamplingConfig, *, unet: float, vae: float) -> float:
    """Return the seconds of one sample: guidance doubles every step."""
    passes = 2 if sampling.guidance_scale > 1 else 1
    return sampling.num_inference_steps * passes * unet + vae


def _generator_plan(
    w: Workload, stage: str, section: DiffusionTrainingConfig, *, row: float, gigabytes: float
) -> StagePlan:
    """Return the plan of a training whose rows take `row` seconds each."""
    seconds = section.num_steps * section.batch_size * row
    seconds += _encoding_seconds(w, section.random_crops)
    work = f"{section.num_steps:,} steps of {section.batch_size}"
    return StagePlan(stage, 1, work, seconds / 3600, gigabytes, w.basis)


def _seggen_plan(w: Workload, method: str, per_source: int, *, seconds: float) -> StagePlan:
    """Return the plan of a method whose samples take `seconds` each."""
    count = w.num_samples(method)
    work = f"{count:,} samples: {w.num_sources:,} sources x {per_source}"
    hours, gigabytes = count * seconds / 3600, count * w.picture_gb
    return StagePlan(method, len(w.config.classes), work, hours, gigabytes, w.basis)


def _attention_plan(
    w: Workload, method: str, *, drawn: float, further_notes: tuple[str, ...] = ()
) -> StagePlan:
    """Return the plan of a method that draws `drawn` images and labels them by attention."""
    count, classes = w.num_samples(method), len(w.config.classes)
    section = getattr(w.config, method)
    hours = drawn * _sampling_seconds(section.sampling, unet=w.unet_s, vae=w.vae_s) / 3600
    note = f"{method}: if every attempt gives a usable mask; at most three attempts a sample"
    work = f"{count:,} samples: {classes} classes x {section.samples_per_class:,}"
    gigabytes, notes = count * w.picture_gb, (note, *further_notes)
    if section.keep_attention:
        kept_gb = drawn * _kept_gigabytes(w, method)
        gigabytes += kept_gb
        notes += (
            f"{method}: {kept_gb:.3g} GB of it is attention in .seggen/attention (keep_attention), "
            "which DVC's cache doesn't hold",
        )
    return StagePlan(method, classes, work, hours, gigabytes, w.basis, notes)


def _kept_gigabytes(w: Workload, method: str) -> float:
    """Return the gigabytes that `keep_attention` keeps of one image: pixels and attention."""
    pixels = 3 * w.config.dataset.image_size**2 / 1e9
    return pixels + (w.self_attention_gb if method == "seediff" else 0.0)
