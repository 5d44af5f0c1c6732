"""seggen's data checks as checks of assets; what they look at is in `seggen_core.checks`, the floors in params.yaml."""

import io
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_dvc.checks import CheckOutcome, StageCheck
from dagster_dvc.events import markdown_picture
from dagster_dvc.manifest import DvcManifest, StageNode

if TYPE_CHECKING:
    from seggen_core.checks import Finding

SYNTHETIC = PurePosixPath("data", "synthetic")
"""A stage that writes below it makes one class partition of a method, and is checked as one: a new method needs no word here."""

SYNTHETIC_CHECKS = (
    (
        "samples_sound",
        "check_samples",
        "Every sample can be decoded, and its mask holds classes of the taxonomy only",
    ),
    ("classes_present", "check_classes", "The partition is neither empty nor of one class"),
    (
        "class_histogram",
        "check_histogram",
        "The class histogram hasn't collapsed against the real one",
    ),
    ("image_mask_agreement", "check_agreement", "Images change where their masks do"),
    ("sources_not_held_out", "check_sources", "No sample was made from a held-out one"),
)
GROUP_CHECKS = {
    "dataset": (
        (
            "samples_sound",
            "check_samples",
            "Every sample can be decoded, and its mask holds classes of the taxonomy only",
        ),
        ("held_out", "check_held_out", "No test image is a training or validation image"),
    ),
    "captions": (("caption_coverage", "check_captions", "Training samples have captions"),),
    "train_seg": (
        (
            "validation_floor",
            "check_checkpoint",
            "Validation mIoU of every seed is above its floor",
        ),
    ),
    "judge": (
        ("judge_floor", "check_judgement", "The judge sees in the images what their masks say"),
    ),
}
"""Name of the check, function of `seggen_core.checks`, and what has to hold."""


def stage_checks(manifest: DvcManifest) -> list[StageCheck]:
    """The checks of all stages in the manifest; each is blocking, and fails as an error unless its finding is a mere warning."""
    groups: dict[tuple[str, str, str], set[str]] = {}
    for node in manifest.stages.values():
        for row in (
            *GROUP_CHECKS.get(node.group, ()),
            *(SYNTHETIC_CHECKS if is_synthetic(node) else ()),
        ):
            groups.setdefault(row, set()).add(node.group)
    return [
        StageCheck(
            name,
            description,
            blocking=True,
            applies=applying.__contains__,
            evaluate=_evaluator(function),
        )
        for (name, function, description), applying in groups.items()
    ]


def is_synthetic(node: StageNode) -> bool:
    """Whether a stage makes a class partition of a synthetic method: it writes data/synthetic/<method>/<class>."""
    return any(
        len(out.parents) == 4 and SYNTHETIC in out.parents for out in map(PurePosixPath, node.outs)
    )


def _evaluator(function: str) -> Callable[[Path, StageNode], CheckOutcome]:
    def evaluate(root: Path, node: StageNode) -> CheckOutcome:
        from seggen_core import checks
        from seggen_core.config import load_config
        from seggen_core.project.paths import ProjectPaths

        floors = load_config(root / "params.yaml").checks
        return outcome_of(
            getattr(checks, function)(root / node.outs[0], paths=ProjectPaths(root), checks=floors)
        )

    return evaluate


def outcome_of(finding: "Finding") -> CheckOutcome:
    """What a finding says, as Dagster shows it: numbers, and the failing example with its picture."""
    metadata: dict[str, Any] = dict(finding.numbers)
    if finding.example is not None:
        metadata["example"] = finding.example
    if finding.picture is not None:
        metadata["example_picture"] = sample_picture(*finding.picture)
    severity = dg.AssetCheckSeverity.ERROR if finding.blocks else dg.AssetCheckSeverity.WARN
    return CheckOutcome(
        passed=finding.passed, description=finding.summary, metadata=metadata, severity=severity
    )


def sample_picture(folder: Path, key: str) -> dg.MetadataValue:
    """A sample of a store as a Markdown picture: image, mask and overlay."""
    from seggen_core.colors.semantic import class_palette
    from seggen_core.reports.grids import pair_grid
    from seggen_core.store.reader import SampleStore

    store = SampleStore(folder)
    palette = class_palette(store.manifest["store"]["num_classes"])
    buffer = io.BytesIO()
    pair_grid([store[key]], palette=palette, num_columns=1, scale=3).save(buffer, format="PNG")
    return markdown_picture(key, buffer.getvalue(), kind="image/png")
