"""Stage `foundation`: the text-to-image pipeline that everything downstream starts from."""

from seggen_core.config import SegGenConfig
from seggen_core.generators.foundation import (
    check_image_size,
    copy_pipeline,
    load_pipeline,
    pipeline_sizes,
)
from seggen_core.generators.foundation_inputs import (
    foundation_identity,
    located,
    open_training_images,
)
from seggen_core.generators.previews import draw_foundation
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import open_stage


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/models/foundation, a diffusers folder copied from `source` or pretrained here."""
    assert item is None
    check_image_size(config.dataset.image_size)
    settings, seed = config.foundation, config.seed
    with open_stage(
        "foundation",
        item=None,
        config=config,
        paths=paths,
        params=settings.model_dump(mode="json"),
    ) as stage:
        scratch = stage.scratch(foundation_identity(settings, seed=seed, paths=paths))
        finished = scratch / "pipeline"
        if settings.mode == "pretrain" and settings.pretrain is not None:
            from seggen_core.generators.pretrain import pretrain_with_progress

            pretrain_with_progress(
                located(settings.pretrain, base=paths.root),
                seed=seed,
                device=stage.device,
                folder=finished,
                work_folder=scratch / "work",
                training_images=open_training_images(config, paths=paths),
                log_metrics=stage.run.log_metrics,
            )
        else:
            copy_pipeline(settings, base=paths.root, folder=finished)
        pipeline = load_pipeline(finished).to(stage.device)
        picture = draw_foundation(
            pipeline,
            stage.taxonomy,
            sampler=settings.preview,
            image_size=config.dataset.image_size,
            seed=seed,
        )
        stage.show(picture)
        stage.run.log_metrics(pipeline_sizes(pipeline))
        stage.publish(finished, paths.model("foundation"))
