"""What the trainings of Text2Mask and Mask2Img share."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.generators.foundation import load_pipeline
from seggen_core.generators.latent_cache import LatentCache, cache_latents
from seggen_core.generators.prompt_cache import PromptCache
from seggen_core.generators.sampling import make_scheduler
from seggen_core.generators.training_data import GeneratorTrainingData, open_training_data
from seggen_core.project.digests import content_digest
from seggen_core.stage import Stage
from seggen_core.tracking import tracked_steps
from seggen_core.training.loop import OnStep


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratorTraining:
    """One training of a generator.

    Attributes:
        stage: "text2mask" or "mask2img".
        data: the real training split.
        pipeline: the foundation, on the stage's device.
        scratch: unfinished work, named by all that it depends on.
    """

    stage: Stage
    data: GeneratorTrainingData
    pipeline: Any
    scratch: Path

    @property
    def seed(self) -> int:
        """The project's seed, which names the random streams together with the stage."""
        return self.stage.config.seed

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.stage.config.dataset.image_size

    @cached_property
    def prompts(self) -> PromptCache:
        """Embeddings of the captions, by the foundation's text encoders."""
        return PromptCache(self.pipeline, self.data.captions, image_size=self.image_size)

    def cache_latents(
        self, read: Callable[[int], np.ndarray], *, kind: str, batch_size: int
    ) -> LatentCache:
        """Encode what `read` returns for each picture of `data`.

        Args:
            read: (index of the picture) -> uint8 [H, W, 3].
            kind: what it is called in the progress bar.
            batch_size: images per call of the encoder.
        """
        num_images, title = len(self.data.captions), f"{self.stage.name}: encode {kind}s"
        with tqdm(total=num_images, desc=title, unit=kind, disable=None) as bar:
            return cache_latents(
                self.pipeline.vae,
                read_image=read,
                num_images=num_images,
                file=self.scratch / "latents.npy",
                batch_size=batch_size,
                progress=bar.update,
            )

    def steps(self, total: int, *, part: str) -> AbstractContextManager[OnStep]:
        """Show and log the steps of a part: "train", "decoder"."""
        title = f"{self.stage.name}: {part}"
        return tracked_steps(self.stage.run, total=total, description=title, prefix=part)


def open_generator_training(stage: Stage, settings: DiffusionTrainingConfig) -> GeneratorTraining:
    """Open what the stage's generator is trained with.

    Raises:
        CaptionError: a sample has no caption.
        ConfigError: colour maps can't show what `dataset.color_map` asks for, or the sampler of the
            preview can't be made.
        FoundationError: the foundation can't be loaded.
    """
    paths, seed, color_map = stage.paths, stage.config.seed, stage.config.dataset.color_map
    pipeline = load_pipeline(paths.model("foundation"))
    make_scheduler(pipeline, settings.preview)  # before hours of training, not after them
    inputs = {
        "foundation": paths.model("foundation"),
        "real_train": paths.real("train"),
        "captions": paths.captions,
    }
    for name, path in inputs.items():
        stage.run.log_input(name=name, path=path)
    identity = [settings.model_dump(mode="json"), seed, color_map, stage.taxonomy.to_json()]
    identity += [content_digest(path) for path in inputs.values()]
    return GeneratorTraining(
        stage=stage,
        data=open_training_data(
            paths,
            color_map=color_map,
            image_size=stage.config.dataset.image_size,
            crops=settings.random_crops,
            seed=seed,
        ),
        pipeline=pipeline.to(stage.device),
        scratch=stage.scratch(identity),
    )
