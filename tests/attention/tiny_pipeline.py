"""A real StableDiffusionPipeline with random weights, small enough for a test.

It makes images of 32 px, with attention at 16x16 and 8x8.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WORDS = ["a", "photo", "of", "car", "bus", "house", "potted", "plant", "and"]
IMAGE_SIZE = 32


def build_tokenizer(*, max_length: int = 16) -> CLIPTokenizer:
    """Build a CLIPTokenizer that knows WORDS as single tokens and spells everything else."""
    merges = []
    for word in WORDS:
        pieces = [*word[:-1], word[-1] + "</w>"]
        while len(pieces) > 1:
            merge = (pieces[0], pieces[1])
            merges += [merge] if merge not in merges else []
            pieces = ["".join(merge), *pieces[2:]]
    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = (
        letters
        + [c + "</w>" for c in letters]
        + ["".join(m) for m in merges]
        + ["<|startoftext|>", "<|endoftext|>"]
    )
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    return CLIPTokenizer(vocab=vocab, merges=merges, model_max_length=max_length)


def build_unet() -> UNet2DConditionModel:
    """Build the UNet: two heads' worth of cross- and self-attention at both of its resolutions."""
    torch.manual_seed(1)
    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=8,
    ).eval()


def build_pipeline() -> StableDiffusionPipeline:
    """Build the pipeline; every call returns the same weights."""
    tokenizer = build_tokenizer()
    unet = build_unet()
    torch.manual_seed(0)
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    ).eval()
    # Weights as drawn give nearly flat attention; larger projections make it vary, as training
    # does.
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                parameter.mul_(4)
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


PROMPTS = ["a photo of a car", "a photo of a potted plant"]


TOKENS = [[(5,)], [(5, 6)]]


def generate(
    pipeline: Any,
    prompts: Sequence[str] = PROMPTS,
    *,
    guidance_scale: float = 2.0,
    steps: int = 3,
    seeds: Sequence[int] | None = None,
    **kwargs: Any,
) -> Any:
    chosen = range(len(prompts)) if seeds is None else seeds
    return pipeline(
        prompt=list(prompts),
        generator=[torch.Generator().manual_seed(s) for s in chosen],
        num_inference_steps=steps,
        guidance_scale=guidance_scale,
        output_type="pt",
        **kwargs,
    ).images
