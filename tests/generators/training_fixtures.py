"""A few pictures, colour maps and captions to train the tiny pipelines on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.generators.latent_cache import LatentCache, cache_latents
from seggen_core.generators.prompt_cache import PromptCache

IMAGE_SIZE = 32
CAPTIONS = ["a photo of a car", "a bus", "a photo of a car"]


def picture(position: int) -> np.ndarray:
    """Return a smooth picture, uint8 [32, 32, 3], darker on the left than on the right."""
    ramp = np.linspace(40, 200, IMAGE_SIZE)[None, :, None]
    return np.broadcast_to(
        ramp * np.array([1.0, 0.8, 0.3 + 0.3 * position]), (IMAGE_SIZE, IMAGE_SIZE, 3)
    ).astype(np.uint8)


def color_map(position: int) -> np.ndarray:
    """Return a flat-coloured map, uint8 [32, 32, 3].

    It is blue at the left and green at the right, with a red band whose place is the position's.
    """
    colors = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    colors[:, : IMAGE_SIZE // 2], colors[:, IMAGE_SIZE // 2 :] = (0, 0, 255), (0, 255, 0)
    colors[8 * position : 8 * position + 8] = (255, 0, 0)
    return colors


def caches(
    pipeline: Any, folder: Path, *, read: Callable[[int], np.ndarray]
) -> tuple[LatentCache, PromptCache]:
    """Cache latents of the three pictures that `read` gives, and the captions."""
    latents = cache_latents(
        pipeline.vae, read_image=read, num_images=3, file=folder / "latents.npy", batch_size=2
    )
    return latents, PromptCache(pipeline, CAPTIONS, image_size=IMAGE_SIZE)
