"""Training of the small AutoencoderKL that the embedded foundation works in."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from seggen_core.config import PretrainConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.pixels import to_pixels
from seggen_core.generators.pretrain_networks import loop_settings
from seggen_core.project.rng import derive_seed, numpy_rng, torch_generator
from seggen_core.scenes.stream import flat_colour_picture, stream_scene
from seggen_core.training.loop import OnStep, Training, adamw, train
from seggen_core.training.schedule import warmup_cosine_to_floor

if TYPE_CHECKING:
    from accelerate import Accelerator
    from diffusers import AutoencoderKL

_FLAT_SHARE = 0.3
"""Share of flat-colour pictures in a batch."""
_CROPPED_SHARE = 0.75
"""Share of the steps, the first ones, that see half-size crops."""
_NUM_SCALING_SCENES = 512


def build_autoencoder(config: PretrainConfig) -> "AutoencoderKL":
    """Build the autoencoder: a resolution level per entry of `autoencoder_channels`.

    So an image is f = 2 ** (levels - 1) times as large as its latents.
    """
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
    """Encode, sample and decode in one forward call: data-parallel wrappers see the whole of it."""

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


def _read_pictures(config: PretrainConfig, *, seed: int, first: int, cropped: bool) -> torch.Tensor:
    """Draw the pictures of a batch, float32 [B, 3, H, W] in [-1, 1], from index `first` on."""
    pictures = []
    for offset in range(config.batch_size):
        index = first + offset
        if offset < _FLAT_SHARE * config.batch_size:
            picture = flat_colour_picture(index, seed=seed, size=config.image_size)
        else:
            picture, _ = stream_scene(
                index,
                seed=seed,
                size=config.image_size,
                single_object_share=0.4,
                stuff_only_share=0.05,
            )
        if cropped:
            side = config.image_size // 2
            y, x = numpy_rng(seed, "autoencoder-crop", index).integers(
                0, config.image_size - side + 1, 2
            )
            picture = picture[y : y + side, x : x + side]
        pictures.append(picture)
    return to_pixels(np.stack(pictures))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Task:
    """What the autoencoder learns: pictures named by the step, and the loss on them."""

    config: PretrainConfig
    """The section of params.yaml."""
    seed: int
    """Names the streams of random numbers."""
    accelerator: "Accelerator"
    """The device and the precision."""
    parts: dict[str, float] = field(default_factory=dict)
    """The parts of the last loss."""

    def read(self, step: int) -> tuple[torch.Tensor, torch.Generator]:
        """Return the pictures of a step and the generator of its posterior's noise."""
        config, rank = self.config, self.accelerator.process_index
        pixels = _read_pictures(
            config,
            seed=self.seed,
            first=(step * self.accelerator.num_processes + rank) * config.batch_size,
            cropped=step / config.autoencoder_steps < _CROPPED_SHARE,
        )
        return pixels, torch_generator(self.seed, "autoencoder-noise", step, rank)

    def loss(
        self, module: torch.nn.Module, batch: tuple[torch.Tensor, torch.Generator]
    ) -> torch.Tensor:
        """Return L1 + L2 + KL."""
        pixels, generator = batch
        pixels = pixels.to(self.accelerator.device)
        reconstruction, mean, logvar = (output.float() for output in module(pixels, generator))
        error = reconstruction - pixels
        kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).mean()
        l1, l2 = error.abs().mean(), error.square().mean()
        psnr = -10 * np.log10(l2.item() / 4)
        self.parts.update(l1=l1.item(), psnr_db=float(psnr), kl=kl.item())
        return l1 + l2 + self.config.kl_weight * kl


def train_autoencoder(
    config: PretrainConfig,
    *,
    seed: int,
    accelerator: "Accelerator",
    state_folder: Path,
    on_step: OnStep,
) -> "AutoencoderKL":
    """Train on scenes and flat-colour pictures with L1 + L2 + KL, first on half-size crops.

    The loss is mean(|x - y|) + mean((x - y)^2) + kl_weight * mean KL per latent value. Weights are
    averaged over the last steps (decay 0.998); the mean and standard deviation of the latents of
    512 scenes set `scaling_factor`.

    Args:
        config: shape and optimisation.
        seed: name of the random streams.
        accelerator: where to train.
        state_folder: where states are saved and looked for.
        on_step: called after every step; its values also have "l1", "psnr_db" and "kl".
    """
    torch.manual_seed(derive_seed(seed, "autoencoder-init"))
    module = _Reconstruction(build_autoencoder(config))
    task = _Task(config=config, seed=seed, accelerator=accelerator)
    training = Training(
        name="autoencoder",
        module=module,
        optimizer=adamw(module, weight_decay=1e-4),
        learning_rate=warmup_cosine_to_floor(
            config.autoencoder_learning_rate, warmup_steps=100, num_steps=config.autoencoder_steps
        ),
        read=task.read,
        loss=task.loss,
        error=FoundationError,
        advice="lower foundation.pretrain.autoencoder_learning_rate or use precision: fp32",
    )
    train(
        training,
        loop_settings(
            config,
            num_steps=config.autoencoder_steps,
            ema_decay=0.998,
            device=accelerator.device,
        ),
        accelerator=accelerator,
        state_folder=state_folder,
        on_step=lambda step, values: on_step(step, values | task.parts),
    )
    set_scaling_factor(module.autoencoder, config, seed=seed)
    return module.autoencoder


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
        for i in range(_NUM_SCALING_SCENES)
    ]
    device = next(autoencoder.parameters()).device
    latents = torch.cat(
        [
            autoencoder.encode(to_pixels(np.stack(images[i : i + 32])).to(device)).latent_dist.mean
            for i in range(0, _NUM_SCALING_SCENES, 32)
        ]
    )
    autoencoder.register_to_config(scaling_factor=round(1.0 / latents.std().item(), 5))
