"""Text2Mask: a text-to-image foundation fine-tuned to draw colour-coded masks (SegGen 3.2, equation 1, A.2 and A.4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.generators.fine_tuning import fine_tune
from seggen_core.generators.foundation import unet_arguments
from seggen_core.generators.latent_cache import LatentCache, PromptCache


def train_text2mask(
    pipeline: Any,
    config: DiffusionTrainingConfig,
    *,
    seed: int,
    color_maps: LatentCache,
    prompts: PromptCache,
    state_folder: Path,
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Fine-tune the UNet of `pipeline` in place on (caption, colour map) pairs.

    Colour maps fill a wider range of latents than photographs do; the foundation's scaling factor
    would hand the UNet inputs of a variance that it has never seen. So the pipeline's
    `vae.config.scaling_factor` becomes 1 / std(colour-map latents), which its own decoding then
    undoes: a plain diffusers pipeline, with no special case.

    Args:
        pipeline: the foundation, with unet and vae on the device to train on.
        config: optimisation.
        seed: name of the random streams, with "text2mask".
        color_maps: latents of the training masks' colour maps.
        prompts: embeddings of their captions, in the same order.
        state_folder: where an interrupted run left its state.
        on_step: told (steps done, metrics).
    """
    unet = pipeline.unet
    pipeline.vae.register_to_config(scaling_factor=1.0 / color_maps.std)
    unet.requires_grad_(True)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()

    def read_latents(positions: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        return color_maps.gather(positions, flips) / color_maps.std

    def predict(
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        positions: np.ndarray,
        dropped: np.ndarray,
        _: torch.Tensor | None,
    ) -> torch.Tensor:
        conditioning = prompts.gather(positions, dropped, unet.device)
        return unet(noisy, timesteps, **unet_arguments(conditioning)).sample

    fine_tune(
        unet,
        config,
        seed=seed,
        name="text2mask",
        scheduler_config=pipeline.scheduler.config,
        read_latents=read_latents,
        predict=predict,
        number=len(color_maps.latents),
        device=unet.device,
        state_folder=state_folder,
        on_step=on_step,
    )
    unet.requires_grad_(False)
