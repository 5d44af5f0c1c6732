"""Stage `diffumask`: images of one class with masks from cross-attention alone.

Thresholds and filter are learned from the class itself.
"""

from functools import partial

from seggen_core.config import SegGenConfig
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage
from seggen_core.synthesis.attention_partition import attention_partition
from seggen_core.synthesis.diffumask import DiffuMask
from seggen_core.synthesis.partition import make_partition


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/diffumask/<item>.

    That is the sample store, attempts.jsonl, previews.png and metrics.json.

    Raises:
        ConfigError: params.yaml has no section `diffumask`.
        SegGenError: as `attention_partition`.
    """
    settings = config.diffumask
    if settings is None:
        raise ConfigError(
            "params.yaml has no section 'diffumask', which this stage needs; "
            "its keys are in seggen_core/config"
        )
    with open_stage("diffumask", item=item, config=config, paths=paths) as stage:
        make_partition(stage, partial(attention_partition, DiffuMask, stage, settings))
