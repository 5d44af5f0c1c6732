"""Fill the disk under every stage and command: `python -m tools.disk_full`. About 40 minutes.

A project lies on a small file system of its own in memory, which leaves a stage less room than it
needs. Each attempt has to end with exit code 3 and one message, or with the right bytes. Then the
file system grows, the same command runs again, and its results have to be the bytes of an
undisturbed run. Linux mounts the file system in a namespace of the campaign, so nothing is left
behind. Where namespaces aren't allowed, `--method limit` limits the size of files instead.

The same seed gives the same attempts. Prints a table of counts, and each attempt that went wrong.
"""

import argparse
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tools.smoke_project import (
    FOLDERS,
    ROOT,
    environment,
    file_digests,
    finish_project,
    machine_line,
    make_project,
)

EXIT_STORAGE = 3
GOOD = {"one message", "had room"}
SPARE_BYTES = 1 << 30
STAGES = {
    "dataset": ("data/real",),
    "captions": ("data/captions", "data/prompts"),
    "foundation": ("data/models/foundation",),
    "text2mask": ("data/models/text2mask",),
    "mask2img": ("data/models/mask2img",),
    "masksyn@car": ("data/synthetic/masksyn/car",),
    "imgsyn@person": ("data/synthetic/imgsyn/person",),
    "seediff@car": ("data/synthetic/seediff/car",),
    "diffumask@person": ("data/synthetic/diffumask/person",),
    "train_seg@baseline": ("data/checkpoints/baseline",),
    "train_seg@mask2former": ("data/checkpoints/mask2former",),
    "evaluate@baseline": ("data/reports/evaluate/baseline",),
    "judge@seediff": ("data/reports/judge/seediff",),
    "memorization@masksyn": ("data/reports/memorization/masksyn",),
    "ablation": ("data/reports/ablation",),
    "code": ("data/code",),
    "check_dataset": ("data/passed/data/real", "data/reports/checks/dataset.json"),
    "check_captions": ("data/passed/data/captions", "data/reports/checks/captions.json"),
    "check_synthetic@masksyn": (
        "data/passed/data/synthetic/masksyn.json",
        "data/reports/checks/masksyn.json",
    ),
}
"""What each stage writes."""
_PICTURE = "data/synthetic/masksyn/car/previews.png"
_EXPORT = ("export", "real", "--out", "exported", "--to")
COMMANDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "show": (("show", "--out", "sheet.png"), ("sheet.png",)),
    "show, HTML": (("show", "--out", "sheet.html"), ("sheet.html",)),
    "validate": (("validate", "--headers-only", "--report", "found.json"), ("found.json",)),
    "captions-export": (("captions-export", "--out", "c.csv"), ("c.csv",)),
    "captions-export, Parquet": (("captions-export", "--out", "c.parquet"), ("c.parquet",)),
    "init": (("--params", "new.yaml", "init", "--dataset", "scenes"), ("new.yaml",)),
    "new": (("new", "made"), ("made/dvc.yaml", "made/params.yaml", "made/profiles")),
    "mask": (
        ("mask", "a red car", "--word", "car", "--steps", "2"),
        tuple(f"masks/car/{name}" for name in ("images", "masks", "samples.jsonl")),  # no cache
    ),
    "predict": (("predict", _PICTURE, "--arm", "baseline"), ("predictions",)),
    "export, COCO": ((*_EXPORT, "coco"), ("exported",)),
    "export, Hugging Face": ((*_EXPORT, "huggingface"), ("exported",)),
    "export-model": (("export-model", "--arm", "baseline", "--out", "m.onnx"), ("m.onnx",)),
    "suites": (("suites", "scenes-p-aug"), ("params.yaml",)),
}
"""What the other commands that write are given, and what they write."""
CHANGED = ("params.yaml",)
"""Outs that are there before the command, which changes them."""
NOT_TRIED = {
    "captions-import": "it writes as captions-export does",
    "pretrain": "it takes hours; the stage foundation writes the same files",
    "track": "tests/tracking/test_stores.py fills the disk under it",
    **dict.fromkeys(
        ("completion", "doctor", "lineage", "params", "plan", "report"), "writes nothing"
    ),
    **dict.fromkeys(("mask_recipe", "suite", "transfer"), "the smoke project has none"),
}
"""Stages and commands that this campaign leaves out, and why."""


@dataclass(frozen=True)
class Task:
    """A command whose disk gets full.

    Attributes:
        name: in the table.
        argv: arguments of `python -m seggen_core`.
        outs: files and folders that it writes, from the project's root.
    """

    name: str
    argv: tuple[str, ...]
    outs: tuple[str, ...]


def all_tasks(stages: Sequence[str] = ()) -> list[Task]:
    """Return the tasks named so, or all."""
    tasks: list[Task] = []
    for name, outs in STAGES.items():
        stage, _, item = name.partition("@")
        tasks.append(Task(name, (stage, *(["--item", item] if item else [])), outs))
    tasks += [Task(name, tuple(argv), outs) for name, (argv, outs) in COMMANDS.items()]
    return [task for task in tasks if not stages or task.name in stages]


class Room:
    """A project on a disk whose room can be set.

    Attributes:
        folder: the project.
    """

    def __init__(self, folder: Path, reference: Path, *, is_mounted: bool) -> None:
        """Lie in `folder`; results come from the finished project `reference`, as links.

        The code is that of this checkout, copied.
        """
        self.folder, self._reference, self._is_mounted = folder, reference, is_mounted
        self._code = make_project(folder.with_name(f"{folder.name}-code"))
        folder.mkdir()
        if is_mounted:
            _mount(folder, SPARE_BYTES, "--types", "tmpfs", "tmpfs")
        self._limit: int | None = None

    def close(self) -> None:
        """Give the file system up."""
        if self._is_mounted:
            _call("umount", str(self.folder))

    def prepare(self, task: Task) -> None:
        """Empty the project, then link all that the task reads."""
        self.free()
        for entry in self.folder.iterdir():
            delete(entry)
        outs = [out for out in task.outs if out not in CHANGED]
        _link_all(self._reference, self.folder, skipped=(*outs, *FOLDERS))
        for name in FOLDERS:
            (self.folder / name).symlink_to(self._code / name)

    def fill(self, room: int) -> None:
        """Leave so many bytes of room."""
        self._limit = room
        if self._is_mounted:
            used = _used_bytes(self.folder)
            page = os.sysconf("SC_PAGE_SIZE")
            _mount(self.folder, max(used + room, page) // page * page, "--options", "remount")

    def free(self) -> None:
        """Leave as much room as anybody wants."""
        self._limit = None
        if self._is_mounted:
            _mount(self.folder, SPARE_BYTES, "--options", "remount")

    def run(self, task: Task) -> subprocess.CompletedProcess[str]:
        """Run the task's command to its end."""

        def limit_files() -> None:
            if self._limit is not None and not self._is_mounted:
                resource.setrlimit(resource.RLIMIT_FSIZE, (self._limit, self._limit))

        return subprocess.run(
            [sys.executable, "-m", "seggen_core", *task.argv],
            cwd=self.folder,
            env=environment(PYTHONDONTWRITEBYTECODE="1"),
            capture_output=True,
            text=True,
            check=False,
            preexec_fn=limit_files,
        )

    def needed(self, task: Task) -> int:
        """Run a task with all the room that it wants; return the bytes that it took at most.

        Raises:
            RuntimeError: it failed.
        """
        self.prepare(task)
        before, peak, is_over = _used_bytes(self.folder), 0, threading.Event()

        def watch() -> None:
            nonlocal peak
            while not is_over.wait(0.02):
                peak = max(peak, _used_bytes(self.folder) - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            done = self.run(task)
        finally:
            is_over.set()
            watcher.join()
            peak = max(peak, _used_bytes(self.folder) - before)
        if done.returncode:
            raise RuntimeError(f"{task.name} failed with enough room:\n{done.stderr}")
        largest = max(
            p.stat().st_size
            for out in task.outs
            for p in [self.folder / out, *(self.folder / out).rglob("*")]
            if p.is_file()
        )
        return peak if self._is_mounted else largest


def attempt(room: Room, task: Task, size: int, *, expected: dict[str, str]) -> tuple[str, str]:
    """Run a task with so much room, then again with enough; return what happened and details.

    Args:
        room: the project.
        task: the command.
        size: bytes of room.
        expected: digests of what the task writes where nothing disturbs it.
    """
    room.prepare(task)
    room.fill(size)
    first = room.run(task)
    if first.returncode == 0:
        same = file_digests(room.folder, *task.outs) == expected
        return ("had room" if same else "other bytes"), first.stderr
    messages = [line for line in first.stderr.splitlines() if line.startswith("seggen ")]
    if "Traceback" in first.stderr or first.returncode < 0:
        return "traceback", first.stderr
    if first.returncode != EXIT_STORAGE or len(messages) != 1:
        return f"exit {first.returncode}", first.stderr
    room.free()
    second = room.run(task)
    if second.returncode:
        return "stuck", second.stderr
    if file_digests(room.folder, *task.outs) != expected:
        return "other bytes", f"after {first.stderr}"
    left = [p for p in (room.folder / ".seggen" / "scratch").glob("*/*") if p.is_dir()]
    return ("leftover", f"{left}") if left else ("one message", messages[0])


def campaign(
    tasks: Sequence[Task],
    *,
    reference: Path,
    work: Path,
    num_cuts: int,
    seed: int,
    is_mounted: bool,
    say: Callable[[str], None] = print,
) -> Counter[str]:
    """Fill the disk under each task `num_cuts` times; return how many attempts ended how.

    Args:
        tasks: what to disturb.
        reference: a finished project.
        work: an empty folder.
        num_cuts: attempts a task: no room at all, then random parts of what the task needs.
        seed: of those parts.
        is_mounted: use a file system of its own, which this process may mount; else a limit on the
            size of files.
        say: gets the lines of the table.
    """
    room = Room(work / "project", reference, is_mounted=is_mounted)
    total: Counter[str] = Counter()
    say("| stage or command | needs | attempts | one message, exit 3 | had room | wrong |")
    say("|---|---:|---:|---:|---:|---:|")
    try:
        for task in tasks:
            rng = random.Random(f"{seed}/{task.name}")
            needed = room.needed(task)
            expected = file_digests(room.folder, *task.outs)
            sizes = [0, *(int(needed * rng.random()) for _ in range(num_cuts - 1))]
            counts: Counter[str] = Counter()
            for size in sizes:
                outcome, details = attempt(room, task, size, expected=expected)
                counts[outcome] += 1
                if outcome not in GOOD:
                    say(f"WRONG {task.name}, {size} bytes: {outcome}\n{details}")
            total += counts
            say(f"| {task.name} | {needed / 1e6:.2f} MB | {_cells(counts)} |")
    finally:
        room.close()
    say(f"| all | | {_cells(total)} |")
    return total


def _cells(counts: Counter[str]) -> str:
    wrong = sum(count for outcome, count in counts.items() if outcome not in GOOD)
    return f"{counts.total()} | {counts['one message']} | {counts['had room']} | {wrong}"


def enter_namespace() -> bool:
    """Start this program again where it may mount file systems; return False where that fails."""
    if "SEGGEN_MAY_MOUNT" in os.environ:
        return True
    for options in (["--mount"], ["--mount", "--map-root-user"]):
        command = [str(shutil.which("unshare")), *options, "--"]
        probe = [*command, "mount", "--types", "tmpfs", "tmpfs", tempfile.gettempdir()]
        if shutil.which("unshare") is None:
            return False
        if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
            os.environ["SEGGEN_MAY_MOUNT"] = "1"
            sys.stdout.flush()
            program = [sys.executable, "-m", "tools.disk_full", *sys.argv[1:]]
            os.execvp(command[0], [*command, *program])  # noqa: S606 (there is no shell in between)
    return False


def main() -> int:
    """The command line; exit code 1 where an attempt went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the amounts of room (default: 0)")
    parser.add_argument("--cuts", type=int, default=3, help="attempts a task (default: 3)")
    parser.add_argument("--only", nargs="+", default=[], help="names of stages and commands")
    parser.add_argument(
        "--reference", type=Path, help="a finished smoke project (default: one is made)"
    )
    parser.add_argument("--method", choices=["auto", "tmpfs", "limit"], default="auto")
    args = parser.parse_args()
    is_mounted = args.method != "limit" and enter_namespace()
    if args.method == "tmpfs" and not is_mounted:
        parser.error("no file system can be mounted here; try --method limit")
    os.chdir(ROOT)
    with tempfile.TemporaryDirectory(prefix="seggen-disk-full-") as folder:
        work = Path(folder)
        reference = args.reference or finish_project(make_project(work / "reference"))
        way = "a file system in memory" if is_mounted else "a limit on the size of files"
        print(f"Disk full by {way}, seed {args.seed}. {machine_line()}\n", flush=True)
        counts = campaign(
            all_tasks(args.only),
            reference=reference.resolve(),
            work=work,
            num_cuts=args.cuts,
            seed=args.seed,
            is_mounted=is_mounted,
            say=lambda line: print(line, flush=True),
        )
    return 0 if set(counts) <= GOOD else 1


def _mount(folder: Path, size: int, *options: str) -> None:
    *kind, last = options
    remount = last == "remount"
    given = ["--options", f"remount,size={size}"] if remount else [*kind, "-o", f"size={size}"]
    source = [] if remount else [last]
    _call("mount", *given, *source, str(folder))


def _call(program: str, *argv: str) -> None:
    subprocess.run([shutil.which(program) or program, *argv], check=True)


def _used_bytes(folder: Path) -> int:
    state = os.statvfs(folder)
    return (state.f_blocks - state.f_bfree) * state.f_frsize


def delete(entry: Path) -> None:
    """Delete a file, a folder or a link."""
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry)
    else:
        entry.unlink()


def _link_all(source: Path, target: Path, *, skipped: Sequence[str]) -> None:
    """Link what is in `source`, but for the outs of a task, whose folders are made."""
    for entry in sorted(source.iterdir()):
        name = entry.name
        if name in (".seggen", ".git") or name in skipped:
            continue
        inner = [s.partition("/")[2] for s in skipped if s.partition("/")[0] == name]
        if inner:
            (target / name).mkdir()
            _link_all(entry, target / name, skipped=inner)
        elif entry.is_file():
            shutil.copy2(entry, target / name)
        else:
            (target / name).symlink_to(entry)


if __name__ == "__main__":
    sys.exit(main())
