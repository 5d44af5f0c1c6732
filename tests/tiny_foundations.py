"""Foundations with random weights, narrow, in the shape of SDXL-base and Stable Diffusion 2-base.

Blocks, text encoders, autoencoder (f = 8) and schedulers are of the kinds that the published
folders have, and as many; widths and layers are what is small.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    EulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from tests.attention.tiny_pipeline import build_tokenizer

_NOISE_SCHEDULE = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}


def _tokenizer() -> CLIPTokenizer:
    return build_tokenizer(max_length=77)


def _text(tokenizer: CLIPTokenizer, *, width: int, **more: Any) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **more,
    )


def _autoencoder(*, scaling_factor: float) -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(4, 4, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        scaling_factor=scaling_factor,
    )


def _uneven_attention(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Weights as drawn give nearly flat attention; larger projections make it vary."""
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                parameter.mul_(4)
    return unet.eval()


def save_sdxl(folder: Path) -> Path:
    """Save a StableDiffusionXLPipeline laid out like SDXL-base 1.0; return its folder."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16, 16),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=[1, 2, 2],
        transformer_layers_per_block=[1, 1, 2],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
        cross_attention_dim=16 + 24,
        norm_num_groups=4,
    )
    pipeline = StableDiffusionXLPipeline(
        vae=_autoencoder(scaling_factor=0.13025).eval(),
        text_encoder=CLIPTextModel(_text(tokenizer, width=16, hidden_act="quick_gelu")).eval(),
        text_encoder_2=CLIPTextModelWithProjection(
            _text(tokenizer, width=24, hidden_act="gelu", projection_dim=24)
        ).eval(),
        tokenizer=tokenizer,
        tokenizer_2=_tokenizer(),
        unet=_uneven_attention(unet),
        scheduler=EulerDiscreteScheduler.from_config(
            _NOISE_SCHEDULE
            | {
                "interpolation_type": "linear",
                "timestep_spacing": "leading",
                "use_karras_sigmas": False,
            }
        ),
        force_zeros_for_empty_prompt=True,
        add_watermarker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def save_sd2_base(folder: Path) -> Path:
    """Save a StableDiffusionPipeline as Stable Diffusion 2-base is laid out; return its folder."""
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16, 16, 16),
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        attention_head_dim=[1, 2, 2, 2],
        use_linear_projection=True,
        cross_attention_dim=16,
        norm_num_groups=4,
    )
    pipeline = StableDiffusionPipeline(
        vae=_autoencoder(scaling_factor=0.18215).eval(),
        text_encoder=CLIPTextModel(_text(tokenizer, width=16, hidden_act="gelu")).eval(),
        tokenizer=tokenizer,
        unet=_uneven_attention(unet),
        scheduler=PNDMScheduler.from_config(_NOISE_SCHEDULE),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder
