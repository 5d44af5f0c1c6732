"""Stage `foundation`: the text-to-image pipeline that everything downstream starts from."""

from seggen_core.config import SegGenConfig
from seggen_core.generators.foundation import load_pipeline, pipeline_sizes
from seggen_core.generators.make_foundation import make_foundation
from seggen_core.generators.previews import draw_foundation
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/models/foundation, a diffusers folder copied from `source` or pretrained here."""
    assert item is None
    with open_stage("foundation", item=None, config=config, paths=paths) as stage:
        finished = make_foundation(stage)
        pipeline = load_pipeline(finished).to(stage.device)
        picture = draw_foundation(
            pipeline,
            stage.taxonomy,
            sampler=config.foundation.preview,
            image_size=config.dataset.image_size,
            seed=config.seed,
        )
        stage.show(picture)
        stage.run.log_metrics(pipeline_sizes(pipeline))
        stage.publish(finished, paths.model("foundation"))
