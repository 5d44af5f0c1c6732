"""What the stages `text2mask` and `mask2img` share."""

from pathlib import Path

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.generators.foundation import load_pipeline
from seggen_core.generators.generator_training import GeneratorTraining
from seggen_core.generators.training_data import open_training_data, training_identity
from seggen_core.project.paths import ProjectPaths
from seggen_core.stage import Stage


def generator_inputs(paths: ProjectPaths) -> dict[str, Path]:
    """Return the artifacts that a generator is trained on, by the names that the run records."""
    return {
        "foundation": paths.model("foundation"),
        "real_train": paths.real("train"),
        "captions": paths.captions,
    }


def open_generator_training(stage: Stage, settings: DiffusionTrainingConfig) -> GeneratorTraining:
    """Open what the stage's generator is trained with.

    Raises:
        CaptionError: a sample has no caption.
        ConfigError: colour maps can't show what `dataset.color_map` asks for.
        FoundationError: the foundation can't be loaded.
    """
    paths, dataset, seed = stage.paths, stage.config.dataset, stage.config.seed
    identity = training_identity(settings, seed=seed, color_map=dataset.color_map, paths=paths)
    return GeneratorTraining(
        name=stage.name,
        seed=seed,
        image_size=dataset.image_size,
        batch_size=settings.batch_size,
        data=open_training_data(
            paths, color_map=dataset.color_map, crops=settings.random_crops, seed=seed
        ),
        pipeline=load_pipeline(paths.model("foundation")).to(stage.device),
        device=stage.device,
        scratch=stage.scratch(identity),
        run=stage.run,
    )
