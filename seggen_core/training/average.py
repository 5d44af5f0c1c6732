"""Averaged weights: the exponential moving average of what a training changes.

torch's own update is used (`torch.optim.swa_utils`). diffusers' EMAModel computes the same average
by another formula, so with other rounding, and starts with decay 0; its import costs 2.6 s.
"""

from collections.abc import Iterable

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class ParameterAverage:
    """An exponential moving average of parameters, whose decay grows with the steps.

    After step t (from 0) the decay is ``min(decay, (t + 1) / (t + warmup))``, so that a short
    training doesn't stay near its initial weights.

    Attributes:
        tensors: the averages, in the order of the parameters; on their devices.
    """

    def __init__(
        self, parameters: Iterable[torch.nn.Parameter], *, decay: float, warmup: int = 10
    ) -> None:
        """Start from the values that `parameters` have now; a `decay` of 0 keeps no average."""
        self._parameters = list(parameters) if decay else []
        self._decay, self._warmup = decay, warmup
        self.tensors = [p.detach().clone() for p in self._parameters]

    def update(self, step: int) -> None:
        """Take in the values of the parameters after step `step` (from 0)."""
        if self.tensors:
            decay = min(self._decay, (step + 1) / (step + self._warmup))
            get_ema_multi_avg_fn(decay)(self.tensors, [p.detach() for p in self._parameters], 0)

    @torch.no_grad()
    def copy_to_parameters(self) -> None:
        """Give the parameters their averages; without an average they stay as they are."""
        for parameter, average in zip(self._parameters, self.tensors, strict=True):
            parameter.copy_(average)
