"""Stage `seediff`: images of one class with masks from the foundation's own attention.

Attempt i of a class is one prompt and one noise. Attempts are made until `samples_per_class` of
them gave a usable mask, at most three times as many. The manifest counts the others by reason.
"""

from functools import partial

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage
from seggen_core.synthesis.attention_partition import attention_partition
from seggen_core.synthesis.partition import make_partition
from seggen_core.synthesis.seediff import SeeDiff


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/seediff/<item>.

    That is the sample store, attempts.jsonl, previews.png and metrics.json.

    Raises:
        SegGenError: as `attention_partition`.
    """
    with open_stage("seediff", item=item, config=config, paths=paths) as stage:
        make_partition(stage, partial(attention_partition, SeeDiff, stage, config.seediff))
