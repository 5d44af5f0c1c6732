"""Mask2Img: a ControlNet that makes a locked foundation draw what a colour-coded mask shows.

SegGen 3.2, equation 2, A.4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.generators.fine_tuning import Denoiser, NoisyBatch, fine_tune
from seggen_core.generators.foundation import unet_arguments, vae_scale_factor
from seggen_core.generators.generator_training import GeneratorTraining
from seggen_core.generators.latent_cache import LatentCache
from seggen_core.generators.model_card import write_model_card
from seggen_core.generators.pixels import read_flipped, to_condition
from seggen_core.generators.prompt_cache import PromptCache
from seggen_core.project.rng import seeded_torch
from seggen_core.training.loop import OnStep

if TYPE_CHECKING:
    from diffusers import ControlNetModel

_CONDITIONING_CHANNELS = (16, 32, 96, 256)


@dataclass(frozen=True, kw_only=True, eq=False)
class Triplets:
    """(caption, colour map, image) of each training sample, in one order.

    Attributes:
        images: latents of the images.
        read_color_map: returns the colour map of sample i, uint8 [H, W, 3].
        prompts: embeddings of the captions.
    """

    images: LatentCache
    read_color_map: Callable[[int], np.ndarray]
    prompts: PromptCache

    def read_condition(self, positions: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        """Return colour maps, float32 [B, 3, H, W] in [0, 1], flipped where `flips` is True."""
        return to_condition(read_flipped(self.read_color_map, positions, flips))


def build_controlnet(pipeline: Any) -> "ControlNetModel":
    """Start a ControlNet from the foundation's UNet.

    Its condition is the colour map in pixels, which it reduces to the size of the latents.
    """
    from diffusers import ControlNetModel

    reductions = vae_scale_factor(pipeline).bit_length() - 1
    return ControlNetModel.from_unet(
        pipeline.unet, conditioning_embedding_out_channels=_CONDITIONING_CHANNELS[: reductions + 1]
    )


def make_mask2img(training: GeneratorTraining, config: DiffusionTrainingConfig) -> Path:
    """Train Mask2Img; return the folder of the finished ControlNet.

    Its initial weights come from a stream named by the seed. An interrupted run goes on from what
    lies in the scratch folder.
    """
    images = training.cache_latents(
        training.data.read_image, kind="image", batch_size=config.batch_size
    )
    triplets = Triplets(
        images=images,
        read_color_map=training.data.read_color_map,
        prompts=training.prompts,
    )
    with seeded_torch(training.seed, "mask2img-init"):
        controlnet = build_controlnet(training.pipeline).to(training.stage.device)
    with training.steps(config.num_steps, part="train") as on_step:
        train_mask2img(
            training.pipeline,
            controlnet,
            config,
            seed=training.seed,
            triplets=triplets,
            state_folder=training.scratch / "state",
            on_step=on_step,
        )
    finished = training.scratch / "controlnet"
    controlnet.to("cpu").save_pretrained(finished, safe_serialization=True)
    write_model_card(training, config, finished)
    return finished


def train_mask2img(
    pipeline: Any,
    controlnet: "ControlNetModel",
    config: DiffusionTrainingConfig,
    *,
    seed: int,
    triplets: Triplets,
    state_folder: Path,
    on_step: OnStep,
) -> None:
    """Train `controlnet` in place; the foundation's weights stay as they are.

    Args:
        pipeline: the foundation, with unet and vae on the device to train on.
        controlnet: on the same device.
        config: optimisation.
        seed: name of the random streams, with "mask2img".
        triplets: what it is trained on.
        state_folder: where an interrupted run left its state.
        on_step: called after every step.
    """
    unet = pipeline.unet.requires_grad_(False)
    controlnet.requires_grad_(True)
    if config.gradient_checkpointing:
        controlnet.enable_gradient_checkpointing()
        unet.enable_gradient_checkpointing()

    def read_latents(positions: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        return triplets.images.gather(positions, flips) * pipeline.vae.config.scaling_factor

    def predict(module: torch.nn.Module, batch: NoisyBatch) -> torch.Tensor:
        conditioning = triplets.prompts.gather(batch.positions, batch.dropped, unet.device)
        arguments = unet_arguments(conditioning)
        noisy = batch.noisy, batch.timesteps
        down, middle = module(
            *noisy, controlnet_cond=batch.condition, return_dict=False, **arguments
        )
        return unet(
            *noisy,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            **arguments,
        ).sample

    denoiser = Denoiser(
        name="mask2img",
        module=controlnet,
        predict=predict,
        scheduler_config=pipeline.scheduler.config,
        num_samples=len(triplets.images.latents),
        read_latents=read_latents,
        read_condition=triplets.read_condition,
    )
    fine_tune(denoiser, config, seed=seed, state_folder=state_folder, on_step=on_step)
    controlnet.requires_grad_(False)
