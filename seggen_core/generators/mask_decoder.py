"""Fine-tuning of Text2Mask's decoder on colour maps, so that it tolerates a sampler's latents.

SegGen decodes with the foundation's own decoder, which has seen photographs. A sampler's latents of
a colour map differ from an encoder's: they are noisy, and at the outlines of segments they lie
between those of both sides, which decodes to colours that stand for no class or for a third one.
The decoder is therefore shown blurred and noisy latents, and asked for the clean map.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from seggen_core.config import Text2MaskConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.latent_cache import LatentCache
from seggen_core.generators.pixels import read_flipped, to_pixels
from seggen_core.project.rng import numpy_rng, torch_generator
from seggen_core.training.loop import LoopSettings, OnStep, Training, adamw, train
from seggen_core.training.precision import resolve_precision
from seggen_core.training.schedule import warmup_linear

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

_STREAM = "text2mask-decoder"
_WARMUP_STEPS = 20


def degrade(latents: torch.Tensor, *, noise: float, generator: torch.Generator) -> torch.Tensor:
    """Return `latents` [B, C, h, w] blurred and with noise, each sample by a random share of both.

    Blur mixes every latent with its 5x5 neighbourhood under a tent (a 3x3 mean taken twice), at
    weights uniform in [0, 1]; the standard deviation of the noise is uniform in [0, `noise`].
    """
    shares = (len(latents), 1, 1, 1)
    smooth = latents
    for _ in range(2):
        smooth = functional.avg_pool2d(
            functional.pad(smooth, (1, 1, 1, 1), mode="replicate"), 3, stride=1
        )
    blurred = latents.lerp(smooth, torch.rand(shares, generator=generator))
    return blurred + noise * torch.rand(shares, generator=generator) * torch.randn(
        latents.shape, generator=generator
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class ColorMapCrops:
    """Random half-size crops of colour maps, clean and degraded.

    Attributes:
        latents: of the colour maps.
        read_color_map: returns colour map i, uint8 [H, W, 3].
        config: `batch_size`, `random_flip`, and `decoder_noise`, which is relative to the standard
            deviation of the latents.
        seed: name of the random streams, with "text2mask-decoder".
    """

    latents: LatentCache
    read_color_map: Callable[[int], np.ndarray]
    config: Text2MaskConfig
    seed: int

    def read(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the crops of a step, one of every map of its batch.

        Returns:
            The crops, float32 [B, 3, H, W] in [-1, 1], and the latents of the same windows as a
            sampler would have left them, float32 [B, C, h, w].
        """
        config = self.config
        num_maps, _, _, height, width = self.latents.latents.shape
        crop_height, crop_width = max(1, height // 2), max(1, width // 2)
        rng = numpy_rng(self.seed, _STREAM, "batch", step)
        positions = rng.integers(0, num_maps, config.batch_size)
        flips = (rng.random(config.batch_size) < 0.5) & config.random_flip
        y = int(rng.integers(0, height - crop_height + 1))
        x = int(rng.integers(0, width - crop_width + 1))
        latents = self.latents.gather(positions, flips)
        latents = latents[:, :, y : y + crop_height, x : x + crop_width]
        maps = read_flipped(self.read_color_map, positions, flips)
        scale = maps.shape[1] // height
        rows = slice(y * scale, (y + crop_height) * scale)
        columns = slice(x * scale, (x + crop_width) * scale)
        degraded = degrade(
            latents,
            noise=config.decoder_noise * self.latents.std,
            generator=torch_generator(self.seed, _STREAM, "noise", step),
        )
        return to_pixels(maps[:, rows, columns]), degraded


class _Decoder(torch.nn.Module):
    """Decode in one forward call, so that data-parallel wrappers see the whole of it."""

    def __init__(self, vae: "AutoencoderKL") -> None:
        super().__init__()
        self.vae = vae

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Return images float32 [B, 3, H, W] of latents [B, C, h, w]."""
        return self.vae.decode(latents).sample


def train_mask_decoder(
    vae: "AutoencoderKL", crops: ColorMapCrops, *, state_folder: Path, on_step: OnStep
) -> None:
    """Train the decoder of `vae` in place with an L1 loss; the encoder stays as it is.

    It is trained for `config.decoder_steps` steps. Interrupted, it goes on from its last saved
    state with the same numbers.

    Args:
        vae: on the device to train on.
        crops: what it is trained on, and its optimisation.
        state_folder: where the state is saved and looked for.
        on_step: called after every step.
    """
    config, device = crops.config, vae.device
    dtype = resolve_precision(config.precision, device)
    vae.requires_grad_(False)
    vae.decoder.requires_grad_(True)
    if vae.post_quant_conv is not None:
        vae.post_quant_conv.requires_grad_(True)

    def loss(module: torch.nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        target, degraded = (tensor.to(device) for tensor in batch)
        return functional.l1_loss(module(degraded).float(), target)

    training = Training(
        name=_STREAM,
        module=_Decoder(vae),
        optimizer=adamw(vae, weight_decay=0.0),
        learning_rate=warmup_linear(
            config.decoder_learning_rate,
            warmup_steps=_WARMUP_STEPS,
            num_steps=config.decoder_steps,
        ),
        read=crops.read,
        loss=loss,
        error=FoundationError,
        advice="lower text2mask.decoder_learning_rate or use precision: fp32",
    )
    settings = LoopSettings(
        num_steps=config.decoder_steps,
        max_grad_norm=config.max_grad_norm,
        # SDXL's decoder overflows in float16.
        dtype=torch.float32 if dtype == torch.float16 else dtype,
        checkpoint_every=config.checkpoint_every,
    )
    train(training, settings, state_folder=state_folder, on_step=on_step)
    vae.requires_grad_(False)
