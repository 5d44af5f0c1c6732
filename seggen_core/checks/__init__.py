"""What data must look like before more is computed from it.

Each check reads what a stage wrote and returns a `Finding`. All take the folder that the stage
wrote, the project's paths and the floors, so that a caller can treat them alike.

- `samples`: sample stores: decodable, inside the taxonomy, held-out images kept apart
- `synthesis`: synthetic partitions: classes, histogram, agreement of images and masks
- `scores`: captions, checkpoints and judged methods against their floors

Floors are in the section `checks` of params.yaml.
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
