"""Sampling from diffusers pipelines so that a sample's bytes don't depend on how many others are made with it."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from seggen_core.config import SamplingConfig
from seggen_core.errors import ConfigError

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from diffusers.schedulers.scheduling_utils import SchedulerMixin

T = TypeVar("T")


def make_scheduler(pipeline: "DiffusionPipeline", config: SamplingConfig) -> "SchedulerMixin":
    """Make the sampler that `config` names, on the pipeline's own noise schedule and prediction type."""
    import diffusers

    scheduler_class = getattr(diffusers, config.scheduler, None)
    if scheduler_class is None or not hasattr(scheduler_class, "from_config"):
        raise ConfigError(f"{config.scheduler!r} is not a diffusers scheduler; examples: DDIMScheduler, EulerDiscreteScheduler")
    return scheduler_class.from_config(pipeline.scheduler.config, **config.scheduler_kwargs)


def padded_chunks(items: Sequence[T], size: int) -> Iterator[tuple[list[T], int]]:
    """Yield (chunk of exactly `size` items, number of real ones); the last chunk is filled up by repeating its last item.

    Matrix kernels round differently for different batch shapes, so every network call gets the same shape.
    """
    for start in range(0, len(items), size):
        chunk = list(items[start : start + size])
        real = len(chunk)
        yield chunk + [chunk[-1]] * (size - real), real


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype of network calls: "auto" is bfloat16 where the device computes it natively, else float32."""
    if precision == "fp32":
        return torch.float32
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp16":
        return torch.float16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.bfloat16 if torch.cpu.get_capabilities().get("avx512_bf16", False) else torch.float32


def autocast(device: torch.device, dtype: torch.dtype) -> torch.autocast:
    """Return the autocast context for network calls in `dtype` (disabled for float32)."""
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)


@torch.no_grad()
def sample_images(
    pipeline: Any,
    *,
    prompts: Sequence[str],
    generators: Callable[[int], torch.Generator],
    config: SamplingConfig,
    image_size: int,
    dtype: torch.dtype,
    control_images: np.ndarray | None = None,
) -> np.ndarray:
    """Sample one image per prompt; the result for a prompt depends on nothing but that prompt, its generator and control image.

    Args:
        pipeline: a diffusers text-to-image or ControlNet pipeline (SD or SDXL).
        prompts: B prompts.
        generators: returns a fresh generator for the noise of prompt i.
        config: sampler; `micro_batch_size` prompts go through the networks at a time.
        image_size: side of the images in pixels.
        dtype: precision of network calls.
        control_images: uint8 [B, H, W, 3] for ControlNet pipelines.

    Returns:
        uint8 [B, image_size, image_size, 3].
    """
    pipeline.scheduler = make_scheduler(pipeline, config)
    device = pipeline.unet.device
    produced = []
    for indices, real in padded_chunks(range(len(prompts)), config.micro_batch_size):
        arguments: dict[str, Any] = {}
        if control_images is not None:
            control = torch.from_numpy(control_images[indices]).permute(0, 3, 1, 2).float().div(255)
            arguments["image"] = control.to(device)
        with autocast(device, dtype):
            output = pipeline(
                prompt=[prompts[i] for i in indices],
                generator=[generators(i) for i in indices],
                num_inference_steps=config.num_inference_steps,
                guidance_scale=config.guidance_scale,
                height=image_size,
                width=image_size,
                output_type="pt",
                **arguments,
            ).images
        pixels = output[:real].float().clamp(0, 1).mul(255).round().to("cpu", torch.uint8)
        produced.append(pixels.permute(0, 2, 3, 1).numpy())
    return np.concatenate(produced)
