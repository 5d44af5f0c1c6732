"""Fine-tuning of a denoiser: the loss shared by Text2Mask and Mask2Img."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.errors import FoundationError
from seggen_core.project.rng import numpy_rng, torch_generator
from seggen_core.training.loop import LoopSettings, OnStep, Training, adamw, train
from seggen_core.training.precision import resolve_precision
from seggen_core.training.schedule import warmup_constant, warmup_cosine

Read = Callable[[np.ndarray, np.ndarray], torch.Tensor]
"""(positions int [B], flips bool [B]) -> what is read of these samples, on the CPU. A thread calls
it, so it calls no network."""


@dataclass(frozen=True, kw_only=True, eq=False)
class NoisyBatch:
    """The samples of a step, with noise.

    Attributes:
        positions: int [B], of the samples.
        dropped: bool [B]; True trains without the caption.
        timesteps: int64 [B].
        noisy: noisy latents, float32 [B, C, h, w].
        target: what the network has to predict, float32 [B, C, h, w].
        condition: what else the network is given; None: nothing.
    """

    positions: np.ndarray
    dropped: np.ndarray
    timesteps: torch.Tensor
    noisy: torch.Tensor
    target: torch.Tensor
    condition: torch.Tensor | None

    def to(self, device: torch.device) -> "NoisyBatch":
        """Return the batch with its tensors on `device`."""
        return NoisyBatch(
            positions=self.positions,
            dropped=self.dropped,
            timesteps=self.timesteps.to(device),
            noisy=self.noisy.to(device),
            target=self.target.to(device),
            condition=None if self.condition is None else self.condition.to(device),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Denoiser:
    """What learns to denoise, and what it learns from."""

    name: str
    """Names the random streams, beside the seed: "text2mask"."""
    module: torch.nn.Module
    """What is trained (a UNet or a ControlNet), on its device."""
    predict: Callable[[torch.nn.Module, NoisyBatch], torch.Tensor]
    """(module, batch on the device) -> prediction [B, C, h, w]. The module that it is given is the
    one to call: the loop may have wrapped it."""
    scheduler_config: Any
    """Noise schedule and prediction type of the foundation."""
    num_samples: int
    """Training samples."""
    read_latents: Read
    """Reads scaled latents, float32 [B, C, h, w]."""
    read_condition: Read | None = None
    """Reads the `condition` of a batch; None: there is none."""


def denoising_target(
    schedule: Any, *, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return what the network has to predict under the schedule's `prediction_type`.

    Raises:
        FoundationError: it is none of epsilon, v_prediction and sample.
    """
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return schedule.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise FoundationError(
        f"the foundation's scheduler has prediction_type {kind!r}; known: epsilon, v_prediction, "
        "sample"
    )


def add_noise(
    schedule: Any, latents: torch.Tensor, *, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Draw noise and timesteps; return noisy latents, timesteps int64 [B] and `denoising_target`.

    Args:
        schedule: noise schedule and prediction type.
        latents: scaled latents, float32 [B, C, h, w].
        generator: of the noise, then of the timesteps.
    """
    noise = torch.randn(latents.shape, generator=generator)
    num_timesteps = schedule.config.num_train_timesteps
    timesteps = torch.randint(0, num_timesteps, (len(latents),), generator=generator)
    target = denoising_target(schedule, latents=latents, noise=noise, timesteps=timesteps)
    return schedule.add_noise(latents, noise, timesteps), timesteps, target


def fine_tune(
    denoiser: Denoiser,
    config: DiffusionTrainingConfig,
    *,
    seed: int,
    state_folder: Path,
    on_step: OnStep,
) -> int:
    """Train a denoiser in place, and leave the averaged weights in it.

    Each step draws its samples, flips, dropped captions, noise and timesteps from (seed, name,
    step): a run that was interrupted goes on from its last saved state with the same numbers.

    Args:
        denoiser: what is trained, and on what.
        config: optimisation.
        seed: name of the random streams, with the denoiser's.
        state_folder: where the state is saved and looked for.
        on_step: called after every step.

    Returns:
        The step that the run resumed from.
    """
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(denoiser.scheduler_config)
    device = next(denoiser.module.parameters()).device

    def loss(module: torch.nn.Module, batch: NoisyBatch) -> torch.Tensor:
        batch = batch.to(device)
        prediction = denoiser.predict(module, batch)
        return torch.nn.functional.mse_loss(prediction.float(), batch.target)

    peak, warmup = config.learning_rate, config.warmup_steps
    learning_rate = (
        warmup_constant(peak, warmup_steps=warmup)
        if config.lr_scheduler == "constant"
        else warmup_cosine(peak, warmup_steps=warmup, num_steps=config.num_steps)
    )
    training = Training(
        name=denoiser.name,
        module=denoiser.module,
        optimizer=adamw(denoiser.module, weight_decay=config.weight_decay),
        learning_rate=learning_rate,
        read=lambda step: _read_batch(denoiser, config, schedule=schedule, seed=seed, step=step),
        loss=loss,
        error=FoundationError,
        advice="lower learning_rate or use precision: fp32",
    )
    settings = LoopSettings(
        num_steps=config.num_steps,
        max_grad_norm=config.max_grad_norm,
        dtype=resolve_precision(config.precision, device),
        ema_decay=config.ema_decay,
        checkpoint_every=config.checkpoint_every,
    )
    return train(training, settings, state_folder=state_folder, on_step=on_step)


def _read_batch(
    denoiser: Denoiser, config: DiffusionTrainingConfig, *, schedule: Any, seed: int, step: int
) -> NoisyBatch:
    """Draw the samples of a step and the noise on them: named by the step, drawn on the CPU."""
    rng = numpy_rng(seed, denoiser.name, "batch", step)
    positions = rng.integers(0, denoiser.num_samples, config.batch_size)
    flips = (rng.random(config.batch_size) < 0.5) & config.random_flip
    dropped = rng.random(config.batch_size) < config.caption_dropout
    latents = denoiser.read_latents(positions, flips)
    generator = torch_generator(seed, denoiser.name, "noise", step)
    noisy, timesteps, target = add_noise(schedule, latents, generator=generator)
    read_condition = denoiser.read_condition
    return NoisyBatch(
        positions=positions,
        dropped=dropped,
        timesteps=timesteps,
        noisy=noisy,
        target=target,
        condition=None if read_condition is None else read_condition(positions, flips),
    )
