"""What MLflow shows of an ablation arm: one run with its settings, curves, scores and sources.

The run is that of `evaluate`, and a child run has the figures of each seed. Everything comes from
files that DVC tracks. So a project that pulled its checkpoints gets the same runs.
"""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from seggen_core.config import SegGenConfig, VariantConfig
from seggen_core.evaluation.arm import ArmEvaluation, evaluate_arm
from seggen_core.evaluation.segments import SegmentEvaluation, evaluate_segments
from seggen_core.metrics.tasks import CLASS_FIGURE, FIGURES, PER_CLASS, PRIMARY
from seggen_core.project.publish import write_json
from seggen_core.segmentation.arms import BEST, TrainedArm
from seggen_core.segmentation.model_task import TASK_FILE, ModelTask
from seggen_core.stage import Stage
from seggen_core.store.reader import SampleStore

_SETTINGS = (
    *("num_steps", "batch_size", "learning_rate", "weight_decay", "lr_scheduler"),
    *("p_aug", "pretrain_share"),
)
"""Settings of the training that are parameters of the run, as "train.<name>".

MLflow's page of a comparison begins with the first three parameters, by name, that differ. These
names let model, num_real and num_synthetic be the first. Of an arm that has no p_aug, the page
would draw one above the largest.
"""

_ZERO_SHOT = ("miou_seen", "miou_unseen", "miou_harmonic")


def score_arm(
    stage: Stage, *, arm: TrainedArm, test: SampleStore
) -> ArmEvaluation | SegmentEvaluation:
    """Score an arm by its task.

    Args:
        stage: "evaluate" of the arm.
        arm: its checkpoints.
        test: the test split.

    Raises:
        ConfigError: the task needs instance maps, and the test split has none.
    """
    settings = stage.config.evaluate
    if arm.task == "semantic":
        return evaluate_arm(
            arm,
            test=test,
            taxonomy=stage.taxonomy,
            settings=settings,
            zero_shot=stage.config.zero_shot,
            device=stage.device,
        )
    # Not among the scratch folders of the stage: those are emptied before the report is written.
    scratch = stage.paths.scratch / "predictions" / str(stage.item)
    shutil.rmtree(scratch, ignore_errors=True)
    return evaluate_segments(
        replace(arm, checkpoint=settings.checkpoint),
        test=test,
        taxonomy=stage.taxonomy,
        settings=settings,
        device=stage.device,
        scratch=scratch,
    )


def log_arm(stage: Stage, *, arm: TrainedArm, report: ArmEvaluation | SegmentEvaluation) -> None:
    """Record an arm in the run of `evaluate`.

    Args:
        stage: "evaluate" of the arm.
        arm: its checkpoints.
        report: its scores.
    """
    assert stage.item is not None
    history = pd.read_csv(arm.folder / "history.csv")
    stage.run.log_params(arm_params(stage.config, stage.item, arm=arm))
    stage.run.set_tags({"seggen.arm": stage.item})
    stage.run.log_metrics(arm_metrics(report.metrics))
    _log_curves(stage, history=history)
    stage.run.log_metrics(arm_metrics(report.metrics))
    for seed, scores in report.metrics["seeds"].items():
        params = {"seed": seed, **_sample_counts(arm.facts["seeds"][seed])}
        with stage.run.child(f"seed {seed}", params=params) as run:
            for step, values in _curve(history[history["seed"] == int(seed)]):
                run.log_metrics(values, step=step)
            run.log_metrics(_scores(scores))
            classes, figure = scores[PER_CLASS[arm.task]].items(), CLASS_FIGURE[arm.task].lower()
            run.log_metrics({f"{figure}/{slug}": v for slug, v in classes if v is not None})
    _log_sources(stage)
    _log_best_segmenter(stage, arm=arm, report=report)


def arm_params(config: SegGenConfig, name: str, *, arm: TrainedArm) -> dict[str, Any]:
    """Return the parameters of an arm's run: what arms differ in, and what they share.

    `synthetic_share` is the expected share of synthetic samples among those of all steps. Every arm
    has it, so it can be an axis of a chart. Numbers of samples are means over the seeds.
    """
    variant = config.variants[name]
    settings = config.train_seg.for_arm(variant)
    overrides = settings.to_json()
    shares = {"replace": settings.p_aug, "pretrain": settings.pretrain_share, "plain": 0.0}
    share = 1.0 if variant.real == "none" else shares[settings.strategy] if variant.methods else 0.0
    counts = pd.DataFrame([_sample_counts(facts) for facts in arm.facts["seeds"].values()])
    means = {str(key): float(value) for key, value in counts.mean().round(1).items()}
    return {
        "variant": name,
        "model": variant.model,
        "task": arm.task,
        "strategy": variant.strategy,
        "synthetic_share": share,
        "real": variant.real,
        "synthetic": "+".join(variant.methods) or "none",
        **{key: int(value) if value == int(value) else value for key, value in means.items()},
        "shuffle_masks": variant.shuffle_masks,
        "noise_filter": variant.noise_filter is not None,
        "synthetic_augment": variant.synthetic_augment is not None,
        **{
            name: list(slugs)
            for name in ("hidden_classes", "known_classes")
            if (slugs := getattr(variant, name))
        },
        "subset_size": _subset_size(config, variant),
        "num_seeds": len(arm.seeds),
        "seeds": ",".join(arm.seeds),
        **{f"train.{key}": overrides[key] for key in _SETTINGS if key in overrides},
        "dataset": config.dataset.name,
        "image_size": config.dataset.image_size,
    }


def _subset_size(config: SegGenConfig, variant: VariantConfig) -> int | str:
    if variant.real == "all":
        return "all"
    return variant.subset_size or config.dataset.subset_size or "all"


def arm_metrics(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the test scores of an arm: means over its seeds, and "<score>_std" of each.

    A standard deviation is that of a sample; one seed has none.
    """
    seeds = pd.DataFrame([_scores(scores) for scores in metrics["seeds"].values()], dtype=float)
    values = {str(name): float(seeds[name].mean()) for name in seeds}
    if len(seeds) > 1:
        values |= {f"{name}_std": float(seeds[name].std(ddof=1)) for name in seeds}
    return {name: round(value, 4) for name, value in values.items() if not np.isnan(value)}


def _log_best_segmenter(
    stage: Stage, *, arm: TrainedArm, report: ArmEvaluation | SegmentEvaluation
) -> None:
    """Record the arm's segmenter with the highest validation score as a model for the registry.

    The test split decides nothing: it only measures. Arms of one task are versions of one model.
    """
    name = PRIMARY[arm.task]
    scores = {seed: facts[f"val_{name}"] or 0.0 for seed, facts in arm.facts["seeds"].items()}
    best = max(scores, key=lambda seed: scores[seed])
    checkpoint = arm.folder / f"seed{best}"
    if stage.config.evaluate.checkpoint == "best":
        checkpoint /= BEST
    with TemporaryDirectory() as folder:
        example = Path(folder, "example.png")
        Image.fromarray(report.predictions[0].image).save(example)
        classes = Path(folder, "classes.json")
        write_json(classes, report.taxonomy.to_json())
        files = {
            "config.json": checkpoint / "config.json",
            "model.safetensors": checkpoint / "model.safetensors",
            "classes.json": classes if arm.known_classes else stage.paths.taxonomy,
            "example.png": example,
        }
        if arm.task != "semantic":
            ModelTask(arm.task, report.taxonomy, arm.postprocess).write(Path(folder))
            files[TASK_FILE] = Path(folder, TASK_FILE)
        if arm.model == "detectron2":
            files["config.yaml"] = checkpoint / "config.yaml"
        stage.run.log_model(
            f"seggen-{stage.config.profile}{'' if arm.task == 'semantic' else f'-{arm.task}'}",
            architecture=arm.model,
            files=files,
            tags={
                "arm": str(stage.item),
                "seed": best,
                "task": arm.task,
                f"val_{name}": str(arm.facts[f"val_{name}"] or 0.0),
                name: str(report.metrics[name]),
            },
        )


def _scores(scores: Mapping[str, Any]) -> dict[str, float]:
    """Return the scores that have a value; those of groups are "<name of the groups>/<group>"."""
    names = [name for figures in FIGURES.values() for name in figures]
    values = {name: scores.get(name) for name in (*names, *_ZERO_SHOT)}
    for name, groups in scores.get("groups", {}).items():
        values |= {f"{name}/{group}": value for group, value in groups.items()}
    return {name: value for name, value in values.items() if value is not None}


def _sample_counts(facts: Mapping[str, Any]) -> dict[str, int]:
    """Return the numbers of real and synthetic samples that a segmenter was trained on."""
    by_method = facts["num_synthetic"]
    counts = {"num_real": facts["num_real"], "num_synthetic": sum(by_method.values())}
    return counts | {f"synthetic.{method}": count for method, count in by_method.items()}


def _curve(history: pd.DataFrame) -> list[tuple[int, dict[str, float]]]:
    """Return (step, {"train_loss", "val_<score>"}) for each step that has a value."""
    named = history.rename(columns={"loss": "train_loss"})
    means = named.groupby("step")[["train_loss", _score_column(history)]].mean()
    return [
        (int(step), {str(k): round(float(v), 4) for k, v in row.items() if not np.isnan(v)})
        for step, row in zip(means.index.tolist(), means.to_dict("records"), strict=True)
    ]


def _score_column(history: pd.DataFrame) -> str:
    """Return "val_miou", "val_pq" or "val_ap"."""
    return next(str(name) for name in history if str(name).startswith("val_"))


def _log_curves(stage: Stage, *, history: pd.DataFrame) -> None:
    """Record the means over the seeds, step by step."""
    for step, values in _curve(history):
        stage.run.log_metrics(values, step=step)
    name = _score_column(history)
    last = history.groupby("seed")[name].last().dropna()
    if len(last) > 1:
        step = int(history["step"].max())
        stage.run.log_metrics({f"{name}_std": round(float(last.std(ddof=1)), 4)}, step=step)


def _log_sources(stage: Stage) -> None:
    """Record everything that the arm was made from as an input, with DVC's md5 of each."""
    assert stage.item is not None
    paths, variant = stage.paths, stage.config.variants[stage.item]
    sources = {"checkpoint": paths.checkpoint(stage.item)}
    sources |= {f"real_{split}": paths.real(split) for split in ("train", "val")}
    sources |= {"subsets": paths.subsets, "taxonomy": paths.taxonomy}
    sources |= {method: paths.synthetic(method) for method in variant.methods}
    if variant.methods:
        needed = {"masksyn": ("text2mask", "mask2img"), "imgsyn": ("mask2img",)}
        models = {name for method in variant.methods for name in needed.get(method, ())}
        sources |= {name: paths.model(name) for name in ("foundation", *sorted(models))}
    for name, path in sources.items():
        if path.exists():
            stage.run.log_input(name=name, path=path)
