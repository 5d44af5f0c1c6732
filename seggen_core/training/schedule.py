"""Learning rates: functions of the step, which torch's `LambdaLR` gives to the optimiser.

Each returns the learning rate of a step (counted from 0). Since the rate is a function of the step
alone, a resumed training needs no state of its schedule.
"""

import math
import warnings
from collections.abc import Callable, Sequence

import torch
from torch.optim.lr_scheduler import LambdaLR

LearningRate = Callable[[int], float]
"""(step, counted from 0) -> learning rate."""


def make_schedule(
    optimizer: torch.optim.Optimizer, learning_rate: LearningRate, *, first_step: int
) -> LambdaLR:
    """Set the learning rate of `first_step` and return what `advance` moves on to the next one.

    The initial "lr" of a parameter group multiplies `learning_rate`: 1.0, or less for a
    group that is to learn more slowly.
    """
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return LambdaLR(optimizer, learning_rate, last_epoch=first_step - 1)


def advance(schedule: LambdaLR) -> None:
    """Set the learning rate of the next step."""
    with warnings.catch_warnings():
        # Where the gradient scaler skips the first update, torch takes the order of calls for
        # wrong. The rate depends on the step alone, skipped or not.
        warnings.filterwarnings("ignore", r"Detected call of `lr_scheduler\.step\(\)` before")
        schedule.step()


def warmup_share(step: int, *, warmup_steps: int) -> float:
    """Return the linear warm-up's factor, ``(step + 1) / warmup_steps`` and 1 at most."""
    return min(1.0, (step + 1) / max(1, warmup_steps))


def warmup_cosine(peak: float, *, warmup_steps: int, num_steps: int) -> LearningRate:
    """Return warm-up times half a cosine wave, from `peak` to 0 over `num_steps`."""
    return lambda step: (
        peak
        * (
            warmup_share(step, warmup_steps=warmup_steps)
            * (0.5 * (1 + math.cos(math.pi * step / num_steps)))
        )
    )


def warmup_constant(peak: float, *, warmup_steps: int) -> LearningRate:
    """Return warm-up to `peak`, which then stays."""
    return lambda step: peak * warmup_share(step, warmup_steps=warmup_steps)


def warmup_cosine_to_floor(peak: float, *, warmup_steps: int, num_steps: int) -> LearningRate:
    """Return warm-up times half a cosine wave, from `peak` to a fiftieth of it over `num_steps`."""
    return lambda step: (
        peak
        * (
            warmup_share(step, warmup_steps=warmup_steps)
            * (0.02 + 0.49 * (1 + math.cos(math.pi * (step / num_steps))))
        )
    )


def warmup_linear(peak: float, *, warmup_steps: int, num_steps: int) -> LearningRate:
    """Return warm-up times a straight fall from `peak` to 0 over `num_steps`."""
    return lambda step: (
        peak * warmup_share(step, warmup_steps=warmup_steps) * (1 - step / num_steps)
    )


def warmup_constant_decay(
    peak: float, *, warmup_steps: int, decay_steps: int, num_steps: int
) -> LearningRate:
    """Return warm-up to `peak`, which stays until it falls to 0 over the last `decay_steps`."""
    return lambda step: (
        peak * min(warmup_share(step, warmup_steps=warmup_steps), (num_steps - step) / decay_steps)
    )


def polynomial(peak: float, *, num_steps: int) -> LearningRate:
    """Return ``peak * (1 - step / num_steps) ** 0.9``, DeepLab's "poly"."""
    return lambda step: peak * (1 - step / num_steps) ** 0.9


def phases(
    peak: float, *, kind: str, warmup_steps: int, phase_lengths: Sequence[int]
) -> LearningRate:
    """Return warm-up times a decay, which both restart in each phase of a training.

    Args:
        peak: the largest learning rate.
        kind: "cosine" to 0; "poly", power 0.9 to 0; "step", a tenth after 8/9 of a phase and a
            hundredth after 26/27 of it.
        warmup_steps: of each phase.
        phase_lengths: steps of each phase.
    """

    def learning_rate(step: int) -> float:
        start = 0
        for length in phase_lengths:
            if step < start + length:
                break
            start += length
        done = step - start
        left = 1 - done / length
        if kind == "step":
            decay = 0.1 ** ((9 * done >= 8 * length) + (27 * done >= 26 * length))
        elif kind == "poly":
            decay = left**0.9
        else:
            decay = 0.5 * (1 - math.cos(math.pi * left))
        return peak * warmup_share(done, warmup_steps=warmup_steps) * decay

    return learning_rate
