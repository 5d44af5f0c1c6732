"""Stage `seediff`: images of one class with masks from the foundation's own attention.

Attempt i of a class is one prompt and one noise. Attempts are made until `samples_per_class` of
them gave a usable mask, at most three times as many. The manifest counts the others by reason.
"""

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages.stage import open_stage
from seggen_core.synthesis.attention_partition import attention_partition
from seggen_core.synthesis.partition import open_cache, publish_partition
from seggen_core.synthesis.seediff import SeeDiff


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/seediff/<item>.

    That is the sample store, attempts.jsonl, previews.png and metrics.json.

    Raises:
        SegGenError: as `attention_partition`.
    """
    params = config.seediff.model_dump(mode="json")
    with (
        open_stage("seediff", item=item, config=config, paths=paths, params=params) as stage,
        open_cache(stage) as cache,
    ):
        folder = stage.scratch(["store"])
        partition = attention_partition(
            SeeDiff, stage, settings=config.seediff, cache=cache, folder=folder
        )
        publish_partition(stage, partition, cache)
