"""The optimisation loop shared by Text2Mask and Mask2Img: denoising loss, averaged weights, deterministic resumption."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.errors import FoundationError
from seggen_core.project.rng import numpy_rng, torch_generator
from seggen_core.training.precision import autocast, resolve_precision
from seggen_core.training.read_ahead import read_ahead
from seggen_core.training.state import load_state, save_state

Read = Callable[[np.ndarray, np.ndarray], torch.Tensor]
"""(positions [B], flips [B]) -> what is read of these samples, on the CPU. For a GPU a thread calls it, so it leaves networks
alone."""
Predict = Callable[
    [torch.Tensor, torch.Tensor, np.ndarray, np.ndarray, torch.Tensor | None], torch.Tensor
]
"""(noisy latents [B, C, h, w], timesteps [B], positions [B], dropped captions [B], condition), tensors on the device, ->
prediction [B, C, h, w]."""


@dataclass(frozen=True, eq=False)
class _Batch:
    positions: np.ndarray
    dropped: np.ndarray
    timesteps: torch.Tensor
    noisy: torch.Tensor
    target: torch.Tensor
    condition: torch.Tensor | None


def denoising_target(
    schedule: Any, *, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """Return what the network has to predict under the schedule's `prediction_type` (epsilon, v_prediction or sample)."""
    kind = schedule.config.prediction_type
    if kind == "epsilon":
        return noise
    if kind == "v_prediction":
        return schedule.get_velocity(latents, noise, timesteps)
    if kind == "sample":
        return latents
    raise FoundationError(
        f"the foundation's scheduler has prediction_type {kind!r}; known: epsilon, v_prediction, sample"
    )


def fine_tune(
    module: torch.nn.Module,
    config: DiffusionTrainingConfig,
    *,
    seed: int,
    name: str,
    scheduler_config: Any,
    read_latents: Read,
    predict: Predict,
    number: int,
    device: torch.device,
    state_folder: Path,
    on_step: Callable[[int, dict[str, float]], None],
    read_condition: Read | None = None,
) -> int:
    """Train `module` in place to denoise, and leave the averaged weights in it.

    Each step draws its samples, flips, dropped captions, noise and timesteps from (seed, name,
    step): a run that was interrupted goes on from its last saved state with the same numbers.

    Args:
        module: what is trained (a UNet or a ControlNet).
        config: optimisation.
        seed, name: name of the random streams.
        scheduler_config: noise schedule and prediction type of the foundation.
        read_latents: reads scaled latents, float32 [B, C, h, w].
        predict: the network's prediction; it calls `module`.
        number: training samples.
        device: where to compute.
        state_folder: where the state is saved and looked for.
        on_step: told (steps done, {"loss", "learning_rate"}) after every step.
        read_condition: reads what else `predict` is given; None gives it nothing.

    Returns:
        The step that the run resumed from.
    """
    from diffusers import DDPMScheduler

    schedule = DDPMScheduler.from_config(scheduler_config)
    dtype = resolve_precision(config.precision, device)
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
    )
    average = [p.detach().clone() for p in module.parameters()] if config.ema_decay else []
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    first = load_state(
        state_folder, module=module, average=average, optimizer=optimizer, scaler=scaler
    )
    module.train()

    def read(step: int) -> _Batch:
        """Draw the samples of a step and the noise on them: named by the step, drawn on the CPU."""
        rng = numpy_rng(seed, name, "batch", step)
        positions = rng.integers(0, number, config.batch_size)
        flips = (rng.random(config.batch_size) < 0.5) & config.random_flip
        dropped = rng.random(config.batch_size) < config.caption_dropout
        latents = read_latents(positions, flips)
        generator = torch_generator(seed, name, "noise", step)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(
            0, schedule.config.num_train_timesteps, (len(latents),), generator=generator
        )
        return _Batch(
            positions=positions,
            dropped=dropped,
            timesteps=timesteps,
            noisy=schedule.add_noise(latents, noise, timesteps),
            target=denoising_target(schedule, latents=latents, noise=noise, timesteps=timesteps),
            condition=read_condition(positions, flips) if read_condition else None,
        )

    steps = range(first, config.num_steps)
    for step, batch in zip(steps, read_ahead(read, steps=steps, device=device), strict=True):
        # 1. Batch and learning rate.
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * _schedule(config, step)
        noisy, timesteps, target = (
            batch.noisy.to(device),
            batch.timesteps.to(device),
            batch.target.to(device),
        )
        condition = None if batch.condition is None else batch.condition.to(device)

        # 2. Loss and update.
        with autocast(device, dtype):
            prediction = predict(noisy, timesteps, batch.positions, batch.dropped, condition)
        loss = torch.nn.functional.mse_loss(prediction.float(), target)
        if not torch.isfinite(loss):
            raise FoundationError(
                f"{name}: the loss is {loss.item()} at step {step}; lower learning_rate or use precision: fp32"
            )
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        if average:
            decay = min(config.ema_decay, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(average, [p.detach() for p in module.parameters()], 1 - decay)
        on_step(step + 1, {"loss": loss.item(), "learning_rate": optimizer.param_groups[0]["lr"]})
        if (step + 1) % config.checkpoint_every == 0:
            save_state(
                state_folder,
                step=step + 1,
                module=module,
                average=average,
                optimizer=optimizer,
                scaler=scaler,
            )

    # 3. The averaged weights are the result.
    with torch.no_grad():
        for parameter, mean in zip(module.parameters(), average, strict=bool(average)):
            parameter.copy_(mean)
    module.eval()
    return first


def _schedule(config: DiffusionTrainingConfig, step: int) -> float:
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    return warm * (
        0.5 * (1 + math.cos(math.pi * step / config.num_steps))
        if config.lr_scheduler == "cosine"
        else 1.0
    )
