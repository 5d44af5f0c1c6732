"""Low-rank adapters (LoRA, Hu et al. 2022) of a UNet, by peft, as diffusers trains and saves them.

The adapters are those of diffusers' own example (examples/text_to_image/
train_text_to_image_lora.py): on the queries, keys, values and outputs of every attention layer,
with Gaussian first weights and zeros behind them, so that an untrained adapter changes nothing.
"""

from pathlib import Path
from typing import Any

import torch

from seggen_core.config.generation import LoraConfig
from seggen_core.project.rng import torch_generator

_ATTENTION = ["to_q", "to_k", "to_v", "to_out.0"]
_FEED_FORWARD = ["ff.net.0.proj", "ff.net.2"]

LORA_FOLDER = "lora"
"""Below the folder of a pipeline: the adapters alone, for `load_lora_weights`."""


def add_lora(unet: Any, config: LoraConfig, *, seed: int) -> None:
    """Freeze a UNet and put adapters that require gradients on its layers.

    Args:
        unet: a diffusers UNet.
        config: rank, scale and layers.
        seed: of the first weights, together with each layer's name.
    """
    import peft

    unet.requires_grad_(False)
    layers = _ATTENTION + (_FEED_FORWARD if config.feed_forward else [])
    unet.add_adapter(
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha or config.rank,
            init_lora_weights="gaussian",
            target_modules=layers,
        )
    )
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if "lora_A" in name:  # drawn again by name; peft draws from torch's global generator
                generator = torch_generator(seed, "text2mask", "lora", name)
                values = torch.randn(parameter.shape, generator=generator) / config.rank
                parameter.copy_(values)


def save_lora(pipeline: Any, folder: Path) -> None:
    """Write the adapters of a pipeline's UNet as `pytorch_lora_weights.safetensors`."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft.utils import get_peft_model_state_dict

    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
    pipeline.save_lora_weights(folder, unet_lora_layers=layers, safe_serialization=True)


def merge_lora(unet: Any) -> None:
    """Add the adapters to the weights of the layers that they are on, and take them away."""
    unet.fuse_lora()
    unet.unload_lora()
    unet.requires_grad_(False)
