"""Real data: checks of what `dataset` and `captions` made."""

from dagster_dvc.blueprint import StageCheck
from dagster_project.findings import finding_check

SAMPLES_SOUND = (
    "samples_sound",
    "check_samples",
    "Every sample can be decoded, and its mask holds classes of the taxonomy only",
)
CHECKS: list[StageCheck] = [
    finding_check(*SAMPLES_SOUND, groups={"dataset"}),
    finding_check(
        "held_out",
        "check_held_out",
        "No test image is a training or validation image",
        groups={"dataset"},
    ),
    finding_check(
        "caption_coverage", "check_captions", "Training samples have captions", groups={"captions"}
    ),
]
