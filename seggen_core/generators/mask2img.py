"""Mask2Img: a ControlNet that makes a locked foundation draw what a colour-coded mask shows (SegGen 3.2, equation 2, A.4)."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.generators.fine_tuning import fine_tune
from seggen_core.generators.foundation import unet_arguments, vae_scale_factor
from seggen_core.generators.latent_cache import LatentCache, PromptCache

if TYPE_CHECKING:
    from diffusers import ControlNetModel

_CONDITIONING_CHANNELS = (16, 32, 96, 256)


def build_controlnet(pipeline: Any) -> "ControlNetModel":
    """Start a ControlNet from the foundation's UNet; its condition is the colour map in pixels, reduced to the latent size."""
    from diffusers import ControlNetModel

    reductions = vae_scale_factor(pipeline).bit_length() - 1
    return ControlNetModel.from_unet(
        pipeline.unet, conditioning_embedding_out_channels=_CONDITIONING_CHANNELS[: reductions + 1]
    )


def train_mask2img(
    pipeline: Any,
    controlnet: "ControlNetModel",
    config: DiffusionTrainingConfig,
    *,
    seed: int,
    images: LatentCache,
    read_color_map: Callable[[int], np.ndarray],
    prompts: PromptCache,
    state_folder: Path,
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Train `controlnet` in place on (caption, colour map, image) triplets; the foundation's weights stay as they are.

    Args:
        pipeline: the foundation, with unet and vae on the device to train on.
        controlnet: on the same device.
        config: optimisation.
        seed: name of the random streams, with "mask2img".
        images: latents of the training images.
        read_color_map: returns the colour map of sample i, uint8 [H, W, 3].
        prompts: embeddings of the captions, in the same order.
        state_folder: where an interrupted run left its state.
        on_step: told (steps done, metrics).
    """
    unet = pipeline.unet.requires_grad_(False)
    controlnet.requires_grad_(True)
    if config.gradient_checkpointing:
        controlnet.enable_gradient_checkpointing()
        unet.enable_gradient_checkpointing()

    def read_latents(positions: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        return images.gather(positions, flips) * pipeline.vae.config.scaling_factor

    def read_condition(positions: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        maps = [read_color_map(int(p)) for p in positions]
        maps = [m[:, ::-1] if flip else m for m, flip in zip(maps, flips, strict=True)]
        return torch.from_numpy(np.stack(maps)).permute(0, 3, 1, 2).float().div(255)

    def predict(
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        positions: np.ndarray,
        dropped: np.ndarray,
        condition: torch.Tensor | None,
    ) -> torch.Tensor:
        arguments = unet_arguments(prompts.gather(positions, dropped, unet.device))
        down, middle = controlnet(
            noisy, timesteps, controlnet_cond=condition, return_dict=False, **arguments
        )
        return unet(
            noisy,
            timesteps,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **arguments,
        ).sample

    fine_tune(
        controlnet,
        config,
        seed=seed,
        name="mask2img",
        scheduler_config=pipeline.scheduler.config,
        read_latents=read_latents,
        read_condition=read_condition,
        predict=predict,
        number=len(images.latents),
        device=unet.device,
        state_folder=state_folder,
        on_step=on_step,
    )
    controlnet.requires_grad_(False)
