"""What the trainings of Text2Mask and Mask2Img share."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from seggen_core.generators.latent_cache import LatentCache, cache_latents
from seggen_core.generators.prompt_cache import PromptCache
from seggen_core.generators.training_data import GeneratorTrainingData
from seggen_core.tracking import StageRun, tracked_steps
from seggen_core.training.loop import OnStep

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, eq=False)
class GeneratorTraining:
    """One training of a generator.

    Attributes:
        name: "text2mask" or "mask2img".
        seed: name of the random streams, with `name`.
        image_size: side of the images in pixels.
        batch_size: images per call of the encoder.
        data: the real training split.
        pipeline: the foundation, on `device`.
        device: where to train.
        scratch: unfinished work, named by all that it depends on.
        run: gets the metrics.
    """

    name: str
    seed: int
    image_size: int
    batch_size: int
    data: GeneratorTrainingData
    pipeline: Any
    device: "torch.device"
    scratch: Path
    run: StageRun

    @cached_property
    def prompts(self) -> PromptCache:
        """Embeddings of the captions, by the foundation's text encoders."""
        return PromptCache(self.pipeline, self.data.captions, image_size=self.image_size)

    def cache_latents(self, read: Callable[[int], np.ndarray], *, kind: str) -> LatentCache:
        """Encode what `read` returns for each picture of `data`; `kind` is its name in the bar."""
        num_images = len(self.data.captions)
        with tqdm(
            total=num_images, desc=f"{self.name}: encode {kind}s", unit=kind, disable=None
        ) as bar:
            return cache_latents(
                self.pipeline.vae,
                read_image=read,
                num_images=num_images,
                file=self.scratch / "latents.npy",
                batch_size=self.batch_size,
                progress=bar.update,
            )

    def steps(self, total: int, *, part: str) -> AbstractContextManager[OnStep]:
        """Show and log the steps of a part: "train", "decoder"."""
        return tracked_steps(self.run, total=total, description=f"{self.name}: {part}", prefix=part)
