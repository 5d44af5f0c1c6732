"""The attention layers of a Stable Diffusion UNet."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from seggen_core.errors import AttentionError

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


@dataclass(frozen=True)
class AttentionLayer:
    """One attention layer of a UNet.

    Attributes:
        name: dotted name of the module ("up_blocks.1.attentions.0.transformer_blocks.0.attn2").
        is_cross: cross-attention on the prompt, else self-attention.
        resolution: side of the feature map it works on.
    """

    name: str
    is_cross: bool
    resolution: int


def list_attention_layers(unet: Any, *, latent_size: int | None = None) -> list[AttentionLayer]:
    """List the attention layers of a UNet2DConditionModel.

    Args:
        unet: the network.
        latent_size: side of the square latents; None takes the network's own sample size.

    Raises:
        AttentionError: the network has no cross-attention, as text-to-image UNets have.
    """
    sizes = [latent_size or int(unet.config.sample_size)]
    for block in unet.down_blocks:
        sizes.append(
            math.ceil(sizes[-1] / 2) if getattr(block, "downsamplers", None) else sizes[-1]
        )
    layers = []
    for name, module in attention_modules(unet):
        place, _, rest = name.partition(".")
        index = int(rest.partition(".")[0]) if place in ("down_blocks", "up_blocks") else 0
        size = {
            "down_blocks": sizes[index],
            "mid_block": sizes[-1],
            "up_blocks": sizes[len(unet.up_blocks) - 1 - index],
        }[place]
        layers.append(AttentionLayer(name, module.is_cross_attention, size))
    return layers


def attention_modules(unet: Any) -> list[tuple[str, "Attention"]]:
    """Return (dotted name, module) of the attention layers; AttentionError as above."""
    from diffusers.models.attention_processor import Attention

    modules = [(name, m) for name, m in unet.named_modules() if isinstance(m, Attention)]
    if not any(m.is_cross_attention for _, m in modules):
        raise AttentionError(
            f"{type(unet).__name__} has no cross-attention layer (found {len(modules)} attention "
            "layers in all); masks from attention need the UNet2DConditionModel of a Stable "
            "Diffusion 1.x, 2.x or XL pipeline"
        )
    return modules
