"""A small training to run the loop on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from seggen_core.errors import FoundationError
from seggen_core.training.loop import LoopSettings, Training, make_accelerator, train
from seggen_core.training.schedule import warmup_cosine

NUM_STEPS = 8


class Toy(torch.nn.Module):
    """A frozen layer, then convolutions with buffers that training changes, channels last."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen = torch.nn.Conv2d(3, 3, 1).requires_grad_(False)
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.BatchNorm2d(8), torch.nn.Conv2d(8, 1, 1)
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return float32 [B, 1, H, W]."""
        return self.layers(self.frozen(images))


def read(step: int) -> torch.Tensor:
    """Return the images of a step, float32 [4, 3, 6, 6]."""
    return torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(step))


def mean_square(module: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return the mean square of what the module makes of `images`, off a target."""
    return (module(images).float() - 1).square().mean()


def toy_training(module: torch.nn.Module, **changes: Any) -> Training[torch.Tensor]:
    """Describe the training of a toy."""
    arguments: dict[str, Any] = {
        "name": "toy",
        "module": module,
        "optimizer": torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1.0),
        "learning_rate": warmup_cosine(1e-2, warmup_steps=2, num_steps=NUM_STEPS),
        "read": read,
        "loss": mean_square,
        "error": FoundationError,
        "advice": "lower learning_rate",
    }
    return Training(**(arguments | changes))


def run_toy(
    folder: Path | None,
    *,
    kill_after: int | None = None,
    accumulation: int = 1,
    settings: dict[str, Any] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    **changes: Any,
) -> tuple[dict[str, torch.Tensor], list[tuple[int, dict[str, float]]], int]:
    """Train a fresh toy; return its weights, what was reported, and where the run resumed."""
    module = changes.pop("module", None) or Toy()
    reports: list[tuple[int, dict[str, float]]] = []

    def record(step: int, values: dict[str, float]) -> None:
        reports.append((step, values))
        if on_step is not None:
            on_step(step, values)
        if step == kill_after:
            raise KeyboardInterrupt

    defaults: dict[str, Any] = {
        "num_steps": NUM_STEPS,
        "max_grad_norm": 1.0,
        "ema_decay": 0.9,
        "checkpoint_every": 2,
    }
    first = train(
        toy_training(module, **changes),
        LoopSettings(**(defaults | (settings or {}))),
        accelerator=make_accelerator(torch.device("cpu"), accumulation=accumulation),
        state_folder=folder,
        on_step=record,
    )
    return module.state_dict(), reports, first
