"""Text2Mask: a text-to-image foundation fine-tuned to draw colour-coded masks.

SegGen 3.2, equation 1, A.2 and A.4.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from seggen_core.config import Text2MaskConfig
from seggen_core.generators.fine_tuning import Denoiser, NoisyBatch, fine_tune
from seggen_core.generators.foundation import unet_arguments
from seggen_core.generators.generator_training import GeneratorTraining
from seggen_core.generators.latent_cache import LatentCache
from seggen_core.generators.lora import LORA_FOLDER, add_lora, merge_lora, save_lora
from seggen_core.generators.mask_decoder import ColorMapCrops, train_mask_decoder
from seggen_core.generators.model_card import write_model_card
from seggen_core.generators.prompt_cache import PromptCache
from seggen_core.training.loop import OnStep


def make_text2mask(training: GeneratorTraining, config: Text2MaskConfig) -> Path:
    """Train Text2Mask; return the folder of the finished pipeline.

    An interrupted run goes on from what lies in the scratch folder. Afterwards the pipeline of
    `training` is the finished one.
    """
    pipeline, data = training.pipeline, training.data
    color_maps = training.cache_latents(
        data.read_color_map, kind="colour map", batch_size=config.batch_size
    )
    with training.steps(config.num_steps, part="train") as on_step:
        train_text2mask(
            pipeline,
            config,
            seed=training.seed,
            color_maps=color_maps,
            prompts=training.prompts,
            state_folder=training.scratch / "state",
            on_step=on_step,
        )
    finished = training.scratch / "pipeline"
    if config.lora is not None:
        save_lora(pipeline, finished / LORA_FOLDER)
        merge_lora(pipeline.unet)
    if config.decoder_steps:
        crops = ColorMapCrops(
            latents=color_maps,
            read_color_map=data.read_color_map,
            config=config,
            seed=training.seed,
        )
        with training.steps(config.decoder_steps, part="decoder") as on_step:
            train_mask_decoder(
                pipeline.vae, crops, state_folder=training.scratch / "decoder", on_step=on_step
            )
    pipeline.to("cpu").save_pretrained(finished, safe_serialization=True)
    write_model_card(training, config, finished)
    pipeline.to(training.stage.device)
    return finished


def train_text2mask(
    pipeline: Any,
    config: Text2MaskConfig,
    *,
    seed: int,
    color_maps: LatentCache,
    prompts: PromptCache,
    state_folder: Path,
    on_step: OnStep,
) -> None:
    """Fine-tune the UNet of `pipeline` in place on (caption, colour map) pairs.

    Colour maps fill a wider range of latents than photographs do; the foundation's scaling factor
    would hand the UNet inputs of a variance that it has never seen. So the pipeline's
    `vae.config.scaling_factor` becomes 1 / std(colour-map latents), which its own decoding then
    undoes: a plain diffusers pipeline, with no special case.

    With `config.lora`, adapters are trained and stay on the UNet (`merge_lora` merges them).

    Args:
        pipeline: the foundation, with unet and vae on the device to train on.
        config: optimisation.
        seed: name of the random streams, with "text2mask".
        color_maps: latents of the training masks' colour maps.
        prompts: embeddings of their captions, in the same order.
        state_folder: where an interrupted run left its state.
        on_step: called after every step.
    """
    unet = pipeline.unet
    pipeline.vae.register_to_config(scaling_factor=1.0 / color_maps.std)
    if config.lora is None:
        unet.requires_grad_(True)
    else:
        add_lora(unet, config.lora, seed=seed)
    if config.gradient_checkpointing:
        unet.enable_gradient_checkpointing()

    def read_latents(positions: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        return color_maps.gather(positions, flips) / color_maps.std

    def predict(module: torch.nn.Module, batch: NoisyBatch) -> torch.Tensor:
        conditioning = prompts.gather(batch.positions, batch.dropped, unet.device)
        return module(batch.noisy, batch.timesteps, **unet_arguments(conditioning)).sample

    denoiser = Denoiser(
        name="text2mask",
        module=unet,
        predict=predict,
        scheduler_config=pipeline.scheduler.config,
        num_samples=len(color_maps.latents),
        read_latents=read_latents,
    )
    fine_tune(denoiser, config, seed=seed, state_folder=state_folder, on_step=on_step)
    unet.requires_grad_(False)
