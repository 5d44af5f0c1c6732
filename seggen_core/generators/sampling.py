"""Sampling from diffusers pipelines: a sample's bytes don't depend on how many others are made.

Matrix kernels round differently for different batch shapes and, with several threads, for different
rows of one batch (measured: fp32, 2 threads, 6 rows). So every network call has the same number of
rows, and the caller says which row a sample is computed in.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seggen_core.config import SamplingConfig
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.generators.pixels import to_condition
from seggen_core.training.precision import autocast, resolve_precision

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from diffusers.schedulers.scheduling_utils import SchedulerMixin


def make_scheduler(pipeline: "DiffusionPipeline", config: SamplingConfig) -> "SchedulerMixin":
    """Make the sampler that `config` names, on the pipeline's noise schedule and prediction type.

    Raises:
        ConfigError: the settings don't go together.
    """
    import diffusers

    scheduler_class = getattr(diffusers, config.scheduler)
    try:
        return scheduler_class.from_config(pipeline.scheduler.config, **config.scheduler_kwargs)
    except (NotImplementedError, ValueError, TypeError, RuntimeError, ImportError) as error:
        raise ConfigError(
            f"diffusers can't make a {config.scheduler} with scheduler_kwargs "
            f"{config.scheduler_kwargs}: {error}; change them"
        ) from error


@contextmanager
def use_scheduler(pipeline: "DiffusionPipeline", config: SamplingConfig) -> Iterator[None]:
    """Let the pipeline sample as `config` says in the block; errors as of `make_scheduler`."""
    original = pipeline.scheduler
    pipeline.scheduler = make_scheduler(pipeline, config)
    try:
        yield
    finally:
        pipeline.scheduler = original


def assign_rows(slots: Sequence[int], size: int) -> Iterator[list[int | None]]:
    """Share items out over calls of `size` rows; yield the item in each row of each call.

    Item i goes into row ``slots[i] % size``. Items of one row keep their order. None marks a row
    that no item is left for. There are as many calls as the fullest row has items.
    """
    rows: list[list[int]] = [[] for _ in range(size)]
    for item, slot in enumerate(slots):
        rows[slot % size].append(item)
    for call in range(max(map(len, rows))):
        yield [row[call] if call < len(row) else None for row in rows]


@torch.no_grad()
def sample_images(
    pipeline: Any,
    *,
    prompts: Sequence[str],
    generators: Callable[[int], torch.Generator],
    config: SamplingConfig,
    image_size: int,
    control_images: np.ndarray | None = None,
    slots: Sequence[int] | None = None,
) -> np.ndarray:
    """Sample one image per prompt.

    An image depends on nothing but its prompt, generator, control image and slot. The autoencoder
    decodes in float32 whatever `config.precision`: SDXL's overflows in float16, and bfloat16 has
    too few digits for 8-bit colours. What else a pipeline does to its images (safety checker,
    watermark) is left out.

    Args:
        pipeline: a diffusers text-to-image or ControlNet pipeline (SD or SDXL).
        prompts: B prompts.
        generators: returns a fresh generator for the noise of prompt i.
        config: sampler; `micro_batch_size` prompts go through the networks at a time.
        image_size: side of the images in pixels.
        control_images: uint8 [B, H, W, 3] for ControlNet pipelines.
        slots: which row of a network call each prompt is computed in, modulo `micro_batch_size`;
            None: prompt i in row i.

    Returns:
        uint8 [B, image_size, image_size, 3].

    Raises:
        ConfigError: the sampler can't be made.
        FoundationError: the networks gave values that aren't finite.
    """
    images = np.empty((len(prompts), image_size, image_size, 3), np.uint8)
    slots = range(len(prompts)) if slots is None else slots
    dtype = resolve_precision(config.precision, pipeline.unet.device)
    with use_scheduler(pipeline, config):
        for rows in assign_rows(slots, config.micro_batch_size):
            filled = {row: item for row, item in enumerate(rows) if item is not None}
            filling = next(iter(filled.values()))
            items = [filled.get(row, filling) for row in range(len(rows))]
            with autocast(pipeline.unet.device, dtype):
                latents = sample_latents(
                    pipeline,
                    config,
                    prompts=[prompts[i] for i in items],
                    generators=[generators(i) for i in items],
                    image_size=image_size,
                    control_images=None if control_images is None else control_images[items],
                )
            pixels = _decode(pipeline, latents, dtype=dtype)
            images[list(filled.values())] = pixels[list(filled)]
    return images


def sample_latents(
    pipeline: Any,
    config: SamplingConfig,
    *,
    prompts: list[str],
    generators: list[torch.Generator],
    image_size: int,
    control_images: np.ndarray | None = None,
) -> torch.Tensor:
    """Return scaled latents [B, C, h, w] of one network call, made in the precision around it."""
    arguments: dict[str, Any] = {}
    if control_images is not None:
        arguments["image"] = to_condition(control_images).to(pipeline.unet.device)
        arguments["controlnet_conditioning_scale"] = config.controlnet_conditioning_scale
    if config.negative_prompt is not None:
        arguments["negative_prompt"] = [config.negative_prompt] * len(prompts)
    return pipeline(
        prompt=prompts,
        generator=generators,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=config.guidance_scale,
        height=image_size,
        width=image_size,
        output_type="latent",
        **arguments,
    ).images


def _decode(pipeline: Any, latents: torch.Tensor, *, dtype: torch.dtype) -> np.ndarray:
    """Return the images of latents that were sampled in `dtype`, uint8 [B, H, W, 3]."""
    decoded = pipeline.vae.decode(latents.float() / pipeline.vae.config.scaling_factor).sample
    if not decoded.isfinite().all():
        raise FoundationError(
            f"sampling in {dtype} gave values that aren't finite; set precision: fp32 for this "
            "sampler"
        )
    pixels = decoded.mul(0.5).add(0.5).clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
    return pixels.permute(0, 2, 3, 1).numpy()
