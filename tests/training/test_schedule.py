import math
from collections.abc import Callable

import pytest
import torch

from seggen_core.training.schedule import (
    LearningRate,
    make_schedule,
    phases,
    polynomial,
    warmup_constant,
    warmup_constant_decay,
    warmup_cosine,
    warmup_cosine_to_floor,
    warmup_linear,
)

N = 40
FORMULAS: dict[str, tuple[LearningRate, Callable[[int], float]]] = {
    "cosine": (
        warmup_cosine(0.3, warmup_steps=5, num_steps=N),
        lambda t: 0.3 * min(1, (t + 1) / 5) * (1 + math.cos(math.pi * t / N)) / 2,
    ),
    "constant": (warmup_constant(0.3, warmup_steps=5), lambda t: 0.3 * min(1, (t + 1) / 5)),
    "no warm-up": (warmup_constant(0.3, warmup_steps=0), lambda t: 0.3),
    "floor": (
        warmup_cosine_to_floor(0.3, warmup_steps=5, num_steps=N),
        lambda t: 0.3 * min(1, (t + 1) / 5) * (0.02 + 0.98 * (1 + math.cos(math.pi * t / N)) / 2),
    ),
    "linear": (
        warmup_linear(0.3, warmup_steps=5, num_steps=N),
        lambda t: 0.3 * min(1, (t + 1) / 5) * (1 - t / N),
    ),
    "decay": (
        warmup_constant_decay(0.3, warmup_steps=5, decay_steps=10, num_steps=N),
        lambda t: 0.3 * ((t + 1) / 5 if t < 5 else 1 if t <= 30 else (N - t) / 10),
    ),
    "poly": (polynomial(0.3, num_steps=N), lambda t: 0.3 * (1 - t / N) ** 0.9),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_each_formula(name: str) -> None:
    learning_rate, by_hand = FORMULAS[name]
    rates = [learning_rate(step) for step in range(N)]
    assert rates == pytest.approx([by_hand(step) for step in range(N)])


@pytest.mark.parametrize("kind", ["cosine", "poly", "step"])
def test_each_phase_begins_again(kind: str) -> None:
    both = phases(0.3, kind=kind, warmup_steps=3, phase_lengths=(27, 54))
    first = phases(0.3, kind=kind, warmup_steps=3, phase_lengths=(27,))
    second = phases(0.3, kind=kind, warmup_steps=3, phase_lengths=(54,))
    assert [both(t) for t in range(81)] == [
        *(first(t) for t in range(27)),
        *(second(t) for t in range(54)),
    ]
    assert first(0) < first(2) and first(26) < 0.15 * max(first(t) for t in range(27))


def test_steps_fall_after_8_and_26_27ths() -> None:
    learning_rate = phases(1.0, kind="step", warmup_steps=0, phase_lengths=(27,))
    rates = [round(learning_rate(t), 6) for t in range(27)]
    assert rates == [1.0] * 24 + [0.1] * 2 + [0.01]


@pytest.mark.parametrize("first_step", [0, 7])
def test_groups_have_their_share_and_a_resumed_schedule_goes_on(first_step: int) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    optimizer = torch.optim.SGD(
        [{"params": parameters[0]}, {"params": parameters[1], "lr": 0.1}], 1
    )
    learning_rate = warmup_cosine(0.3, warmup_steps=5, num_steps=N)
    schedule = make_schedule(optimizer, learning_rate, first_step=first_step)
    for step in range(first_step, N):
        rate = learning_rate(step)
        assert [group["lr"] for group in optimizer.param_groups] == [rate, 0.1 * rate]
        optimizer.step()
        schedule.step()
