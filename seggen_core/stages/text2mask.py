"""Stage `text2mask`: the foundation's UNet, fine-tuned on (caption, colour map) pairs."""

from seggen_core.config import SegGenConfig
from seggen_core.generators.generator_training import open_generator_training
from seggen_core.generators.previews import draw_text2mask
from seggen_core.generators.text2mask import make_text2mask
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/models/text2mask, a whole diffusers pipeline that draws colour maps."""
    assert item is None
    settings = config.text2mask
    with open_stage("text2mask", item=None, config=config, paths=paths) as stage:
        training = open_generator_training(stage, settings)
        finished = make_text2mask(training, settings)
        stage.show(draw_text2mask(training, training.pipeline, sampler=settings.preview))
        stage.publish(finished, paths.model("text2mask"))
