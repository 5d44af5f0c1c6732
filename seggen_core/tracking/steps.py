"""Shows the steps of a training: a progress bar, and the metrics of each tenth step.

Bars are drawn on a terminal alone.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

from seggen_core.tracking.run import StageRun

LOG_EVERY = 10


@contextmanager
def shown_steps(*, total: int, description: str) -> Iterator[Callable[..., None]]:
    """Yield a function to call after every step, with whatever arguments; it logs nothing.

    It is for the small trainings within a stage or command. Several in turn may share one bar.

    Args:
        total: number of steps of all of them.
        description: label of the progress bar.
    """
    with tqdm(total=total, desc=description, unit="step", disable=None) as bar:

        def on_step(*_: object) -> None:
            bar.update()

        yield on_step


@contextmanager
def tracked_steps(
    tracked: StageRun, *, total: int, description: str, prefix: str
) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Yield a function to call with (steps done, metrics) after every step.

    A resumed training may begin at any step.

    Args:
        tracked: the run that gets the metrics.
        total: number of steps of the training.
        description: label of the progress bar.
        prefix: first part of the metrics' names, "train" for "train/loss".
    """
    with tqdm(total=total, desc=description, unit="step", disable=None) as bar:

        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            bar.update(step - bar.n)
            if step % LOG_EVERY == 0:
                tracked.log_metrics(
                    {f"{prefix}/{name}": value for name, value in metrics.items()}, step=step
                )

        yield on_step
