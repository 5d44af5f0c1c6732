"""Training of the small AutoencoderKL that the embedded foundation works in."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch

from seggen_core.config import PretrainConfig
from seggen_core.project.rng import derive_seed, numpy_rng
from seggen_core.scenes.stream import flat_colour_picture, stream_scene

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import AutoencoderKL


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Turn uint8 images [B, H, W, 3] into float32 [B, 3, H, W] in [-1, 1]."""
    return (
        torch.from_numpy(np.ascontiguousarray(images))
        .permute(0, 3, 1, 2)
        .float()
        .div_(127.5)
        .sub_(1.0)
    )


def build_autoencoder(config: PretrainConfig) -> "AutoencoderKL":
    """Build the autoencoder: one resolution level per entry of `autoencoder_channels`, so f = 2 ** (levels - 1)."""
    from diffusers import AutoencoderKL

    levels = len(config.autoencoder_channels)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=config.autoencoder_channels,
        layers_per_block=1,
        latent_channels=config.latent_channels,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=config.image_size,
    )
    # A narrow posterior from the start: at unit variance the decoder sees little but noise for
    # hundreds of steps.
    with torch.no_grad():
        autoencoder.quant_conv.bias[config.latent_channels :] = -5.0
        autoencoder.quant_conv.weight[config.latent_channels :] *= 0.1
    return autoencoder


class _Reconstruction(torch.nn.Module):
    """Encode, sample and decode in one forward call, so that data-parallel wrappers see the whole of it."""

    def __init__(self, autoencoder: "AutoencoderKL") -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(
        self, pixels: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the reconstruction of `pixels` and the posterior's mean and log variance."""
        posterior = self.autoencoder.encode(pixels).latent_dist
        return (
            self.autoencoder.decode(posterior.sample(generator)).sample,
            posterior.mean,
            posterior.logvar,
        )


def _batch(config: PretrainConfig, *, seed: int, first: int, crop: int | None) -> torch.Tensor:
    pictures = []
    for offset in range(config.batch_size):
        index = first + offset
        if offset < 0.3 * config.batch_size:
            picture = flat_colour_picture(index, seed=seed, size=config.image_size)
        else:
            picture, _ = stream_scene(
                index,
                seed=seed,
                size=config.image_size,
                single_object_share=0.4,
                stuff_only_share=0.05,
            )
        if crop is not None:
            y, x = numpy_rng(seed, "autoencoder-crop", index).integers(
                0, config.image_size - crop + 1, 2
            )
            picture = picture[y : y + crop, x : x + crop]
        pictures.append(picture)
    return to_pixels(np.stack(pictures))


def train_autoencoder(
    config: PretrainConfig,
    *,
    seed: int,
    accelerator: "Accelerator",
    on_step: Callable[[int, dict[str, float]], None],
) -> "AutoencoderKL":
    """Train on scenes and flat-colour pictures with L1 + L2 + KL, half-size crops for the first three quarters.

    The loss is mean(|x - y|) + mean((x - y)^2) + kl_weight * mean KL per latent value. Weights are averaged over the last
    steps (decay 0.998); the mean and standard deviation of the latents of 512 scenes set `scaling_factor`.
    """
    torch.manual_seed(derive_seed(seed, "autoencoder-init"))
    module = _Reconstruction(build_autoencoder(config))
    optimizer = torch.optim.AdamW(
        module.parameters(),
        lr=config.autoencoder_learning_rate,
        betas=(0.9, 0.99),
        weight_decay=1e-4,
    )
    prepared, optimizer = accelerator.prepare(module, optimizer)
    average = [p.detach().clone() for p in module.parameters()]
    rank, world = accelerator.process_index, accelerator.num_processes
    for step in range(config.autoencoder_steps):
        done = step / config.autoencoder_steps
        factor = min(1.0, (step + 1) / 100) * (0.02 + 0.49 * (1 + np.cos(np.pi * done)))
        for group in optimizer.param_groups:
            group["lr"] = config.autoencoder_learning_rate * factor
        crop = config.image_size // 2 if done < 0.75 else None
        pixels = _batch(
            config, seed=seed, first=(step * world + rank) * config.batch_size, crop=crop
        ).to(accelerator.device)
        generator = torch.Generator().manual_seed(
            derive_seed(seed, "autoencoder-noise", step, rank)
        )
        with accelerator.autocast():
            reconstruction, mean, logvar = prepared(pixels, generator)
        error = reconstruction.float() - pixels
        kl = 0.5 * (mean.float().square() + logvar.float().exp() - 1 - logvar.float()).mean()
        loss = error.abs().mean() + error.square().mean() + config.kl_weight * kl
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(
                average, list(module.parameters()), 1 - min(0.998, (step + 1) / (step + 11))
            )
        on_step(
            step,
            {
                "l1": error.abs().mean().item(),
                "psnr_db": -10 * np.log10(error.square().mean().item() / 4),
                "kl": kl.item(),
            },
        )
    autoencoder = accelerator.unwrap_model(prepared).autoencoder.eval()
    with torch.no_grad():
        for parameter, mean_value in zip(module.parameters(), average, strict=True):
            parameter.copy_(mean_value)
    set_scaling_factor(autoencoder, config, seed=seed)
    return autoencoder


@torch.no_grad()
def set_scaling_factor(autoencoder: "AutoencoderKL", config: PretrainConfig, *, seed: int) -> None:
    """Set `config.scaling_factor` so that the latents of scenes have unit standard deviation."""
    images = [
        stream_scene(
            -1 - i,
            seed=seed,
            size=config.image_size,
            single_object_share=0.5,
            stuff_only_share=0.05,
        )[0]
        for i in range(512)
    ]
    device = next(autoencoder.parameters()).device
    latents = torch.cat(
        [
            autoencoder.encode(to_pixels(np.stack(images[i : i + 32])).to(device)).latent_dist.mean
            for i in range(0, 512, 32)
        ]
    )
    autoencoder.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 5))
