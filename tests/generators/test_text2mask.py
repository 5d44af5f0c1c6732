from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seggen_core.config import SamplingConfig, Text2MaskConfig
from seggen_core.generators.foundation import load_pipeline
from seggen_core.generators.sampling import sample_images
from seggen_core.generators.text2mask import train_text2mask
from seggen_core.project.rng import torch_generator
from tests.attention.tiny_pipeline import build_pipeline
from tests.generators.tiny_sdxl import build_sdxl
from tests.generators.training_fixtures import CAPTIONS, IMAGE_SIZE, caches, color_map

CONFIG = Text2MaskConfig(
    num_steps=4,
    batch_size=2,
    learning_rate=1e-3,
    warmup_steps=1,
    checkpoint_every=2,
    precision="fp32",
)


def train(
    pipeline: Any,
    folder: Path,
    *,
    config: Text2MaskConfig = CONFIG,
    on_step: Callable[[int, dict], None] | None = None,
) -> list[float]:
    """Train `pipeline` on the three colour maps and return the losses."""
    maps, prompts = caches(pipeline, folder, read=color_map)
    losses: list[float] = []

    def record(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])
        if on_step is not None:
            on_step(step, metrics)

    train_text2mask(
        pipeline,
        config,
        seed=0,
        color_maps=maps,
        prompts=prompts,
        state_folder=folder / "state",
        on_step=record,
    )
    return losses


def draw(pipeline: Any) -> np.ndarray:
    return sample_images(
        pipeline,
        prompts=CAPTIONS[:2],
        generators=lambda i: torch_generator(0, i),
        config=SamplingConfig(num_inference_steps=2, micro_batch_size=2, precision="fp32"),
        image_size=IMAGE_SIZE,
    )


def test_it_learns_the_colour_maps(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    others = {
        k: v.clone()
        for part in (pipeline.vae, pipeline.text_encoder)
        for k, v in part.state_dict().items()
    }
    config = CONFIG.model_copy(
        update={"num_steps": 40, "batch_size": 4, "learning_rate": 4e-3, "checkpoint_every": 1000}
    )
    losses = train(pipeline, tmp_path, config=config)
    assert np.mean(losses[-8:]) < 0.7 * np.mean(losses[:4])
    after = {
        k: v for part in (pipeline.vae, pipeline.text_encoder) for k, v in part.state_dict().items()
    }
    assert all(torch.equal(after[k], others[k]) for k in others)
    assert (
        not any(p.requires_grad for p in pipeline.unet.parameters()) and not pipeline.unet.training
    )


def test_latents_are_scaled_to_unit_variance_and_the_pipeline_undoes_it(tmp_path: Path) -> None:
    pipeline, seen = build_pipeline(), []
    maps, _ = caches(pipeline, tmp_path, read=color_map)
    # The UNet sees alpha x + sigma noise; with the noise known, x can be had back.
    pipeline.unet.register_forward_pre_hook(
        lambda _, arguments: seen.append((arguments[0].clone(), arguments[1].clone()))
    )
    train(pipeline, tmp_path / "run", config=CONFIG.model_copy(update={"num_steps": 30}))
    alpha_bar = pipeline.scheduler.alphas_cumprod
    scaled = []
    for step, (noisy, timesteps) in enumerate(seen):
        noise = torch.randn(noisy.shape, generator=torch_generator(0, "text2mask", "noise", step))
        signal = alpha_bar[timesteps].sqrt()[:, None, None, None]
        clear = timesteps < 300
        scaled.append(((noisy - (1 - signal.square()).sqrt() * noise) / signal)[clear])
    assert torch.cat(scaled).std().item() == pytest.approx(1.0, abs=0.05)
    # scaling_factor is what diffusers divides by before decoding, and it is saved.
    assert pipeline.vae.config.scaling_factor == pytest.approx(1 / maps.std)
    pipeline.save_pretrained(tmp_path / "saved")
    again = load_pipeline(tmp_path / "saved")
    assert again.vae.config.scaling_factor == pipeline.vae.config.scaling_factor
    assert (draw(again) == draw(pipeline)).all()


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    def killed(step: int, _: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    whole, resumed = build_pipeline(), build_pipeline()
    losses = train(whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(build_pipeline(), tmp_path / "killed", on_step=killed)
    assert train(resumed, tmp_path / "killed") == losses[2:]
    weights = resumed.unet.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in whole.unet.state_dict().items())
    assert (draw(whole) == draw(resumed)).all()


def test_gradient_checkpointing_changes_no_number(tmp_path: Path) -> None:
    plain = train(build_pipeline(), tmp_path / "plain")
    saved = train(
        build_pipeline(),
        tmp_path / "saved",
        config=CONFIG.model_copy(update={"gradient_checkpointing": True}),
    )
    assert saved == plain


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_sdxl_needs_no_special_case(tmp_path: Path, kind: str) -> None:
    pipeline = build_sdxl(prediction_type=kind)
    before = {k: v.clone() for k, v in pipeline.unet.state_dict().items()}
    losses = train(pipeline, tmp_path, config=CONFIG.model_copy(update={"num_steps": 2}))
    assert len(losses) == 2 and all(0.1 < loss < 10 for loss in losses)
    after = pipeline.unet.state_dict()
    assert sum(not torch.equal(before[k], after[k]) for k in before) > 0.9 * len(before)
    pipeline.save_pretrained(tmp_path / "saved")
    images = draw(load_pipeline(tmp_path / "saved"))
    assert images.shape == (2, IMAGE_SIZE, IMAGE_SIZE, 3) and images.std() > 0
