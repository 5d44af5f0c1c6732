from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seggen_core.colors.code import ColorCode
from seggen_core.config import Text2MaskConfig
from seggen_core.generators.latent_cache import cache_latents
from seggen_core.generators.mask_decoder import ColorMapCrops, degrade, train_mask_decoder
from seggen_core.generators.pixels import to_pixels
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.taxonomy import IGNORE_INDEX
from tests.attention.tiny_pipeline import build_pipeline
from tests.generators.training_fixtures import caches, color_map

CONFIG = Text2MaskConfig(
    num_steps=1,
    batch_size=4,
    decoder_steps=6,
    decoder_learning_rate=3e-3,
    checkpoint_every=2,
    precision="fp32",
)


def train(
    vae: Any, folder: Path, *, config: Text2MaskConfig = CONFIG, kill_after: int | None = None
) -> list[float]:
    """Train the decoder of `vae` on the three colour maps and return the losses."""
    maps, _ = caches(build_pipeline(), folder, read=color_map)
    losses = []

    def on_step(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])
        if step == kill_after:
            raise KeyboardInterrupt

    train_mask_decoder(
        vae,
        ColorMapCrops(latents=maps, read_color_map=color_map, config=config, seed=0),
        state_folder=folder / "state",
        on_step=on_step,
    )
    return losses


def test_latents_are_blurred_and_noisy_each_by_its_own_share() -> None:
    edge = torch.zeros(64, 1, 8, 8)
    edge[..., 4:] = 1.0
    blurred = degrade(edge, noise=0.0, generator=torch.Generator().manual_seed(0))
    # One latent left of the edge: a third of the mean of its neighbourhood lies right of it.
    left = blurred[:, 0, 3, 3]
    assert left.min() >= 0 and left.max() <= 1 / 3 + 1e-6 and left.max() - left.min() > 0.2
    assert torch.equal(blurred[:, 0, :, :2], edge[:, 0, :, :2])
    noisy = degrade(
        torch.zeros(400, 4, 8, 8), noise=0.5, generator=torch.Generator().manual_seed(0)
    ).std(dim=(1, 2, 3))
    assert (
        noisy.max() < 0.6 and noisy.min() < 0.05 and noisy.mean() == pytest.approx(0.25, abs=0.03)
    )


def test_it_learns_to_draw_clean_maps_from_degraded_latents(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    before = {k: v.clone() for k, v in pipeline.vae.state_dict().items()}
    pixels = to_pixels(np.stack([color_map(i) for i in range(3)]))

    def error() -> float:
        with torch.no_grad():
            latents = pipeline.vae.encode(pixels).latent_dist.mean
            noisy = degrade(
                latents,
                noise=0.3 * latents.std().item(),
                generator=torch.Generator().manual_seed(5),
            )
            return (pipeline.vae.decode(noisy).sample - pixels).abs().mean().item()

    first = error()
    train(pipeline.vae, tmp_path, config=CONFIG.model_copy(update={"decoder_steps": 60}))
    assert error() < 0.8 * first
    after = pipeline.vae.state_dict()
    assert {k.split(".")[0] for k in before if not torch.equal(before[k], after[k])} == {
        "decoder",
        "post_quant_conv",
    }
    assert not any(p.requires_grad for p in pipeline.vae.parameters())


def test_the_colour_of_void_is_learnt_like_the_others(tmp_path: Path) -> None:
    from diffusers import AutoencoderKL

    code = ColorCode(SCENES_TAXONOMY, kind="semantic")
    rng = np.random.default_rng(0)
    ids = np.append(np.arange(8), IGNORE_INDEX)[rng.integers(0, 9, (2, 8, 8))]
    masks = np.kron(ids, np.ones((8, 8), np.int64)).astype(np.uint8)
    painted = [code.encode(mask, instance_map=None) for mask in masks]
    vae: Any = AutoencoderKL.from_pretrained("profiles/scenes/foundation/vae")
    maps = cache_latents(
        vae,
        read_image=painted.__getitem__,
        num_images=2,
        file=tmp_path / "latents.npy",
        batch_size=2,
    )
    changes = {"batch_size": 2, "decoder_steps": 8, "decoder_learning_rate": 1e-3}
    config = CONFIG.model_copy(update=changes)
    train_mask_decoder(
        vae,
        ColorMapCrops(latents=maps, read_color_map=painted.__getitem__, config=config, seed=0),
        state_folder=tmp_path / "state",
        on_step=lambda *_: None,
    )
    with torch.no_grad():
        latents = vae.encode(to_pixels(np.stack(painted))).latent_dist.mean
        generator = torch.Generator().manual_seed(5)
        noisy = degrade(latents, noise=0.1 * latents.std().item(), generator=generator)
        drawn = (127.5 * (vae.decode(noisy).sample.clamp(-1, 1) + 1)).round().to(torch.uint8)
    decoded = code.decode(drawn.permute(0, 2, 3, 1).numpy()).segmentation_maps
    shares = {int(c): float((decoded[masks == c] == c).mean()) for c in np.unique(masks)}
    void = shares.pop(IGNORE_INDEX)
    assert void > 0.9 and void > np.mean(list(shares.values())) - 0.05


def test_an_interrupted_run_ends_in_the_same_weights(tmp_path: Path) -> None:
    whole, killed = build_pipeline().vae, build_pipeline().vae
    losses = train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(killed, tmp_path / "killed", kill_after=5)
    resumed = build_pipeline().vae
    assert train(resumed, tmp_path / "killed") == losses[4:]
    assert all(torch.equal(v, resumed.state_dict()[k]) for k, v in whole.state_dict().items())
