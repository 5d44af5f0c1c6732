"""Checks of captions, checkpoints and judged methods against their limits."""

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, TypeAlias

from seggen_core.checks.finding import Finding
from seggen_core.config import ChecksConfig, Task
from seggen_core.errors import CheckError, SegGenError
from seggen_core.metrics.tasks import FIGURES, PRIMARY
from seggen_core.project.artefacts import damaged, read_artefact, read_table, stage_of
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore


def check_captions(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """Enough real training samples have a caption that is not blank."""
    table = read_table(paths.captions, text_columns=["sample_key", "caption"], stage="captions")
    captioned = set(table.loc[table["caption"].fillna("").str.strip() != "", "sample_key"])
    keys = SampleStore(paths.real("train")).keys()
    missing = [key for key in keys if key not in captioned]
    coverage = 1 - len(missing) / max(len(keys), 1)
    numbers = {
        "samples": float(len(keys)),
        "coverage": coverage,
        "min_caption_coverage": checks.min_caption_coverage,
    }
    summary = (
        f"{coverage:.1%} of {len(keys)} training samples have a caption, expected "
        f"{checks.min_caption_coverage:.1%}"
    )
    if coverage >= checks.min_caption_coverage:
        return Finding(True, summary, numbers)
    summary = f"{summary}; {missing[0]} has none"
    picture = (paths.real("train"), missing[0])
    limit = "min_caption_coverage"
    return Finding.of_sample(False, summary, numbers, picture=picture, limit=limit)


Checking: TypeAlias = Callable[..., Finding]


def _says_damage(check: Checking) -> Checking:
    """Let a check of a metrics.json name the file where it lacks a key or holds another type."""

    @wraps(check)
    def checked(folder: Path, **arguments: Any) -> Finding:
        try:
            return check(folder, **arguments)
        except SegGenError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            file = folder / "metrics.json"
            problem = f"it lacks what the check reads ({error!r})"
            raise damaged(file, problem, stage=stage_of(file)) from None

    return checked


@_says_damage
def check_checkpoint(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """Every segmenter of an arm reaches the limit on the validation split."""
    metrics = _read(folder / "metrics.json")
    name = PRIMARY[_task(metrics)]
    scores = {
        f"seed{seed}": float(summary[f"val_{name}"])
        for seed, summary in metrics["seeds"].items()
        if summary[f"val_{name}"] is not None
    }
    limit = f"min_val_{name}"
    expected = getattr(checks, limit)
    if not scores:
        summary = (
            "there is no validation sample with a labelled pixel, so there is no score to look at"
        )
        return Finding(False, summary, {limit: expected}, blocks=False)
    worst, lowest = min(scores.items(), key=lambda item: item[1])
    numbers = {f"val_{name}": sum(scores.values()) / len(scores), limit: expected, **scores}
    summary = (
        f"validation {FIGURES[_task(metrics)][name]} {numbers[f'val_{name}']:.1f}, "
        f"lowest {lowest:.1f} ({worst}); expected {expected}"
    )
    if lowest >= expected:
        return Finding(True, summary, numbers)
    return Finding(False, summary, numbers, example=worst, limit=limit)


def _task(metrics: dict[str, Any]) -> Task:
    task: Task = metrics.get("task", "semantic")
    return task


@_says_damage
def check_judgement(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """The judge's predictions agree with the masks of a method.

    A failure is a warning: nothing is computed from the judge's scores. The table of the ablation
    shows them, and is what people look at when a method doesn't help.
    """
    metrics = _read(folder / "metrics.json")
    measured = metrics.get("mask_iou", metrics["miou"])
    if measured is None:
        summary = "no sample has a labelled pixel that the judge could agree with"
        return Finding(False, summary, {"min_judge_miou": checks.min_judge_miou}, blocks=False)
    score = float(measured)
    mious = {slug: part.get("miou") for slug, part in metrics["partitions"].items()}
    scores = metrics.get("per_class_mask_iou") or mious
    partitions = {slug: float(value) for slug, value in scores.items() if value is not None}
    slug, lowest = min(partitions.items(), key=lambda item: item[1], default=("", score))
    numbers = {"judge_miou": score, "min_judge_miou": checks.min_judge_miou}
    numbers |= {f"partition/{name}": value for name, value in partitions.items()}
    summary = (
        f"the judge gives {score:.1f} mIoU, expected {checks.min_judge_miou}; lowest partition "
        f"{slug} with {lowest:.1f}"
    )
    if score >= checks.min_judge_miou:
        return Finding(True, summary, numbers, blocks=False)
    example = f"{folder.name}/{slug}"
    return Finding(False, summary, numbers, example, blocks=False, limit="min_judge_miou")


def require_checkpoint(variant: str, *, paths: ProjectPaths, checks: ChecksConfig) -> None:
    """Stop a stage that reads an arm whose segmenters are below the limit.

    A stage that reads a checkpoint calls this first, so that every door stops here.

    Raises:
        CheckError: it says the number, the limit and its key.
    """
    folder = paths.checkpoint(variant)
    if not (folder / "metrics.json").is_file():
        return  # the stage itself says what to run
    finding = check_checkpoint(folder, paths=paths, checks=checks)
    if not finding.passed and finding.blocks:
        raise CheckError(
            f"check validation_floor of train_seg@{variant}: {finding.summary} (limit: "
            f"checks.{finding.limit} in params.yaml). Its segmenters have learnt too little to be "
            "scored: look at data/checkpoints/"
            f"{variant}/history.csv, or lower the limit"
        )


def judge_warning(method: str, *, paths: ProjectPaths, checks: ChecksConfig) -> str | None:
    """Return what to say of a method whose masks the judge doesn't agree with; None if it does."""
    folder = paths.report("judge", method)
    if not (folder / "metrics.json").is_file():
        return None
    finding = check_judgement(folder, paths=paths, checks=checks)
    if finding.passed:
        return None
    warning = f"check judge_floor of judge@{method}: {finding.summary}"
    if finding.limit is None:
        return warning
    return (
        f"{warning} (limit: checks.{finding.limit} in params.yaml). Its masks don't show what is "
        "in its images"
    )


def _read(path: Path) -> dict[str, Any]:
    return read_artefact(path, dict[str, Any], stage=stage_of(path))
