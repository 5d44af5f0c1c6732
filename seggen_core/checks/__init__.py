"""Checks of the results of stages, before other stages compute more from them.

Each check reads the output of a stage and returns a `Finding`. All checks have the same arguments:
the folder that the stage wrote, the project's paths, and the limits, which are the section `checks`
of params.yaml.

- `samples`: samples can be decoded and fit the taxonomy; no test image is in another split
- `synthesis`: classes, histogram, and agreement of images and masks of a synthetic partition
- `scores`: captions, checkpoints and judged methods against their limits
"""

from seggen_core.checks.finding import Finding
from seggen_core.checks.samples import check_held_out, check_samples
from seggen_core.checks.scores import check_captions, check_checkpoint, check_judgement
from seggen_core.checks.synthesis import (
    check_agreement,
    check_classes,
    check_histogram,
    check_sources,
)

__all__ = [
    "Finding",
    "check_agreement",
    "check_captions",
    "check_checkpoint",
    "check_classes",
    "check_held_out",
    "check_histogram",
    "check_judgement",
    "check_samples",
    "check_sources",
]
