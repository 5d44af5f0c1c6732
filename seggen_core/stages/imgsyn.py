"""Stage `imgsyn`: new images for the real masks (SegGen 3.3).

It makes one class partition.
"""

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages.stage import open_stage
from seggen_core.synthesis.partition import open_cache, publish_partition
from seggen_core.synthesis.seggen_methods import ImgSyn
from seggen_core.synthesis.seggen_partition import synthesize_partition


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/synthetic/imgsyn/<item>: the sample store, previews.png and metrics.json."""
    params = config.imgsyn.model_dump(mode="json")
    with (
        open_stage("imgsyn", item=item, config=config, paths=paths, params=params) as stage,
        open_cache(stage) as cache,
    ):
        folder = stage.scratch(["store"])
        partition = synthesize_partition(ImgSyn, stage, cache=cache, folder=folder)
        publish_partition(stage, partition, cache)
