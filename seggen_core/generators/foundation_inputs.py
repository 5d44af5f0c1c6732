"""The inputs of a foundation: its training images, and all that identifies it."""

from pathlib import Path
from typing import Any

from seggen_core.config import FoundationConfig, PretrainConfig, SegGenConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.pretrain_data import CaptionedImages
from seggen_core.generators.training_data import open_training_data
from seggen_core.project.digests import content_digest
from seggen_core.project.paths import ProjectPaths


def located(config: PretrainConfig, *, base: Path) -> PretrainConfig:
    """Return `config` with a relative `init_from` starting from `base`."""
    if config.init_from is None:
        return config
    return config.model_copy(update={"init_from": base / config.init_from})


def open_training_images(config: SegGenConfig, *, paths: ProjectPaths) -> CaptionedImages | None:
    """Open the training images that a foundation is pretrained on; None: it isn't on any.

    Raises:
        CaptionError: a sample has no caption.
        FoundationError: they have another size than `foundation.pretrain.image_size`.
    """
    pretrain, dataset = config.foundation.pretrain, config.dataset
    if pretrain is None or pretrain.data != "training_images":
        return None
    if pretrain.image_size != dataset.image_size:
        raise FoundationError(
            f"foundation.pretrain.image_size is {pretrain.image_size}, but the training images "
            f"have dataset.image_size {dataset.image_size}; set both to the same"
        )
    data = open_training_data(
        paths, color_map=dataset.color_map, crops=pretrain.random_crops, seed=config.seed
    )
    return CaptionedImages(data.read_image, data.captions)


def foundation_identity(config: FoundationConfig, *, seed: int, paths: ProjectPaths) -> list[Any]:
    """Return all that defines the foundation, JSON-ready: parameters and digests."""
    identity = [config.model_dump(mode="json"), seed]
    pretrain = config.pretrain if config.mode == "pretrain" else None
    if pretrain is not None and pretrain.data == "training_images":
        identity += [content_digest(paths.real("train")), content_digest(paths.captions)]
    if pretrain is not None and pretrain.init_from is not None:
        earlier = paths.root / pretrain.init_from
        identity += [content_digest(earlier)] if earlier.is_dir() else []
    return identity
