"""The training loop of every network, from the foundation to the segmenters and the small nets.

A training says what is trained and on what (`Training`), and how long and how carefully
(`LoopSettings`). The loop reads batches ahead, computes, updates, averages, reports, saves states
and resumes from them. Randomness belongs to the training: whatever `read` and `loss` draw is named
by the step, so that an interrupted run ends in the same bytes as one that wasn't.

    train(training, LoopSettings(num_steps=100), on_step=report)

accelerate places the module on its device, wraps it for several processes, accumulates gradients
and clips them. Precision is left to `torch.autocast` and `torch.amp.GradScaler`: accelerate has one
precision for a whole process, and a stage trains parts in two.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import torch

from seggen_core.errors import SegGenError
from seggen_core.training.average import ParameterAverage
from seggen_core.training.precision import autocast, no_cudnn_attention
from seggen_core.training.read_ahead import read_ahead
from seggen_core.training.schedule import LearningRate, advance, make_schedule
from seggen_core.training.state import TrainingState, load_state, save_state

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = TypeVar("Batch")
OnStep = Callable[[int, dict[str, float]], None]
"""Called with (steps done, {"loss", "learning_rate"}) after every step."""


class Watch(Protocol):
    """Looks at a training between its steps, and may end it. It draws no random numbers."""

    def resume(self, first_step: int) -> bool:
        """Take note that the first step is `first_step`; return whether the training is over."""

    def after_step(self, module: torch.nn.Module, step: int) -> bool:
        """Look at the module after `step` steps; return whether the training is over.

        It is called before the state of that step is saved, and leaves the module as it was.
        """


@dataclass(frozen=True, kw_only=True, eq=False)
class Training(Generic[Batch]):
    """What is trained, and on what."""

    name: str
    """Says in messages what is trained."""
    module: torch.nn.Module
    """Holds what is trained: its parameters that require a gradient. It stays on its device or
    moves to the accelerator's."""
    optimizer: torch.optim.Optimizer
    """Optimiser of these parameters. The "lr" of a group multiplies `learning_rate` (1.0, as a
    rule)."""
    learning_rate: LearningRate
    """Learning rate of a step."""
    read: Callable[[int], Batch]
    """Returns the batch of a step, on the CPU; a thread calls it while the step before is computed
    (`LoopSettings.num_readers` threads). It leaves `module` and torch's global generators alone."""
    loss: Callable[[torch.nn.Module, Batch], torch.Tensor]
    """(prepared module, batch) -> scalar loss. It moves the batch to the device, and calls the
    module that it is given, which may be wrapped for several processes."""
    error: type[SegGenError]
    """Raised where the loss is no longer finite."""
    advice: str
    """What to do then: "lower learning_rate"."""


@dataclass(frozen=True, kw_only=True)
class LoopSettings:
    """How long and how carefully to train."""

    num_steps: int
    """Updates in all, those before a resumption included."""
    max_grad_norm: float | None = None
    """Gradients are scaled down to this norm; None leaves them."""
    dtype: torch.dtype = torch.float32
    """Type of network calls (`resolve_precision`); weights and optimiser stay float32. float16
    brings a gradient scaler with it."""
    ema_decay: float = 0.0
    """Decay of the averaged weights that are the result; 0 takes the last ones."""
    ema_warmup: int = 10
    """The decay after step t is (t + 1) / (t + ema_warmup) at most."""
    checkpoint_every: int | None = None
    """Steps between two states; None saves none."""
    replay_losses: bool = False
    """A resumed run first reports the losses of the steps before."""
    num_readers: int = 1
    """Threads that read batches; `Training.read` has to allow more than one."""


def adamw(module: torch.nn.Module, *, weight_decay: float) -> torch.optim.AdamW:
    """Make the generators' optimiser of all that `module` trains: AdamW with betas 0.9, 0.99."""
    trained = [p for p in module.parameters() if p.requires_grad]
    return torch.optim.AdamW(trained, lr=1.0, betas=(0.9, 0.99), weight_decay=weight_decay)


def make_accelerator(device: torch.device, *, accumulation: int = 1) -> "Accelerator":
    """Make what spreads a training over devices and processes.

    Args:
        device: where this process computes.
        accumulation: batches whose gradients are added up for one update.
    """
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=device.type == "cpu", gradient_accumulation_steps=accumulation)
    assert accelerator.device.type == device.type, "one process trains on one kind of device"
    return accelerator


def train(
    training: Training[Batch],
    settings: LoopSettings,
    *,
    accelerator: "Accelerator | None" = None,
    state_folder: Path | None = None,
    on_step: OnStep = lambda _step, _values: None,
    watch: Watch | None = None,
) -> int:
    """Train a module in place; leave its averaged weights in it, in evaluation mode.

    Args:
        training: what is trained, and on what.
        settings: how long and how carefully.
        accelerator: where (`make_accelerator`); None: where the module is. With an accumulation
            of k, step t adds up the gradients of the batches ``read(k * t)`` to
            ``read(k * t + k - 1)``.
        state_folder: where states are saved and looked for.
        on_step: called after every step.
        watch: looks at the module after every step, and may end the training early.

    Returns:
        The step that the run resumed from; 0 where it began.

    Raises:
        SegGenError: the loss is no longer finite; its class is `training.error`.
        StorageError: a state can't be saved.
    """
    if accelerator is None:
        accelerator = make_accelerator(next(training.module.parameters()).device)
    loop = _Loop(training, settings, accelerator=accelerator)
    losses = load_state(state_folder, loop.state) if state_folder else []
    first, batches_per_step = len(losses), accelerator.gradient_accumulation_steps
    if settings.replay_losses:
        for step, value in enumerate(losses):
            on_step(step + 1, {"loss": value, "learning_rate": training.learning_rate(step)})
    is_over = watch is not None and watch.resume(first)
    loop.begin(first)
    last = first if is_over else settings.num_steps
    batch_indices = range(first * batches_per_step, last * batches_per_step)
    with (
        no_cudnn_attention(),
        read_ahead(training.read, steps=batch_indices, num_readers=settings.num_readers) as batches,
    ):
        for step in range(first, last):
            losses.append(loop.step(step, islice(batches, batches_per_step)))
            on_step(step + 1, {"loss": losses[-1], "learning_rate": training.learning_rate(step)})
            is_over = watch is not None and watch.after_step(training.module, step + 1)
            due = settings.checkpoint_every and (step + 1) % settings.checkpoint_every == 0
            if state_folder and due and accelerator.is_main_process:
                save_state(state_folder, loop.state, step=step + 1, losses=losses)
            if is_over:
                break
    loop.end()
    return first


class _Loop(Generic[Batch]):
    """One training under way.

    Attributes:
        state: what a resumed run needs.
    """

    def __init__(
        self, training: Training[Batch], settings: LoopSettings, *, accelerator: "Accelerator"
    ) -> None:
        """Place the module on its device and start the average from its weights."""
        self._training, self._settings, self._accelerator = training, settings, accelerator
        module = training.module
        self._prepared, self._optimizer = accelerator.prepare(module, training.optimizer)
        self._trained = [p for p in module.parameters() if p.requires_grad]
        scaled = settings.dtype == torch.float16
        self.state = TrainingState(
            module=module,
            optimizer=training.optimizer,
            average=ParameterAverage(
                self._trained, decay=settings.ema_decay, warmup=settings.ema_warmup
            ),
            scaler=torch.amp.GradScaler(accelerator.device.type, enabled=scaled),
        )

    def begin(self, first_step: int) -> None:
        """Get ready for `first_step`, after the state was restored."""
        self._schedule = make_schedule(
            self._training.optimizer, self._training.learning_rate, first_step=first_step
        )
        self._training.module.train()

    def step(self, step: int, batches: Iterable[Batch]) -> float:
        """Update the weights once and return the mean loss of `batches`."""
        values = []
        for batch in batches:
            with self._accelerator.accumulate(self._prepared):
                with autocast(self._accelerator.device, self._settings.dtype):
                    loss = self._training.loss(self._prepared, batch)
                values.append(self._finite(loss, step))
                self._accelerator.backward(self.state.scaler.scale(loss))
        scaler = self.state.scaler
        scaler.unscale_(self._optimizer)
        if self._settings.max_grad_norm is not None:
            self._accelerator.clip_grad_norm_(self._trained, self._settings.max_grad_norm)
        scaler.step(self._optimizer)
        scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        advance(self._schedule)
        self.state.average.update(step)
        return math.fsum(values) / len(values)

    def end(self) -> None:
        """Leave the averaged weights in the module."""
        self.state.average.copy_to_parameters()
        self._training.module.eval()

    def _finite(self, loss: torch.Tensor, step: int) -> float:
        value, training = loss.item(), self._training
        if math.isfinite(value):
            return value
        raise training.error(
            f"{training.name}: the loss is {value} at step {step}; {training.advice} "
            f"(the learning rate is {training.learning_rate(step):.2g} here)"
        )
