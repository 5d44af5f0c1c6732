"""Pretraining at a tiny size."""

from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import AutoencoderKL
from transformers import CLIPTokenizer

from seggen_core.config import PretrainConfig
from seggen_core.generators.pretrain import Pretraining, pretrain_foundation, train_unet

CONFIG = PretrainConfig(
    image_size=16,
    autoencoder_steps=4,
    autoencoder_channels=(8, 16),
    unet_steps=7,
    unet_decay_steps=2,
    unet_channels=(16, 32),
    text_width=16,
    batch_size=4,
    pool_size=70,  # no whole number of refreshes, so that the pool ends within a group
    refresh=3,
    precision="fp32",
)


SHARES = {"single_object_share": 0.5, "stuff_only_share": 0.06}


def unet_run(
    work: Path, folder: Path, accelerator: Accelerator, *, kill_after: int | None = None
) -> tuple[dict[str, torch.Tensor], dict[int, float]]:
    """Train UNet and text encoder on the parts in `work`; return weights and losses by step."""
    losses: dict[int, float] = {}

    def on_step(step: int, metrics: dict[str, float]) -> None:
        losses[step] = metrics["loss"]
        if step == kill_after:
            raise KeyboardInterrupt

    unet, text_encoder = train_unet(
        Pretraining(config=CONFIG, seed=0, accelerator=accelerator, work_folder=folder),
        vae=AutoencoderKL.from_pretrained(work / "work" / "vae").requires_grad_(False),
        tokenizer=CLIPTokenizer.from_pretrained(work / "work" / "tokenizer"),
        on_step=on_step,
    )
    return {
        f"{i}.{k}": v
        for i, part in enumerate((unet, text_encoder))
        for k, v in part.state_dict().items()
    }, losses


def pretrain_on_scenes(config: PretrainConfig, *, folder: Path, accelerator: Accelerator) -> None:
    """Pretrain on scenes into `folder`/out."""
    pretraining = Pretraining(
        config=config, seed=1, accelerator=accelerator, work_folder=folder / "work"
    )
    pretrain_foundation(pretraining, folder=folder / "out", on_step=lambda *_: None)
