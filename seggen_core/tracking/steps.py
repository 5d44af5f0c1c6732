"""Shows the steps of a training: a progress bar, and the metrics of each tenth step."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from tqdm import tqdm

from seggen_core.tracking.run import StageRun

LOG_EVERY = 10


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
