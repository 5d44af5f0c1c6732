"""Which checks the output of each stage has.

No library that reads samples is imported before a check runs: Dagster asks for names alone.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path

from seggen_core.checks.finding import Finding
from seggen_core.config.checks import ChecksConfig
from seggen_core.project.paths import ProjectPaths

_SAMPLES = "seggen_core.checks.samples"
_SCORES = "seggen_core.checks.scores"
_SYNTHESIS = "seggen_core.checks.synthesis"


@dataclass(frozen=True)
class Check:
    """One check."""

    name: str
    """Unique among the checks of a stage; people and Dagster see it."""
    description: str
    """What has to hold."""
    module: str
    """Module of the function that looks at an output."""
    function: str
    """Its name there."""
    limits: tuple[str, ...] = ()
    """Keys of `checks` in params.yaml that the result depends on."""
    blocking: bool = True
    """Whether a failure stops what reads the output; a finding may still be a warning."""
    reads_samples: bool = True
    """It reads sample stores, which takes seconds or minutes: its result is stored. Other checks
    read one small file and are evaluated whenever somebody asks."""

    def evaluate(self, folder: Path, *, paths: ProjectPaths, checks: ChecksConfig) -> Finding:
        """Look at the folder that a stage wrote.

        Args:
            folder: the folder.
            paths: the project's.
            checks: the limits of this output.

        Raises:
            SegGenError: the output isn't there, or can't be read.
        """
        function = getattr(importlib.import_module(self.module), self.function)
        return function(folder, paths=paths, checks=checks)


SAMPLES_SOUND = Check(
    "samples_sound",
    "Every sample can be decoded, and its mask holds classes of the taxonomy only",
    _SAMPLES,
    "check_samples",
)
"""The first check of a stage that writes stores: the others read what it has found sound."""

PARTITION_CHECKS = (
    SAMPLES_SOUND,
    Check(
        "classes_present",
        "The partition is neither empty nor of one class",
        _SYNTHESIS,
        "check_classes",
        ("min_samples",),
    ),
    Check(
        "class_histogram",
        "The class histogram hasn't collapsed against the real one",
        _SYNTHESIS,
        "check_histogram",
        ("max_histogram_distance", "min_class_share", "max_class_share"),
    ),
    Check(
        "image_mask_agreement",
        "Images change where their masks do",
        _SYNTHESIS,
        "check_agreement",
        ("min_edge_agreement",),
    ),
    Check(
        "sources_not_held_out",
        "No sample was made from a held-out one",
        _SYNTHESIS,
        "check_sources",
    ),
)
"""The checks of a class partition of any synthetic method."""

STAGE_CHECKS: dict[str, tuple[Check, ...]] = {
    "dataset": (
        SAMPLES_SOUND,
        Check(
            "held_out",
            "No test image is a training or validation image",
            _SAMPLES,
            "check_held_out",
            ("max_shared_images",),
        ),
    ),
    "captions": (
        Check(
            "caption_coverage",
            "Training samples have captions",
            _SCORES,
            "check_captions",
            ("min_caption_coverage",),
        ),
    ),
    "train_seg": (
        Check(
            "validation_floor",
            "Validation mIoU, PQ or AP of every seed is above its floor",
            _SCORES,
            "check_checkpoint",
            ("min_val_miou", "min_val_pq", "min_val_ap"),
            reads_samples=False,
        ),
    ),
    "judge": (
        Check(
            "judge_floor",
            "The judge sees in the images what their masks say",
            _SCORES,
            "check_judgement",
            ("min_judge_miou",),
            blocking=False,
            reads_samples=False,
        ),
    ),
}
"""The checks of the other stages, in the order in which they are evaluated."""


def checks_of(stage: str) -> tuple[Check, ...]:
    """Return the checks of a stage; a stage that isn't in `STAGE_CHECKS` is a synthetic method."""
    return STAGE_CHECKS.get(stage, PARTITION_CHECKS)
