"""How the stage's foundation is made: copied from its source or pretrained here."""

from pathlib import Path

from seggen_core.config import PretrainConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.foundation import copy_pipeline
from seggen_core.generators.pretrain import Pretraining, pretrain_with_progress
from seggen_core.generators.pretrain_data import CaptionedImages
from seggen_core.generators.training_data import open_training_data
from seggen_core.project.digests import content_digest
from seggen_core.stage import Stage
from seggen_core.training.loop import make_accelerator


def located(config: PretrainConfig, *, base: Path) -> PretrainConfig:
    """Return `config` with a relative `init_from` starting from `base`."""
    if config.init_from is None:
        return config
    return config.model_copy(update={"init_from": base / config.init_from})


def make_foundation(stage: Stage) -> Path:
    """Copy or pretrain the foundation; return the folder of the finished pipeline.

    An interrupted pretraining goes on from what lies in the scratch folder.

    Raises:
        CaptionError: a training sample has no caption.
        FoundationError: `source` or `init_from` can't be loaded, or the training images have
            another size than `foundation.pretrain.image_size`.
    """
    config, paths, seed = stage.config.foundation, stage.paths, stage.config.seed
    identity = [config.model_dump(mode="json"), seed]
    pretrain = config.pretrain if config.mode == "pretrain" else None
    if pretrain is None:
        finished = stage.scratch(identity) / "pipeline"
        copy_pipeline(config, base=paths.root, folder=finished)
        return finished

    training_images = None
    if pretrain.data == "training_images":
        identity += [content_digest(paths.real("train")), content_digest(paths.captions)]
        training_images = _open_training_images(stage, pretrain)
    if pretrain.init_from is not None and (paths.root / pretrain.init_from).is_dir():
        identity.append(content_digest(paths.root / pretrain.init_from))
    scratch = stage.scratch(identity)
    pretraining = Pretraining(
        config=located(pretrain, base=paths.root),
        seed=seed,
        accelerator=make_accelerator(stage.device),
        work_folder=scratch / "work",
        training_images=training_images,
    )
    pretrain_with_progress(pretraining, folder=scratch / "pipeline", run=stage.run)
    return scratch / "pipeline"


def _open_training_images(stage: Stage, pretrain: PretrainConfig) -> CaptionedImages:
    dataset = stage.config.dataset
    if pretrain.image_size != dataset.image_size:
        raise FoundationError(
            f"foundation.pretrain.image_size is {pretrain.image_size}, but the training images "
            f"have dataset.image_size {dataset.image_size}; set both to the same"
        )
    data = open_training_data(
        stage.paths,
        color_map=dataset.color_map,
        image_size=dataset.image_size,
        crops=pretrain.random_crops,
        seed=stage.config.seed,
    )
    return CaptionedImages(data.read_image, data.captions)
