import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.errors import FoundationError
from seggen_core.generators.fine_tuning import Denoiser, NoisyBatch, denoising_target, fine_tune
from seggen_core.project.rng import torch_generator

SCHEDULE = {
    "num_train_timesteps": 100,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
# Like latents of pictures: most of their variance is shared.
LATENTS = torch.tensor([1.5, -1.0, 0.5, -2.0])[:, None, None] + 0.3 * torch.randn(
    6, 4, 4, 4, generator=torch.Generator().manual_seed(1)
)
CONFIG = DiffusionTrainingConfig(
    num_steps=8,
    batch_size=4,
    learning_rate=1e-2,
    warmup_steps=2,
    checkpoint_every=4,
    precision="fp32",
)


class Toy(torch.nn.Module):
    """A denoiser of a few hundred parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(5, 16, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv2d(16, 4, 1)
        )

    def forward(self, noisy: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        time = (timesteps / 100)[:, None, None, None].expand(-1, 1, *noisy.shape[2:])
        return self.layers(torch.cat([noisy, time], dim=1))


def train(
    folder: Path,
    *,
    config: DiffusionTrainingConfig = CONFIG,
    seed: int = 0,
    name: str = "toy",
    kill_after: int | None = None,
    schedule: dict[str, Any] | None = None,
    seen: list[tuple] | None = None,
) -> tuple[dict[str, torch.Tensor], list[float], int]:
    """Train a fresh toy; return its weights, the losses, and the step that it resumed from."""
    module, losses, steps = Toy(), [], []

    def read_latents(positions: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        return torch.stack(
            [
                LATENTS[p].flip(-1) if f else LATENTS[p]
                for p, f in zip(positions, flips, strict=True)
            ]
        )

    def read_condition(_: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(flips)

    def predict(module: torch.nn.Module, batch: NoisyBatch) -> torch.Tensor:
        assert batch.condition is not None
        if seen is not None:
            flips = batch.condition.numpy()
            seen.append((batch.noisy, batch.timesteps, batch.positions, flips, batch.dropped))
        return module(batch.noisy, batch.timesteps)

    def on_step(step: int, metrics: dict[str, float]) -> None:
        steps.append(step)
        losses.append(metrics["loss"])
        if step == kill_after:
            raise KeyboardInterrupt

    denoiser = Denoiser(
        name=name,
        module=module,
        predict=predict,
        scheduler_config=DDPMScheduler(**(SCHEDULE | (schedule or {}))).config,
        num_samples=len(LATENTS),
        read_latents=read_latents,
        read_condition=read_condition,
    )
    first = fine_tune(denoiser, config, seed=seed, state_folder=folder, on_step=on_step)
    assert steps == list(range(first + 1, config.num_steps + 1)) and not module.training
    return module.state_dict(), losses, first


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_targets_are_the_formulas(kind: str) -> None:
    schedule = DDPMScheduler(**SCHEDULE, prediction_type=kind)
    generator = torch.Generator().manual_seed(0)
    latents, noise = (
        torch.randn(3, 4, 2, 2, generator=generator),
        torch.randn(3, 4, 2, 2, generator=generator),
    )
    timesteps = torch.tensor([0, 50, 99])
    target = denoising_target(schedule, latents=latents, noise=noise, timesteps=timesteps)
    # Scaled-linear betas: beta_t = (sqrt(start) + t / (T - 1) (sqrt(end) - sqrt(start)))^2,
    # alpha_bar_t = prod(1 - beta).
    low, high = math.sqrt(0.00085), math.sqrt(0.012)
    alpha_bar = np.cumprod([1 - (low + t / 99 * (high - low)) ** 2 for t in range(100)])
    for b, t in enumerate(timesteps.tolist()):
        signal, spread = math.sqrt(alpha_bar[t]), math.sqrt(1 - alpha_bar[t])
        by_hand = {
            "epsilon": noise[b],
            "v_prediction": signal * noise[b] - spread * latents[b],
            "sample": latents[b],
        }[kind]
        torch.testing.assert_close(target[b], by_hand, rtol=1e-4, atol=1e-5)
        noisy = schedule.add_noise(latents, noise, timesteps)[b]
        torch.testing.assert_close(
            noisy, signal * latents[b] + spread * noise[b], rtol=1e-4, atol=1e-5
        )


def test_an_unknown_prediction_type_is_refused() -> None:
    schedule = DDPMScheduler(**SCHEDULE)
    schedule.register_to_config(prediction_type="flow")
    with pytest.raises(
        FoundationError, match="prediction_type 'flow'; known: epsilon, v_prediction, sample"
    ):
        denoising_target(schedule, latents=LATENTS, noise=LATENTS, timesteps=torch.tensor([0]))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_the_loss_falls(tmp_path: Path, kind: str) -> None:
    config = CONFIG.model_copy(
        update={"num_steps": 120, "batch_size": 16, "checkpoint_every": 1000}
    )
    _, losses, first = train(tmp_path, config=config, schedule={"prediction_type": kind})
    assert first == 0 and len(losses) == 120
    assert np.mean(losses[-20:]) < 0.8 * np.mean(losses[:5])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("ema_decay", [0.9, 0.0])
def test_a_killed_run_ends_in_the_same_bytes(
    tmp_path: Path, precision: str, ema_decay: float
) -> None:
    config = CONFIG.model_copy(update={"precision": precision, "ema_decay": ema_decay})
    whole, losses, _ = train(tmp_path / "whole", config=config)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", config=config, kill_after=6)
    resumed, last_losses, first = train(tmp_path / "killed", config=config)
    assert first == 4 and last_losses == losses[4:]
    assert all(torch.equal(resumed[k], whole[k]) for k in whole)


def test_a_finished_run_trains_no_further(tmp_path: Path) -> None:
    whole, _, _ = train(tmp_path)
    again, losses, first = train(tmp_path)
    assert first == 8 and losses == [] and all(torch.equal(again[k], whole[k]) for k in whole)


def test_draws_depend_on_seed_name_and_step(tmp_path: Path) -> None:
    runs: dict[str, list[tuple]] = {}
    for label, seed, name in (
        ("a", 0, "toy"),
        ("same", 0, "toy"),
        ("seed", 1, "toy"),
        ("name", 0, "other"),
    ):
        train(tmp_path / label, seed=seed, name=name, seen=runs.setdefault(label, []))
    noises = {label: seen[0][0] for label, seen in runs.items()}
    assert torch.equal(noises["a"], noises["same"])
    assert not torch.equal(noises["a"], noises["seed"]) and not torch.equal(
        noises["a"], noises["name"]
    )
    assert not torch.equal(runs["a"][0][0], runs["a"][1][0])


def test_noise_is_added_to_the_very_samples_that_are_named(tmp_path: Path) -> None:
    seen: list[tuple] = []
    config = CONFIG.model_copy(update={"num_steps": 30, "caption_dropout": 0.3})
    train(tmp_path, config=config, seed=5, seen=seen)
    schedule = DDPMScheduler(**SCHEDULE)
    for step, (noisy, timesteps, positions, flips, _) in enumerate(seen):
        noise = torch.randn(noisy.shape, generator=torch_generator(5, "toy", "noise", step))
        latents = torch.stack(
            [
                LATENTS[p].flip(-1) if f else LATENTS[p]
                for p, f in zip(positions, flips, strict=True)
            ]
        )
        torch.testing.assert_close(noisy, schedule.add_noise(latents, noise, timesteps))
    positions, flips, dropped = (np.concatenate([s[i] for s in seen]) for i in (2, 3, 4))
    assert (
        set(positions) == set(range(6))
        and 0.35 < flips.mean() < 0.65
        and 0.15 < dropped.mean() < 0.45
    )
    assert (
        0 <= min(int(s[1].min()) for s in seen) < 20
        and 80 < max(int(s[1].max()) for s in seen) < 100
    )


def test_flips_can_be_turned_off(tmp_path: Path) -> None:
    seen: list[tuple] = []
    train(tmp_path, config=CONFIG.model_copy(update={"random_flip": False}), seen=seen)
    assert not np.concatenate([s[3] for s in seen]).any()


def test_the_averaged_weights_are_left_in_the_module(tmp_path: Path) -> None:
    config = CONFIG.model_copy(
        update={"num_steps": 1, "warmup_steps": 0, "lr_scheduler": "constant"}
    )
    last, _, _ = train(tmp_path / "last", config=config.model_copy(update={"ema_decay": 0.0}))
    mean, _, _ = train(tmp_path / "mean", config=config.model_copy(update={"ema_decay": 0.9}))
    first = Toy().state_dict()
    # After one step the decay is still min(0.9, 1 / 10).
    for key in first:
        torch.testing.assert_close(
            mean[key], 0.1 * first[key] + 0.9 * last[key], rtol=1e-4, atol=1e-6
        )
        assert not torch.equal(last[key], first[key])


def test_the_learning_rate_warms_up_and_falls_to_zero(tmp_path: Path) -> None:
    rates: dict[str, list[float]] = {"cosine": [], "constant": []}
    for kind, learning_rates in rates.items():
        config = CONFIG.model_copy(update={"lr_scheduler": kind, "warmup_steps": 2})
        denoiser = Denoiser(
            name="toy",
            module=Toy(),
            predict=lambda module, batch: module(batch.noisy, batch.timesteps),
            scheduler_config=DDPMScheduler(**SCHEDULE).config,
            num_samples=6,
            read_latents=lambda positions, _: LATENTS[positions],
        )
        fine_tune(
            denoiser,
            config,
            seed=0,
            state_folder=tmp_path / kind,
            on_step=lambda _, metrics, learning_rates=learning_rates: learning_rates.append(
                metrics["learning_rate"]
            ),
        )
    assert rates["constant"] == pytest.approx([0.005] + [0.01] * 7)
    assert rates["cosine"] == pytest.approx(
        [0.005, *(0.005 * (1 + math.cos(math.pi * k / 8)) for k in range(1, 8))]
    )


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"learning_rate": 1e30, "warmup_steps": 0})
    with pytest.raises(
        FoundationError, match=r"toy: the loss is (nan|inf) at step \d; lower learning_rate"
    ):
        train(tmp_path, config=config)
