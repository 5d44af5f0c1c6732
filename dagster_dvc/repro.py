"""Runs a DVC pipeline with several stages at a time: `python -m dagster_dvc.repro -j 2 [targets]`.

Does what `dvc repro` does, stage by stage through DVC itself, so that either may finish what the
other began. DVC is asked once which stages have changed; the others are left alone unless a stage
upstream wrote something new.
"""

import argparse
import errno
import logging
import shutil
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

from dagster_dvc.cache import due_changes
from dagster_dvc.durations import (
    duration_table,
    format_seconds,
    format_table,
    note_durations,
    read_durations,
)
from dagster_dvc.errors import DagsterDvcError
from dagster_dvc.files import STATE_FOLDER
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import load_manifest
from dagster_dvc.result import StageResult
from dagster_dvc.runner import Runner, StageRun, first_hidden_stages
from dagster_dvc.schedule import Schedule
from dagster_dvc.status import stage_changes

EXIT_FAILED, EXIT_USAGE, EXIT_STORAGE, EXIT_INTERRUPTED = 1, 2, 3, 130
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
REFRESH_SECONDS = 1.0
SHOWN_LINES = 12


@dataclass(frozen=True)
class Options:
    """What the command line asks for.

    Attributes:
        root: the folder that holds dvc.yaml.
        targets: stages and groups to bring up to date with everything upstream; all for none.
        jobs: stages at a time.
        dry: only say what would run.
        state: folder that gets `logs/<stage>.log` and `durations.json`.
    """

    root: Path
    targets: list[str]
    jobs: int
    dry: bool
    state: Path


class Screen:
    """One line for each stage that has ended, and on a terminal a last line of those that run."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._live = sys.stdout.isatty()
        self._drawn_at = 0.0

    def say(self, text: str) -> None:
        """Print a line that stays."""
        print(f"\r\x1b[K{text}" if self._live else text, flush=True)

    def show_end(self, result: StageResult, schedule: Schedule) -> None:
        """Say how a stage has ended."""
        total = len(schedule.selected)
        num_finished = len(schedule.results) + len(schedule.up_to_date)
        self.say(
            f"[{num_finished:>{len(str(total))}}/{total}] {result.name}  "
            f"{result.outcome} {result.seconds:.1f} s"
        )

    def draw(self, runner: Runner, schedule: Schedule) -> None:
        """Renew the last line, once a second."""
        now = time.monotonic()
        if not self._live or not runner.running or now - self._drawn_at < REFRESH_SECONDS:
            return
        self._drawn_at = now
        passed = {name: now - run.process.started for name, run in runner.running.items()}
        running = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in passed.items())
        finished = len(schedule.results) + len(schedule.up_to_date)
        left = remaining_seconds(schedule, passed)
        text = f"[{finished}/{len(schedule.selected)}] running: {running}{_about(left)}"
        print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


@dataclass
class Logs:
    """Keeps what each stage prints in a file of its own; a stage runs on where that fails."""

    folder: Path
    screen: Screen
    _files: dict[str, IO[str] | None] = field(default_factory=dict, init=False)

    def path(self, name: str) -> Path:
        """The log of a stage."""
        return self.folder / f"{name}.log"

    def take(self, run: StageRun) -> None:
        """Write down what a stage has printed since the last call."""
        lines = run.process.take_lines()
        try:
            if run.name not in self._files:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._files[run.name] = self.path(run.name).open("w", encoding="utf-8")
            if (log := self._files[run.name]) is not None:
                log.writelines(line + "\n" for line in lines)
                log.flush()
                if run.result is not None:
                    log.close()
        except OSError as error:
            self.screen.say(f"{run.name} runs on without its log: {error}")
            self._files[run.name] = None


def repro(options: Options) -> int:
    """Bring the targets and everything upstream of them up to date. Returns the exit code.

    Raises:
        DagsterDvcError: the project can't be read, or a target doesn't exist.
    """
    root, screen, started = options.root, Screen(), time.monotonic()
    runner, logs = Runner(root, say=screen.say), Logs(options.state / "logs", screen)
    selected = load_manifest(root).select(options.targets)
    _warn_of_lost_stages(root)
    hidden = first_hidden_stages(root)
    if hidden.changed and not options.dry:
        failed = run_all(runner, hidden, jobs=options.jobs, logs=logs)
        if failed:
            return report_failures(failed, logs=logs)
    manifest = load_manifest(root)
    look = stage_changes if options.dry else partial(due_changes, say=screen.say)
    # A stage that always runs (`always_changed`) has just done so, if it is a hidden one.
    changed = set(look(manifest, root=root)) - hidden.results.keys()
    durations = read_durations(options.state)
    schedule = Schedule(manifest, selected=selected, changed=changed, durations=durations)
    due = schedule.due()
    if not due:
        print(f"Nothing to do: {_count(len(selected), 'stage')} up to date.")
        return 0
    print(
        f"{_count(len(due), 'stage')} to bring up to date, {len(selected) - len(due)} unchanged.",
        flush=True,
    )
    if options.dry:
        print("\n".join(due))
        return 0
    try:
        failed = run_all(runner, schedule, jobs=options.jobs, logs=logs)
    finally:
        results = list(schedule.results.values())
        rows = duration_table(results, manifest=manifest)
        seconds = time.monotonic() - started
        last_run = {
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "jobs": options.jobs,
            "wall_seconds": round(seconds, 1),
            "groups": rows,
        }
        note_durations(options.state, results, last_run=last_run)
    if rows:
        print(f"\n{format_table(rows)}")
    print(f"{_count(len(results), 'stage')} in {seconds:.0f} s, {options.jobs} at a time.")
    return report_failures(failed, logs=logs)


def run_all(runner: Runner, schedule: Schedule, *, jobs: int, logs: Logs) -> list[StageResult]:
    """Run a schedule to its end and show how it goes; returns what failed."""
    screen = logs.screen
    try:
        with closing(runner.run(schedule, jobs=jobs)) as runs:
            for ended in runs:
                for run in (*runner.running.values(), *([ended] if ended else [])):
                    logs.take(run)
                if ended is not None and ended.result is not None:
                    screen.show_end(ended.result, schedule)
                    if not ended.result.ok and runner.running:
                        screen.say(f"{ended.name} failed; letting {', '.join(runner.running)} end")
                screen.draw(runner, schedule)
    finally:
        for run in runner.running.values():  # what an interrupted stage said last
            logs.take(run)
    return [result for result in schedule.results.values() if not result.ok]


def report_failures(failed: list[StageResult], *, logs: Logs) -> int:
    """Say why stages failed; returns the exit code."""
    for result in failed:
        shown = "\n".join(f"    {line}" for line in result.tail[-SHOWN_LINES:])
        print(f"\nStage {result.name} failed; its last lines were\n{shown}", file=sys.stderr)
        print(
            f"All of it: {logs.path(result.name)}. Finished stages are kept: put right what is "
            "wrong and run again.",
            file=sys.stderr,
        )
    return EXIT_FAILED if failed else 0


def remaining_seconds(schedule: Schedule, passed: Mapping[str, float]) -> float | None:
    """An estimate of the time left; None unless every stage that is left has been timed before.

    `passed` is how long the running stages have run.
    """
    left = schedule.selected - schedule.results.keys() - schedule.up_to_date
    if not left <= schedule.durations.keys():
        return None
    work = sum(max(schedule.durations[name] - passed.get(name, 0.0), 0.0) for name in left)
    return work / max(len(passed), 1)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dagster_dvc.repro", description=__doc__)
    parser.add_argument(
        "targets", nargs="*", help="stages or groups of dvc.yaml; everything by default"
    )
    parser.add_argument("-j", "--jobs", type=int, default=1, help="stages at a time (default: 1)")
    parser.add_argument("--dry", action="store_true", help="only say what would run")
    parser.add_argument(
        "--cd", type=Path, default=Path(), metavar="FOLDER", help="the folder that holds dvc.yaml"
    )
    parser.add_argument(
        "--state-folder",
        type=Path,
        default=STATE_FOLDER,
        help="logs and durations, from the folder that holds dvc.yaml (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}, expected at least 1")
    logging.basicConfig(format="%(message)s")
    # SIGINT too: what a script starts in its background ignores it otherwise, and so would `kill
    # -INT`.
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, _interrupt)
    root = args.cd.resolve()
    options = Options(
        root, targets=args.targets, jobs=args.jobs, dry=args.dry, state=root / args.state_folder
    )
    try:
        return repro(options)
    except DagsterDvcError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except OSError as error:
        if error.filename is None and error.errno not in FULL_DISK:
            raise
        print(
            f"error: can't use {error.filename or root}: {error.strerror or error}. Finished "
            "stages are kept; free some space or make it writable, then run this again",
            file=sys.stderr,
        )
        return EXIT_STORAGE
    except KeyboardInterrupt:
        print(
            "\nStopped; finished stages are kept, and running this again goes on from here.",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _warn_of_lost_stages(root: Path) -> None:
    """Say which groups of stages dvc.lock has and dvc.yaml lacks: half a dvc.yaml may parse."""
    groups = load_manifest(root).groups
    lost = sorted({name.partition("@")[0] for name in read_lock(root)} - groups.keys())
    if lost:
        print(
            f"warning: {root / 'dvc.lock'} has stages that dvc.yaml doesn't define: "
            f"{', '.join(lost)}. If that is no intention, `git checkout dvc.yaml` brings them back",
            file=sys.stderr,
        )


def _about(seconds: float | None) -> str:
    if not seconds:
        return ""
    return f" (about {format_seconds(seconds)} left)"


def _count(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
