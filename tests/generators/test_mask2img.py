from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel

from seggen_core.config import DiffusionTrainingConfig, SamplingConfig
from seggen_core.generators.foundation import load_mask2img
from seggen_core.generators.mask2img import Triplets, build_controlnet, train_mask2img
from seggen_core.generators.sampling import sample_images
from seggen_core.project.rng import torch_generator
from tests.attention.tiny_pipeline import build_pipeline
from tests.generators.tiny_sdxl import build_sdxl
from tests.generators.training_fixtures import CAPTIONS, IMAGE_SIZE, caches, color_map, picture

CONFIG = DiffusionTrainingConfig(
    num_steps=4,
    batch_size=2,
    learning_rate=1e-3,
    warmup_steps=1,
    checkpoint_every=2,
    precision="fp32",
)


def start(pipeline: Any) -> ControlNetModel:
    torch.manual_seed(3)
    return build_controlnet(pipeline)


def train(
    pipeline: Any,
    controlnet: ControlNetModel,
    folder: Path,
    *,
    config: DiffusionTrainingConfig = CONFIG,
    kill_after: int | None = None,
    read: Callable[[int], np.ndarray] = picture,
) -> list[float]:
    """Train `controlnet` on the three pairs and return the losses."""
    images, prompts = caches(pipeline, folder, read=read)
    losses: list[float] = []

    def on_step(step: int, metrics: dict[str, float]) -> None:
        losses.append(metrics["loss"])
        if step == kill_after:
            raise KeyboardInterrupt

    train_mask2img(
        pipeline,
        controlnet,
        config,
        seed=0,
        triplets=Triplets(images=images, read_color_map=color_map, prompts=prompts),
        state_folder=folder / "state",
        on_step=on_step,
    )
    return losses


def draw(pipeline: Any, maps: list[np.ndarray]) -> np.ndarray:
    return sample_images(
        pipeline,
        prompts=[CAPTIONS[0]] * len(maps),
        generators=lambda _: torch_generator(0, "one noise for all"),
        config=SamplingConfig(num_inference_steps=2, micro_batch_size=2, precision="fp32"),
        image_size=IMAGE_SIZE,
        control_images=np.stack(maps),
    )


@pytest.mark.parametrize("build, factor", [(build_pipeline, 2), (build_sdxl, 4)], ids=["f2", "f4"])
def test_a_fresh_controlnet_is_the_foundations_encoder_and_changes_nothing(
    build: Callable[[], Any], factor: int
) -> None:
    pipeline = build()
    controlnet = start(pipeline)
    weights = pipeline.unet.state_dict()
    copied = [
        k
        for k in controlnet.state_dict()
        if k.startswith(("down_blocks", "mid_block", "conv_in", "time_embedding"))
    ]
    assert copied and all(torch.equal(controlnet.state_dict()[k], weights[k]) for k in copied)
    condition = controlnet.controlnet_cond_embedding(torch.rand(1, 3, IMAGE_SIZE, IMAGE_SIZE))
    assert condition.shape[-2:] == (IMAGE_SIZE // factor, IMAGE_SIZE // factor)
    zeros = [
        p
        for n, p in controlnet.named_parameters()
        if "controlnet_down_blocks" in n or "controlnet_mid_block" in n
    ]
    assert zeros and not any(p.any() for p in zeros)


def test_it_learns_and_the_foundation_stays_as_it_is(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    parts = {"unet": pipeline.unet, "vae": pipeline.vae, "text_encoder": pipeline.text_encoder}
    before = {
        name: {k: v.clone() for k, v in part.state_dict().items()} for name, part in parts.items()
    }
    config = CONFIG.model_copy(
        update={"num_steps": 40, "batch_size": 4, "learning_rate": 4e-3, "checkpoint_every": 1000}
    )
    controlnet = start(pipeline)
    losses = train(pipeline, controlnet, tmp_path, config=config)
    assert np.mean(losses[-8:]) < 0.9 * np.mean(losses[:4])
    for name, part in parts.items():
        assert all(torch.equal(v, before[name][k]) for k, v in part.state_dict().items())
        assert all(p.grad is None for p in part.parameters())
    assert not any(p.requires_grad for p in pipeline.unet.parameters())
    assert not any(p.requires_grad for p in controlnet.parameters()) and not controlnet.training
    assert pipeline.vae.config.scaling_factor == 0.18215


def test_flipped_latents_go_with_flipped_conditions_and_their_own_caption(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    controlnet, seen = start(pipeline), []

    def watch(_: torch.nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        seen.append(
            (
                arguments[0],
                arguments[1],
                keywords["controlnet_cond"],
                keywords["encoder_hidden_states"],
            )
        )

    controlnet.register_forward_pre_hook(watch, with_kwargs=True)
    # Trained on the colour maps themselves, so that latents and condition must show the same thing.
    config = CONFIG.model_copy(update={"num_steps": 12, "caption_dropout": 0.0})
    train(pipeline, controlnet, tmp_path, config=config, read=color_map)
    images, prompts = caches(pipeline, tmp_path / "again", read=color_map)
    sides = set()
    for step, (noisy, timesteps, condition, states) in enumerate(seen):
        noise = torch.randn(noisy.shape, generator=torch_generator(0, "mask2img", "noise", step))
        signal = pipeline.scheduler.alphas_cumprod[timesteps].sqrt()[:, None, None, None]
        latents = (
            (noisy - (1 - signal.square()).sqrt() * noise)
            / signal
            / pipeline.vae.config.scaling_factor
        )
        for b in range(len(noisy)):
            distances = {
                (p, f): (latents[b] - images.gather(np.array([p]), np.array([f]))[0]).abs().mean()
                for p in range(3)
                for f in (False, True)
            }
            p, f = min(distances, key=distances.__getitem__)
            shown = (condition[b] * 255).permute(1, 2, 0).numpy().astype(np.uint8)
            assert (shown == (color_map(p)[:, ::-1] if f else color_map(p))).all()
            wanted = prompts.gather(np.array([p]), np.array([False]), torch.device("cpu"))[
                "encoder_hidden_states"
            ][0]
            assert torch.equal(states[b], wanted)
            sides.add(f)
    assert sides == {False, True}


def test_a_killed_run_ends_in_the_same_bytes(tmp_path: Path) -> None:
    pipeline = build_pipeline()
    whole, killed, resumed = start(pipeline), start(pipeline), start(pipeline)
    losses = train(pipeline, whole, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(pipeline, killed, tmp_path / "killed", kill_after=3)
    assert train(pipeline, resumed, tmp_path / "killed") == losses[2:]
    weights = resumed.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in whole.state_dict().items())


def test_gradient_checkpointing_changes_no_number(tmp_path: Path) -> None:
    losses = []
    for on in (False, True):
        pipeline = build_pipeline()
        config = CONFIG.model_copy(update={"gradient_checkpointing": on})
        losses.append(train(pipeline, start(pipeline), tmp_path / str(on), config=config))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("build", [build_pipeline, build_sdxl], ids=["sd", "sdxl"])
def test_any_foundation_is_trained_saved_and_sampled_alike(
    build: Callable[[], Any], tmp_path: Path
) -> None:
    pipeline = build()
    pipeline.save_pretrained(tmp_path / "foundation")
    controlnet = start(pipeline)
    losses = train(
        pipeline,
        controlnet,
        tmp_path,
        config=CONFIG.model_copy(update={"num_steps": 2, "learning_rate": 0.05}),
    )
    assert len(losses) == 2 and all(0.05 < loss < 10 for loss in losses)
    controlnet.save_pretrained(tmp_path / "mask2img")
    mask2img = load_mask2img(tmp_path / "foundation", tmp_path / "mask2img")
    same, other = (
        draw(mask2img, [color_map(0), color_map(0)]),
        draw(mask2img, [color_map(0), color_map(2)]),
    )
    assert (same[0] == other[0]).all() and (other[0] != other[1]).any()  # the condition shows
