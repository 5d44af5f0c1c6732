"""Stage `mask2img`: a ControlNet on the locked foundation, trained on (caption, map, image)."""

from seggen_core.config import SegGenConfig
from seggen_core.generators.foundation import load_mask2img
from seggen_core.generators.generator_training import open_generator_training
from seggen_core.generators.mask2img import make_mask2img
from seggen_core.generators.previews import draw_mask2img
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/models/mask2img, a ControlNetModel folder."""
    assert item is None
    settings = config.mask2img
    with open_stage("mask2img", item=None, config=config, paths=paths) as stage:
        training = open_generator_training(stage, settings)
        finished = make_mask2img(training, settings)
        pipeline = load_mask2img(paths.model("foundation"), finished).to(stage.device)
        stage.show(draw_mask2img(training, pipeline, sampler=settings.preview))
        stage.publish(finished, paths.model("mask2img"))
