"""Checks of captions, checkpoints and judged methods against their limits."""

from pathlib import Path
from typing import Any

from seggen_core.checks.finding import Finding
from seggen_core.config import ChecksConfig
from seggen_core.project.artefacts import read_artefact, read_table, stage_of
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
    return Finding.of_sample(False, summary, numbers, folder=paths.real("train"), key=missing[0])


def check_checkpoint(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """Every segmenter of an arm reaches the limit on the validation split."""
    metrics = _read(folder / "metrics.json")
    scores = {
        f"seed{seed}": float(summary["val_miou"]) for seed, summary in metrics["seeds"].items()
    }
    name, lowest = min(scores.items(), key=lambda item: item[1])
    numbers = {
        "val_miou": float(metrics["val_miou"]),
        "min_val_miou": checks.min_val_miou,
        **scores,
    }
    summary = (
        f"validation mIoU {metrics['val_miou']:.1f}, lowest {lowest:.1f} ({name}); expected "
        f"{checks.min_val_miou}"
    )
    passed = lowest >= checks.min_val_miou
    return Finding(passed, summary, numbers, example=None if passed else name)


def check_judgement(folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:  # noqa: ARG001 (as all)
    """The judge's predictions agree with the masks of a method."""
    metrics = _read(folder / "metrics.json")
    score = float(metrics.get("mask_iou", metrics["miou"]))
    mious = {slug: part.get("miou") for slug, part in metrics["partitions"].items()}
    scores = metrics.get("per_class_mask_iou") or mious
    partitions = {slug: float(value) for slug, value in scores.items() if value is not None}
    slug, lowest = min(partitions.items(), key=lambda item: item[1])
    numbers = {"judge_miou": score, "min_judge_miou": checks.min_judge_miou}
    numbers |= {f"partition/{name}": value for name, value in partitions.items()}
    summary = (
        f"the judge gives {score:.1f} mIoU, expected {checks.min_judge_miou}; lowest partition "
        f"{slug} with {lowest:.1f}"
    )
    passed = score >= checks.min_judge_miou
    return Finding(passed, summary, numbers, example=None if passed else f"{folder.name}/{slug}")


def _read(path: Path) -> dict[str, Any]:
    return read_artefact(path, dict[str, Any], stage=stage_of(path))
