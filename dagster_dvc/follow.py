"""Runs stages inside of a Dagster run: what they print and how far they are goes into its log."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import dagster as dg

from dagster_dvc.events import StageReader
from dagster_dvc.runner import Runner, StageRun
from dagster_dvc.schedule import Schedule

MAX_LOGGED_LINES = 300
"""Lines of a stage that become events of the run; all of them are in its stdout."""
PROGRESS_SECONDS = 10.0
"""How often a running stage is asked how far it is."""


class StageLog:
    """Takes what stages print: all goes to stdout, the first `MAX_LOGGED_LINES` to the log too.

    Args:
        log: of the Dagster run.
        with_names: whether each line says which stage it is of.
    """

    def __init__(self, log: dg.DagsterLogManager, *, with_names: bool = False) -> None:
        """Take nothing yet."""
        self._log = log
        self._with_names = with_names
        self._counts: Counter[str] = Counter()
        self._progress: dict[str, str] = {}
        self._asked_at: dict[str, float] = {}

    def take(self, name: str, line: str) -> None:
        """Take a line of a stage."""
        prefix = f"[{name}] " if self._with_names else ""
        print(prefix + line, flush=True)
        if line.strip() and self._counts[name] <= MAX_LOGGED_LINES:
            self._counts[name] += 1
            is_last = self._counts[name] > MAX_LOGGED_LINES
            self._log.info(prefix + ("... further lines are in stdout" if is_last else line))

    def show_progress(self, run: StageRun, reader: StageReader, root: Path) -> None:
        """Log how far a stage is, now and then, where that has changed."""
        now = time.monotonic()
        if now - self._asked_at.setdefault(run.name, now) < PROGRESS_SECONDS:
            return
        self._asked_at[run.name] = now
        progress = reader.progress(root, run.node)
        if progress is not None and progress != self._progress.get(run.name):
            self._progress[run.name] = progress
            self._log.info(progress)


def follow(
    runner: Runner,
    schedule: Schedule,
    *,
    log: StageLog,
    reader: StageReader,
    jobs: int = 1,
    may_start: Callable[[str], bool] = lambda _: True,
) -> Iterator[StageRun]:
    """`Runner.run` with its output in the log of a Dagster run; yields the stages that have ended.

    Whatever is raised meanwhile (a cancelled run raises here) ends all process groups first.
    """
    with closing(runner.run(schedule, jobs=jobs, may_start=may_start)) as runs:
        for ended in runs:
            for run in (*runner.running.values(), *([ended] if ended else [])):
                for line in run.process.take_lines():
                    log.take(run.name, line)
                if run is not ended:
                    log.show_progress(run, reader, runner.root)
            if ended is not None:
                yield ended
