"""Kill stages, DVC and runners at random moments: `python -m tools.kill_campaign`.

Each iteration takes a copy of a finished project in which one stage has yet to run. It kills
something with SIGKILL, one to four times in a row, and then runs the stage to its end:

- "stage": the stage's process, run without DVC;
- "command": the stage's process below `python -m dagster_dvc.repro`;
- "DVC": DVC alone, below the runner;
- "runner": the runner alone; the next run starts at once, while what it left is at work;
- "tree": the runner and everything that it started.

A moment is a share of the CPU time that the stage takes undisturbed, so a busy machine changes
nothing. In the end the result has to be the bytes of an undisturbed run, with nothing left over: no
process, no scratch, no claim in DVC's table; and nobody may have advised to delete DVC's locks.

The same seed makes the same iterations. Prints a table of counts, and what went wrong.
"""

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml

from dagster_dvc.busy import hold_dvc_lock, read_claims
from tools.disk_full import STAGES, delete
from tools.smoke_project import (
    environment,
    file_digests,
    finish_project,
    machine_line,
    make_project,
    repro_command,
    smoke_params,
)

MODES = ("stage", "command", "DVC", "runner", "tree")
TARGETS = ("train_seg@baseline", "masksyn@car", "seediff@car", "text2mask", "diffumask@person")
MAX_KILLS = 4
FIRST_SHARE = 0.8
"""The first kill comes before this share of the stage's CPU time, so that it meets the stage."""
POLL_SECONDS = 0.02
ORPHAN_SECONDS = 30.0
BAD_ADVICE = re.compile(
    r"manually|\brm \S*lock|(delete|remove) (the )?(\S*[/.])?(rw)?lock", re.IGNORECASE
)


def kill_params() -> dict:
    """Return the smoke parameters with states and samples enough to be killed between them."""
    params = smoke_params()
    for generator in ("text2mask", "mask2img"):
        params[generator] |= {"num_steps": 12, "checkpoint_every": 3}
    params["train_seg"]["common"] |= {"num_steps": 40, "checkpoint_every": 5}
    params["seediff"]["samples_per_class"] = 6
    params["diffumask"]["samples_per_class"] = 6
    for method in ("masksyn", "imgsyn"):
        params[method]["samples_per_source"] = 3
    return params


@dataclass
class Iteration:
    """What one iteration did.

    Attributes:
        num_kills: kills that met a living process.
        problems: what went wrong; none where all is well.
        output: all that was printed.
    """

    num_kills: int = 0
    problems: list[str] = field(default_factory=list)
    output: str = ""


class KillProject:
    """Copies of a finished project in which one stage has yet to run.

    Attributes:
        reference: the finished project.
    """

    def __init__(self, reference: Path, work: Path) -> None:
        """Copy `reference` to folders below `work`."""
        self.reference, self._work, self._num_copies = reference, work, 0

    def copy(self, stage: str) -> Path:
        """Return a copy without the results of `stage`; large files are hard links.

        Nothing writes a result in place, so the reference stays as it is.
        """
        self._num_copies += 1
        folder = self._work / f"copy-{self._num_copies}"
        skipped = shutil.ignore_patterns(".seggen", "runs", "tmp")
        shutil.copytree(self.reference, folder, ignore=skipped, copy_function=_link_or_copy)
        for out in STAGES[stage]:
            delete(folder / out)
        lock = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
        del lock["stages"][stage]
        (folder / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
        return folder

    def expected(self, stage: str) -> dict[str, str]:
        """Return the digests of a stage's results in the reference."""
        return file_digests(self.reference, *STAGES[stage])


class Campaign:
    """Kills one stage in one mode, again and again."""

    def __init__(self, project: KillProject, *, stage: str) -> None:
        """Run the stage once undisturbed, to learn its CPU time.

        Raises:
            RuntimeError: it fails, or makes other bytes than the reference has.
        """
        self._project, self._stage = project, stage
        self._expected = project.expected(stage)
        name, _, item = stage.partition("@")
        self._direct = [sys.executable, "-m", "seggen_core", name]
        self._direct += ["--item", item] if item else []
        folder = project.copy(stage)
        process = _start(self._direct, folder)
        self._cpu_seconds = 0.0
        while process.poll() is None:
            self._cpu_seconds = max(self._cpu_seconds, _cpu_seconds(process.pid))
            time.sleep(POLL_SECONDS)
        output = process.communicate()[0]
        if process.returncode or file_digests(folder, *STAGES[stage]) != self._expected:
            raise RuntimeError(f"{stage} fails or differs undisturbed:\n{output}")
        shutil.rmtree(folder)

    def iterate(self, mode: str, rng: random.Random) -> Iteration:
        """Kill 1 to 4 times, run to the end, and look at what is there."""
        done, folder = Iteration(), self._project.copy(self._stage)
        command = self._direct if mode == "stage" else repro_command(self._stage, jobs=1)
        for kill in range(rng.randint(1, MAX_KILLS)):
            process = _start(command, folder)
            share = rng.uniform(0.1, 1.0 if kill else FIRST_SHARE)
            moment = share * self._cpu_seconds
            done.num_kills += self._kill(process, folder, mode=mode, moment=moment)
            if mode != "runner":
                done.output += process.communicate()[0]
        process = _start(command, folder)
        done.output += process.communicate()[0]
        if not done.num_kills:
            done.problems.append("the stage was never killed: it had ended each time")
        if process.returncode:
            done.problems.append(f"the last run ended with exit code {process.returncode}")
        self._inspect(folder, done, has_dvc=mode != "stage")
        if not done.problems:
            shutil.rmtree(folder)
        return done

    def _kill(
        self, process: subprocess.Popen[str], folder: Path, *, mode: str, moment: float
    ) -> bool:
        """Wait until the stage has used so much CPU time, then kill; False where it had ended."""
        while process.poll() is None:
            for stage in _stage_processes(folder):
                if _cpu_seconds(stage.pid) < moment:
                    continue
                for victim in self._victims(process, stage, mode=mode):
                    with suppress(psutil.NoSuchProcess):
                        victim.kill()
                process.wait()
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _victims(
        self, process: subprocess.Popen[str], stage: psutil.Process, *, mode: str
    ) -> list[psutil.Process]:
        if mode in ("stage", "command"):
            return [stage]
        runner = psutil.Process(process.pid)
        if mode == "runner":
            return [runner]
        below = runner.children(recursive=True)
        if mode == "tree":
            return [runner, *below]
        return [p for p in below if p.cmdline()[2:4] == ["-m", "dvc"]]

    def _inspect(self, folder: Path, done: Iteration, *, has_dvc: bool) -> None:
        """Note all that isn't as after an undisturbed run."""
        deadline = time.monotonic() + ORPHAN_SECONDS
        while (left := _processes_in(folder)) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        if left:
            done.problems.append(f"{len(left)} processes are left")
        if file_digests(folder, *STAGES[self._stage]) != self._expected:
            done.problems.append("the result has other bytes")
        scratch = folder / ".seggen" / "scratch"
        if leftover := [p for p in scratch.rglob("*") if p.is_file()]:
            done.problems.append(f"scratch is left: {leftover[0]}")
        if unfinished := list((folder / "data").rglob(".*.unfinished")):
            done.problems.append(f"half a result is left: {unfinished[0]}")
        if BAD_ADVICE.search(done.output):
            done.problems.append("somebody advised to delete a lock")
        if has_dvc:
            with hold_dvc_lock(folder, patience=ORPHAN_SECONDS):
                if claims := read_claims(folder):
                    done.problems.append(f"DVC's table still names process {claims[0].pid}")
            recorded = yaml.safe_load((folder / "dvc.lock").read_text(encoding="utf-8"))
            reference = yaml.safe_load(
                (self._project.reference / "dvc.lock").read_text(encoding="utf-8")
            )
            if recorded != reference:
                done.problems.append("dvc.lock differs")


def campaign(
    project: KillProject,
    *,
    stages: Sequence[str],
    modes: Sequence[str],
    num_iterations: int,
    seed: int,
    say: Callable[[str], None] = print,
) -> Counter[str]:
    """Kill each stage in each mode; return how many iterations, kills and problems there were."""
    by_mode: dict[str, Counter[str]] = {mode: Counter() for mode in modes}
    try:
        for stage in stages:
            killer = Campaign(project, stage=stage)
            for mode in modes:
                for iteration in range(num_iterations):
                    done = killer.iterate(mode, random.Random(f"{seed}/{stage}/{mode}/{iteration}"))
                    by_mode[mode].update(
                        iterations=1, kills=done.num_kills, sound=int(not done.problems)
                    )
                    if done.problems:
                        problems = "; ".join(done.problems)
                        say(f"WRONG {stage}, killed {mode}: {problems}\n{done.output}")
    finally:  # after Ctrl-C too: what was done counts
        total = Counter[str]()
        say("| killed | runs | kills | same bytes, nothing left | wrong |")
        say("|---|---:|---:|---:|---:|")
        for mode, counts in by_mode.items():
            total.update(counts)
            say(f"| {mode} | {_cells(counts)} |")
        say(f"| all | {_cells(total)} |")
    return total


def _cells(counts: Counter[str]) -> str:
    wrong = counts["iterations"] - counts["sound"]
    return f"{counts['iterations']} | {counts['kills']} | {counts['sound']} | {wrong}"


def main() -> int:
    """The command line; exit code 1 where an iteration went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
    parser.add_argument("--iterations", type=int, default=2, help="a stage and mode (default: 2)")
    parser.add_argument("--stages", nargs="+", default=TARGETS, choices=list(STAGES))
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument(
        "--reference",
        type=Path,
        help="a finished project with `kill_params` (default: one is made)",
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="seggen-kill-") as folder:
        work = Path(folder)
        reference = args.reference
        if reference is None:
            reference = make_project(work / "reference", kill_params())
            finish_project(reference, *args.stages)
        print(f"Kill campaign, seed {args.seed}. {machine_line()}\n", flush=True)
        counts = campaign(
            KillProject(reference.resolve(), work),
            stages=args.stages,
            modes=args.modes,
            num_iterations=args.iterations,
            seed=args.seed,
            say=lambda line: print(line, flush=True),
        )
    return 0 if counts["sound"] == counts["iterations"] else 1


def _link_or_copy(source: str, target: str) -> None:
    """Link a large file; copy what may be written in place."""
    if Path(source).stat().st_size > 1 << 16:
        os.link(source, target)
    else:
        shutil.copy2(source, target)


def _start(command: list[str], folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _cpu_seconds(pid: int) -> float:
    with suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _processes_in(folder: Path) -> list[psutil.Process]:
    """Return the living processes whose working folder is `folder`."""
    processes = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.status() != psutil.STATUS_ZOMBIE and process.cwd() == str(folder):
                processes.append(process)
    return processes


def _stage_processes(folder: Path) -> list[psutil.Process]:
    processes = []
    for process in _processes_in(folder):
        with suppress(psutil.Error):
            if process.cmdline()[1:3] == ["-m", "seggen_core"]:
                processes.append(process)
    return processes


if __name__ == "__main__":
    sys.exit(main())
