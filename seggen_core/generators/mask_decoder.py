"""Fine-tuning of Text2Mask's decoder on colour maps, so that it forgives what a sampler leaves in the latents.

SegGen decodes with the foundation's own decoder, which has seen photographs. A sampler's latents of
a colour map differ from an encoder's: they are noisy, and at the outlines of segments they lie
between those of both sides, which decodes to colours that stand for no class or for a third one.
The decoder is therefore shown blurred and noisy latents, and asked for the clean map.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seggen_core.config import Text2MaskConfig
from seggen_core.generators.autoencoder import to_pixels
from seggen_core.generators.latent_cache import LatentCache
from seggen_core.project.rng import numpy_rng, torch_generator
from seggen_core.training.precision import autocast, resolve_precision
from seggen_core.training.read_ahead import read_ahead
from seggen_core.training.state import load_state, save_state

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


def degrade(latents: torch.Tensor, *, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Return `latents` [B, C, h, w] blurred and with noise, each sample by a random share of both.

    Blur mixes every latent with its 5x5 neighbourhood under a tent (a 3x3 mean taken twice), at
    weights uniform in [0, 1]; the standard deviation of the noise is uniform in [0, `noise`].
    """
    number = (len(latents), 1, 1, 1)
    smooth = latents
    for _ in range(2):
        smooth = functional.avg_pool2d(
            functional.pad(smooth, (1, 1, 1, 1), mode="replicate"), 3, stride=1
        )
    blurred = latents.lerp(smooth, torch.rand(number, generator=generator))
    return blurred + noise * torch.rand(number, generator=generator) * torch.randn(
        latents.shape, generator=generator
    )


def train_mask_decoder(
    vae: "AutoencoderKL",
    config: Text2MaskConfig,
    *,
    seed: int,
    color_maps: LatentCache,
    read_color_map: Callable[[int], np.ndarray],
    state_folder: Path,
    on_step: Callable[[int, dict[str, float]], None],
) -> None:
    """Train the decoder of `vae` in place for `config.decoder_steps` steps with an L1 loss; the encoder stays as it is.

    Each step shows one random half-size crop of every colour map of its batch. Interrupted, it goes
    on from its last saved state with the same numbers.

    Args:
        vae: on the device to train on.
        config: optimisation; `decoder_noise` is relative to the standard deviation of the colour
            maps' latents.
        seed: name of the random streams, with "text2mask-decoder".
        color_maps: their latents.
        read_color_map: returns colour map i, uint8 [H, W, 3].
        state_folder: where the state is saved and looked for.
        on_step: told (steps done, {"l1"}) after every step.
    """
    device = vae.device
    dtype = resolve_precision(config.precision, device)
    # fp16 would need a gradient scaler, and SDXL's decoder overflows in it.
    dtype = torch.float32 if dtype == torch.float16 else dtype
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    if vae.post_quant_conv is not None:
        vae.post_quant_conv.requires_grad_(True)
    parameters = [p for p in vae.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config.decoder_learning_rate, betas=(0.9, 0.99), weight_decay=0.0
    )
    first = load_state(state_folder, module=vae, average=[], optimizer=optimizer)
    number, _, _, height, width = color_maps.latents.shape
    crop_height, crop_width = max(1, height // 2), max(1, width // 2)

    def read(step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return crops of colour maps, [B, 3, H, W], and what a sampler would have made of their latents."""
        rng = numpy_rng(seed, "text2mask-decoder", "batch", step)
        positions = rng.integers(0, number, config.batch_size)
        flips = (rng.random(config.batch_size) < 0.5) & config.random_flip
        y, x = (
            int(rng.integers(0, height - crop_height + 1)),
            int(rng.integers(0, width - crop_width + 1)),
        )
        latents = color_maps.gather(positions, flips)[:, :, y : y + crop_height, x : x + crop_width]
        maps = [read_color_map(int(p)) for p in positions]
        maps = [m[:, ::-1] if flip else m for m, flip in zip(maps, flips, strict=True)]
        scale = maps[0].shape[0] // height
        window = np.s_[y * scale : (y + crop_height) * scale, x * scale : (x + crop_width) * scale]
        generator = torch_generator(seed, "text2mask-decoder", "noise", step)
        shown = degrade(latents, noise=config.decoder_noise * color_maps.std, generator=generator)
        return to_pixels(np.stack([m[window] for m in maps])), shown

    steps = range(first, config.decoder_steps)
    for step, (target, shown) in zip(
        steps, read_ahead(read, steps=steps, device=device), strict=True
    ):
        for group in optimizer.param_groups:
            group["lr"] = (
                config.decoder_learning_rate
                * min(1.0, (step + 1) / 20)
                * (1 - step / config.decoder_steps)
            )
        with autocast(device, dtype):
            decoded = vae.decode(shown.to(device)).sample
        loss = functional.l1_loss(decoded.float(), target.to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        on_step(step + 1, {"l1": loss.item()})
        if (step + 1) % config.checkpoint_every == 0:
            save_state(state_folder, step=step + 1, module=vae, average=[], optimizer=optimizer)
    vae.requires_grad_(False)
