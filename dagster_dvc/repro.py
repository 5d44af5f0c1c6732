"""Runs a DVC pipeline with several stages at a time: `python -m dagster_dvc.repro -j 2 [targets...]`.

Does what `dvc repro` does, stage by stage through DVC itself, so that either may finish what the
other began. DVC is asked once which stages have changed; the others are left alone unless something
upstream of them was made anew.
"""

import argparse
import json
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from dagster_dvc.errors import DvcAssetsError
from dagster_dvc.execution import DvcServer, StageResult, StageRun
from dagster_dvc.manifest import DvcManifest, changed_stages, load_manifest, write_json
from dagster_dvc.schedule import Schedule

STATE_FOLDER = Path(".seggen")
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


class Runner:
    """Runs what a `Schedule` says, `jobs` stages at a time, and reports on stdout.

    Args:
        root: the project folder.
        schedule: what to run.
        jobs: stages at a time.
        logs: folder that gets one log file per stage.
    """

    def __init__(self, root: Path, *, schedule: Schedule, jobs: int, logs: Path) -> None:
        self._root = root
        self._schedule = schedule
        self._jobs = jobs
        self._logs = logs
        self._running: dict[Future[StageResult], StageRun] = {}
        self._status = StatusLine(schedule)

    def run(self) -> bool:
        """Run until all is done or a stage fails; the stages beside a failed one are let end. True where all is well.

        Raises:
            KeyboardInterrupt: after ending what was running.
        """
        self._logs.mkdir(parents=True, exist_ok=True)
        failed = False
        with DvcServer() as server, ThreadPoolExecutor(self._jobs) as pool:
            try:
                while True:
                    while (
                        not failed
                        and len(self._running) < self._jobs
                        and (name := self._schedule.pop()) is not None
                    ):
                        stage = server.run(self._root, name)
                        self._running[pool.submit(self._follow, stage)] = stage
                        self._status.start(name)
                    if not self._running:
                        return not failed
                    done, _ = wait(
                        self._running,
                        timeout=self._status.refresh_seconds,
                        return_when=FIRST_COMPLETED,
                    )
                    for future in done:
                        del self._running[future]
                        result = future.result()
                        self._schedule.finish(result)
                        self._status.finish(result)
                        if not result.ok and not failed:
                            failed = True
                            if self._running:
                                names = ", ".join(stage.name for stage in self._running.values())
                                self._status.say(f"{result.name} failed; letting {names} end")
                    self._status.draw()
            except KeyboardInterrupt:
                self._stop()
                raise

    def _follow(self, stage: StageRun) -> StageResult:
        """Read a stage's output to its end, into its log file."""
        lines = stage.lines()
        try:
            with (self._logs / f"{stage.name}.log").open("w", encoding="utf-8") as log:
                for line in lines:
                    log.write(line + "\n")
                    log.flush()
        except OSError as error:
            self._status.say(f"{stage.name} runs on without its log: {error}")
            for _ in lines:  # unread, it would wait for ever
                pass
        return stage.result

    def _stop(self) -> None:
        """End all running stages; a second Ctrl-C kills them."""
        if not self._running:
            return
        self._status.say(
            f"stopping {', '.join(stage.name for stage in self._running.values())} (Ctrl-C again kills)"
        )
        with ThreadPoolExecutor(len(self._running)) as pool:
            for stage in self._running.values():
                pool.submit(stage.stop)
            try:
                wait(self._running)
            except KeyboardInterrupt:
                for stage in self._running.values():
                    stage.kill()
                wait(self._running)


class StatusLine:
    """One line per finished stage, and on a terminal a last line that says what is running."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._total = len(schedule.selected)
        self._started: dict[str, float] = {}
        self._live = sys.stdout.isatty()
        self.refresh_seconds = 1.0 if self._live else None

    def start(self, name: str) -> None:
        """A stage was started."""
        self._started[name] = time.monotonic()
        self.draw()

    def finish(self, result: StageResult) -> None:
        """A stage has ended."""
        del self._started[result.name]
        number = len(self._schedule.results) + len(self._schedule.up_to_date)
        width = len(str(self._total))
        self.say(
            f"[{number:>{width}}/{self._total}] {result.name}  {result.outcome} {result.seconds:.1f} s"
        )

    def say(self, text: str) -> None:
        """Print a line that stays."""
        print(f"\r\x1b[K{text}" if self._live else text, flush=True)

    def draw(self) -> None:
        """Renew the last line."""
        if not self._live or not self._started:
            return
        now = time.monotonic()
        running = ", ".join(f"{name} {now - start:.0f} s" for name, start in self._started.items())
        finished = len(self._schedule.results) + len(self._schedule.up_to_date)
        text = f"[{finished}/{self._total}] running: {running}{self._remaining(now)}"
        print(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)

    def _remaining(self, now: float) -> str:
        """An estimate of the time left, where every stage that is left has been timed before."""
        left = self._schedule.selected - self._schedule.results.keys() - self._schedule.up_to_date
        if not left <= self._schedule.durations.keys():
            return ""
        passed = {name: now - start for name, start in self._started.items()}
        work = sum(
            max(self._schedule.durations[name] - passed.get(name, 0.0), 0.0) for name in left
        )
        seconds = work / max(len(self._started), 1)
        if not seconds:
            return ""
        return (
            f" (about {seconds / 60:.0f} min left)"
            if seconds > 90
            else f" (about {seconds:.0f} s left)"
        )


def duration_table(
    results: Iterable[StageResult], *, manifest: DvcManifest
) -> list[dict[str, Any]]:
    """One row per group of stages, in the order of dvc.yaml: how many ran, and what those took.

    "seconds" and "slowest" are wall-clock time, "cpu" the commands' CPU time and "dvc_cpu" what DVC
    spent on top of it.
    """
    by_group: dict[str, list[StageResult]] = {}
    for result in results:
        by_group.setdefault(manifest.stages[result.name].group, []).append(result)
    rows = []
    for group in manifest.groups:
        if group in by_group:
            ran = [result for result in by_group[group] if result.outcome == "ran"]
            rows.append(
                {
                    "stage": group,
                    "ran": len(ran),
                    "cached": sum(
                        result.outcome in ("cached", "unchanged") for result in by_group[group]
                    ),
                    "seconds": round(sum((result.seconds for result in ran), 0.0), 1),
                    "slowest": round(max((result.seconds for result in ran), default=0.0), 1),
                    "cpu": round(sum((result.command_cpu_seconds for result in ran), 0.0), 1),
                    "dvc_cpu": round(sum(result.dvc_cpu_seconds for result in by_group[group]), 1),
                }
            )
    return rows


def format_table(rows: list[dict[str, Any]]) -> str:
    """`duration_table` as aligned text."""
    header = list(rows[0])
    cells = [header, *([str(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    lines = []
    for first, *others in cells:
        lines.append(
            "  ".join(
                [
                    first.ljust(widths[0]),
                    *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True)),
                ]
            )
        )
    return "\n".join(lines)


def repro(root: Path, targets: list[str], *, jobs: int, dry: bool, state_folder: Path) -> int:
    """Bring `targets` and everything upstream of them up to date. Returns the exit code.

    Args:
        root: the folder that holds dvc.yaml.
        targets: stages and groups; all stages for none.
        jobs: stages at a time.
        dry: only say what would run.
        state_folder: gets `logs/<stage>.log` and `durations.json`, which later runs are planned by.

    Raises:
        DvcAssetsError: the project can't be read, or a target doesn't exist.
    """
    started = time.monotonic()
    manifest = load_manifest(root)
    selected = manifest.select(targets)
    durations_file = root / state_folder / "durations.json"
    durations = _read_durations(durations_file)
    schedule = Schedule(
        manifest, selected=selected, changed=set(changed_stages(root)), durations=durations
    )
    due = schedule.due()
    if not due:
        print(f"Nothing to do: {_count(len(selected), 'stage')} up to date.")
        return 0
    print(
        f"{_count(len(due), 'stage')} to bring up to date, {len(selected) - len(due)} unchanged.",
        flush=True,
    )
    if dry:
        print("\n".join(due))
        return 0

    logs = root / state_folder / "logs"
    runner = Runner(root, schedule=schedule, jobs=jobs, logs=logs)
    try:
        ok = runner.run()
    finally:
        wall_seconds = time.monotonic() - started
        results = list(schedule.results.values())
        rows = duration_table(results, manifest=manifest)
        durations |= {
            result.name: round(result.seconds, 1) for result in results if result.outcome == "ran"
        }
        last_run = {
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "jobs": jobs,
            "wall_seconds": round(wall_seconds, 1),
            "groups": rows,
        }
        write_json(durations_file, {"stages": durations, "last_run": last_run})
    print(
        f"\n{format_table(rows)}\n{len(results)} stages in {wall_seconds:.0f} s, {jobs} at a time."
    )
    for result in results:
        if not result.ok:
            shown = "\n".join(f"    {line}" for line in result.tail[-12:])
            print(f"\nStage {result.name} failed; its last lines were\n{shown}", file=sys.stderr)
            print(
                f"All of it: {logs / result.name}.log. What has ended is kept: put it right and run again.",
                file=sys.stderr,
            )
    return 0 if ok else EXIT_FAILED


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
        help="logs and durations (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    if args.jobs < 1:
        parser.error(f"--jobs is {args.jobs}, expected at least 1")
    # SIGINT too: what a script starts in its background ignores it otherwise, and so would `kill
    # -INT`.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return repro(
            args.cd.resolve(),
            args.targets,
            jobs=args.jobs,
            dry=args.dry,
            state_folder=args.state_folder,
        )
    except (
        DvcAssetsError,
        OSError,
    ) as error:  # OSError: a full disk, most likely; it names the file
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print(
            "\nStopped; finished stages are kept, and running this again goes on from here.",
            file=sys.stderr,
        )
        return EXIT_INTERRUPTED


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _read_durations(path: Path) -> dict[str, float]:
    try:
        stages: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))["stages"]
    except FileNotFoundError:
        return {}
    return stages


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


if __name__ == "__main__":
    sys.exit(main())
