"""Pictures of what a generator draws."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.config import SamplingConfig
from seggen_core.generators.generator_training import GeneratorTraining
from seggen_core.generators.sampling import sample_images
from seggen_core.project.phrases import count_phrase
from seggen_core.project.rng import torch_generator
from seggen_core.reports.grids import image_grid, picture_scale
from seggen_core.taxonomy import Taxonomy

_NUM_SAMPLES = 10
_NUM_CLASSES = 8
_SIDE = 128
"""Screen pixels of an image's side, at least."""


def draw_foundation(
    pipeline: Any, taxonomy: Taxonomy, *, sampler: SamplingConfig, image_size: int, seed: int
) -> Image.Image:
    """Draw what a foundation makes of the first classes' names.

    Args:
        pipeline: on the device to sample on.
        taxonomy: the classes.
        sampler: how to sample.
        image_size: side of the images in pixels.
        seed: name of the random streams, with "foundation-preview".
    """
    names = [count_phrase(c.name, 1) if c.is_thing else c.name for c in taxonomy]
    images = sample_images(
        pipeline,
        prompts=[f"a photo of {name}" for name in names[:_NUM_CLASSES]],
        generators=lambda i: torch_generator(seed, "foundation-preview", i),
        config=sampler,
        image_size=image_size,
    )
    rows = [list(images)]
    return image_grid(rows, scale=picture_scale(rows, side=_SIDE))


def draw_text2mask(
    training: GeneratorTraining, pipeline: Any, *, sampler: SamplingConfig
) -> Image.Image:
    """Draw real colour maps, and what Text2Mask draws for their captions.

    Args:
        training: says which samples there are.
        pipeline: the trained one, on the device to sample on.
        sampler: how to sample.
    """
    positions = _positions(training)
    drawn = _sample(training, pipeline, sampler=sampler)
    rows = [[training.data.read_color_map(i) for i in positions], list(drawn)]
    return image_grid(rows, scale=picture_scale(rows, side=_SIDE), labels=["real", "drawn"])


def draw_mask2img(
    training: GeneratorTraining, pipeline: Any, *, sampler: SamplingConfig
) -> Image.Image:
    """Draw real colour maps, what Mask2Img makes of them, and the real images.

    Arguments are as in `draw_text2mask`.
    """
    data, positions = training.data, _positions(training)
    color_maps = np.stack([data.read_color_map(i) for i in positions])
    drawn = _sample(training, pipeline, sampler=sampler, control_images=color_maps)
    rows = [list(color_maps), list(drawn), [data.read_image(i) for i in positions]]
    labels = ["mask", "drawn", "real"]
    return image_grid(rows, scale=picture_scale(rows, side=_SIDE), labels=labels)


def _sample(
    training: GeneratorTraining,
    pipeline: Any,
    *,
    sampler: SamplingConfig,
    control_images: np.ndarray | None = None,
) -> np.ndarray:
    """Sample an image for the caption of each shown sample: uint8 [B, H, W, 3]."""
    stream = f"{training.stage.name}-preview"
    return sample_images(
        pipeline,
        prompts=[training.data.captions[i] for i in _positions(training)],
        generators=lambda i: torch_generator(training.seed, stream, i),
        config=sampler,
        image_size=training.image_size,
        control_images=control_images,
    )


def _positions(training: GeneratorTraining) -> Sequence[int]:
    """Return the samples to show, spread over the training split."""
    num_samples = len(training.data.store)
    return range(0, num_samples, max(1, num_samples // _NUM_SAMPLES))[:_NUM_SAMPLES]
