"""Stage `diffumask`: images of one class with masks from cross-attention alone.

Thresholds and filter are learned from the class itself.
"""

from seggen_core.config import SegGenConfig
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages.stage import open_stage
from seggen_core.synthesis.attention_partition import attention_partition
from seggen_core.synthesis.diffumask import DiffuMask
from seggen_core.synthesis.partition import open_cache, publish_partition


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
    params = settings.model_dump(mode="json")
    with (
        open_stage("diffumask", item=item, config=config, paths=paths, params=params) as stage,
        open_cache(stage) as cache,
    ):
        folder = stage.scratch(["store"])
        partition = attention_partition(
            DiffuMask, stage, settings=settings, cache=cache, folder=folder
        )
        publish_partition(stage, partition, cache)
