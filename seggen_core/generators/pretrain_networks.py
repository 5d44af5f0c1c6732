"""The networks of the embedded foundation: those of Stable Diffusion 2 at small size.

AutoencoderKL (`autoencoder`), UNet2DConditionModel with v-prediction, CLIPTokenizer and
CLIPTextModel. The text encoder has no transformer layers and no position embedding: each token is
embedded alone. A contextual encoder trained from scratch lets any token carry any word, and then a
class word's attention says nothing about where the class is (measured: class-token AUC 0.60-0.68
with one layer, 0.87-0.89 with none).
"""

from pathlib import Path
from typing import TYPE_CHECKING

import torch

from seggen_core.config import PretrainConfig
from seggen_core.errors import FoundationError
from seggen_core.training.loop import LoopSettings
from seggen_core.training.precision import resolve_precision

if TYPE_CHECKING:
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

MAX_PROMPT_TOKENS = 32
CHECKPOINT_EVERY = 500
"""Steps between the states that an interrupted pretraining goes on from."""


def loop_settings(
    config: PretrainConfig, *, num_steps: int, ema_decay: float, device: torch.device
) -> LoopSettings:
    """Return how the autoencoder and the UNet are trained."""
    return LoopSettings(
        num_steps=num_steps,
        max_grad_norm=1.0,
        dtype=resolve_precision(config.precision, device),
        ema_decay=ema_decay,
        ema_warmup=11,
        checkpoint_every=CHECKPOINT_EVERY,
    )


def build_unet(config: PretrainConfig, *, latent_size: int) -> "UNet2DConditionModel":
    """Build the UNet: plain blocks at the latent resolution, cross-attention at coarser ones."""
    from diffusers import UNet2DConditionModel

    levels = len(config.unet_channels)
    return UNet2DConditionModel(
        sample_size=latent_size,
        in_channels=config.latent_channels,
        out_channels=config.latent_channels,
        block_out_channels=config.unet_channels,
        layers_per_block=1,
        down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * (levels - 1),
        up_block_types=("CrossAttnUpBlock2D",) * (levels - 1) + ("UpBlock2D",),
        cross_attention_dim=config.text_width,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def build_text_encoder(config: PretrainConfig, tokenizer: "CLIPTokenizer") -> "CLIPTextModel":
    """Build the context-free text encoder: token embedding and layer norm.

    Position embeddings are zero and stay so.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.text_width,
            intermediate_size=config.text_width * 4,
            num_hidden_layers=0,
            num_attention_heads=4,
            max_position_embeddings=MAX_PROMPT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    for name, parameter in encoder.named_parameters():
        if "position_embedding" in name:
            torch.nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
    return encoder


def build_noise_scheduler() -> "DDIMScheduler":
    """Build the noise schedule: v-prediction, and SD's betas rescaled to zero terminal SNR.

    Source: Lin et al., "Common Diffusion Noise Schedules and Sample Steps Are Flawed", WACV 2024.
    """
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=True,
        steps_offset=1,  # unused by "trailing", but any other value makes diffusers warn
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )


class TextConditionedUNet(torch.nn.Module):
    """UNet and text encoder in one forward call: data-parallel wrappers see the whole of it."""

    def __init__(self, unet: "UNet2DConditionModel", text_encoder: "CLIPTextModel") -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(
        self, latents: torch.Tensor, timesteps: torch.Tensor, input_ids: torch.Tensor
    ) -> torch.Tensor:
        """Predict v for noisy `latents` [B, C, h, w] at `timesteps` [B] given token ids [B, T]."""
        return self.unet(latents, timesteps, self.text_encoder(input_ids).last_hidden_state).sample


def load_weights(module: TextConditionedUNet, foundation: Path) -> None:
    """Start from the weights of an earlier foundation of the same shape.

    Raises:
        FoundationError: it has another shape.
    """
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextModel

    unet = UNet2DConditionModel.from_pretrained(foundation / "unet", use_safetensors=True)
    encoder = CLIPTextModel.from_pretrained(foundation / "text_encoder", use_safetensors=True)
    try:
        module.unet.load_state_dict(unet.state_dict())
        module.text_encoder.load_state_dict(encoder.state_dict())
    except RuntimeError as error:
        first = " ".join(str(error).split())[:300]
        raise FoundationError(
            f"foundation.pretrain.init_from {foundation} has networks of another shape than "
            f"foundation.pretrain says ({first}); set unet_channels, latent_channels and "
            "text_width to its own, or new_unet to true"
        ) from error


def assemble_pipeline(
    *,
    vae: "AutoencoderKL",
    unet: "UNet2DConditionModel",
    text_encoder: "CLIPTextModel",
    tokenizer: "CLIPTokenizer",
) -> "StableDiffusionPipeline":
    """Put the parts together as a StableDiffusionPipeline without a safety checker."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_noise_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
