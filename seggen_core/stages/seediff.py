"""Stage `seediff`: images of one class with masks from the foundation's own attention.

Attempt i of a class is one prompt and one noise. Attempts are made until `samples_per_class` of
them gave a usable mask, at most three times as many. The manifest counts the others by reason.
Masks of the mask recipes are made meanwhile, and kept for the stage `mask_recipe`.
"""

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage
from seggen_core.synthesis.mask_recipes import make_attention_partition
from seggen_core.synthesis.seediff import SeeDiff


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/seediff/<item>.

    That is the sample store, attempts.jsonl, previews.png and metrics.json.

    Raises:
        SegGenError: as `make_attention_partition`.
    """
    with open_stage("seediff", item=item, config=config, paths=paths) as stage:
        make_attention_partition(stage, SeeDiff)
