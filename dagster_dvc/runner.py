"""Runs stages through `dvc repro --single-item`, several at a time: the one runner of this package.

`python -m dagster_dvc.repro`, jobs over a whole pipeline, and the asset behind each partition of a
backfill use it. It needs no thread: it looks at its processes ten times a second.
"""

import logging
import time
from collections import Counter
from collections.abc import Callable, Collection, Generator, Mapping
from contextlib import suppress
from pathlib import Path

from dagster_dvc.busy import Claim, describe, find_conflict, hold_dvc_lock, read_claims
from dagster_dvc.errors import DagsterDvcError
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.lock import LockedStage, read_lock
from dagster_dvc.manifest import load_manifest
from dagster_dvc.process import POLL_SECONDS, DvcProcess, kill, stop
from dagster_dvc.result import Outcome, StageResult
from dagster_dvc.schedule import Schedule
from dagster_dvc.status import lock_status

logger = logging.getLogger(__name__)

MAX_LOST_RACES = 3
LOOK_SECONDS = 1.0
"""How often the runner looks whether another process is still at the files of a stage."""


class StageRun:
    """A stage in progress.

    Attributes:
        node: the stage.
        process: DVC.
        result: how it ended; None before.
    """

    def __init__(self, root: Path, node: StageNode, *, env: Mapping[str, str] | None) -> None:
        """Start the stage of the project in `root` with the environment `env`."""
        self.node = node
        self.result: StageResult | None = None
        self._root = root
        self._before = _look(root, node)
        argv = ["--wait-for-lock", "repro", "--single-item", node.name]
        self.process = DvcProcess(root, argv, env=env)

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.node.name

    def finish(self, *, cancelled: bool = False) -> StageResult:
        """Note how it ended; only once `process` has ended.

        Raises:
            DvcProjectError: it failed, and dvc.lock is damaged.
        """
        exit_code = self.process.exit_code
        assert exit_code is not None, "the process still runs"
        if exit_code < 0:
            # DVC was killed alone: nobody may write on into what DVC will clear.
            kill([self.process])
        locked, files = _look(self._root, self.node)
        before, _ = self._before
        outcome: Outcome
        if exit_code:
            outcome = "cancelled" if cancelled else "failed"
            read_lock(self._root)  # DVC itself doesn't say what to do about a damaged one
        elif (locked, files) == self._before:
            outcome = "unchanged"
        else:
            cpu = self.process.command_cpu_seconds
            outcome = "ran" if (locked != before if cpu is None else cpu > 0) else "restored"
        outs = locked.outs if locked else {}
        known = before.outs if before else {}
        self.result = StageResult(
            name=self.name,
            outcome=outcome,
            exit_code=exit_code,
            seconds=self.process.seconds,
            dvc_cpu_seconds=self.process.dvc_cpu_seconds,
            command_cpu_seconds=self.process.command_cpu_seconds,
            changed_outs=tuple(p for p, out in outs.items() if p not in known or known[p] != out),
            tail=tuple(self.process.tail),
        )
        return self.result

    def was_overtaken(self) -> bool:
        """Whether another process is at the stage's files, or has recorded it meanwhile."""
        with hold_dvc_lock(self._root):
            claims = read_claims(self._root)
        is_claimed = find_conflict(claims, self._root, self.node) is not None
        return is_claimed or _look(self._root, self.node)[0] != self._before[0]


class Runner:
    """Runs what a `Schedule` says.

    Where another DVC process is at the files of a stage (a shell's, another runner's, one that
    outlived its runner), the stage waits until it has ended; DVC alone would refuse to run it.

    Attributes:
        root: the folder that holds dvc.yaml.
        running: the stages in progress, by name; after an interruption, those that it ended.
    """

    def __init__(
        self,
        root: Path,
        *,
        env: Mapping[str, str] | None = None,
        say: Callable[[str], None] = logger.warning,
    ) -> None:
        """Make a runner; nothing runs yet.

        Args:
            root: the folder that holds dvc.yaml.
            env: the environment of DVC and of the stages' commands; None takes this process's own.
            say: gets a sentence for people where a stage waits for another process.
        """
        self.running: dict[str, StageRun] = {}
        self.root = root
        self._env = env
        self._say = say
        self._is_blocked = False
        self._claims: list[Claim] = []
        self._looked_at = 0.0
        self._said: set[tuple[str, int]] = set()
        self._lost_races: Counter[str] = Counter()

    def run(
        self,
        schedule: Schedule,
        *,
        jobs: int = 1,
        may_start: Callable[[str], bool] = lambda _: True,
    ) -> Generator[StageRun | None]:
        """Run stages, `jobs` at a time; yield each that has ended, and None ten times a second.

        After a failure nothing new starts, and what runs is let end. Whatever is raised meanwhile
        (Ctrl-C, a cancelled run) ends all process groups first; so does closing the iterator, which
        is for `contextlib.closing`.

        Args:
            schedule: what to run, in which order.
            jobs: stages at a time.
            may_start: whether a stage may start now; asked again whenever something has ended.

        Raises:
            DvcProjectError: DVC can't read the project, or would run what no stage of it may.
        """
        has_failed = False
        try:
            while True:
                self._is_blocked = False
                while not has_failed and len(self.running) < jobs:
                    if not self._start_next(schedule, may_start):
                        break
                if not self.running and not self._is_blocked:
                    return
                for run in [run for run in self.running.values() if run.process.poll()]:
                    result = run.finish()
                    del self.running[run.name]
                    if self._has_lost_race(run):
                        schedule.put_back(run.name)
                        continue
                    schedule.finish(result)
                    has_failed |= not result.ok
                    yield run
                yield None
                time.sleep(POLL_SECONDS)
        except BaseException:
            if self.running:
                self._say(f"stopping {', '.join(self.running)} (interrupt again to kill)")
            stop([run.process for run in self.running.values()], root=self.root)
            for run in self.running.values():
                with suppress(DagsterDvcError):
                    run.finish(cancelled=True)
            raise

    def _start_next(self, schedule: Schedule, may_start: Callable[[str], bool]) -> bool:
        """Start the next stage of a schedule; False where none may start now."""
        stages = schedule.manifest.stages
        name = schedule.pop(lambda name: may_start(name) and self._is_free(stages[name]))
        if name is None:
            return False
        # It refuses stages that aren't safe to run; params.yaml may have changed meanwhile.
        manifest = load_manifest(self.root)
        manifest.select([name])
        self.running[name] = StageRun(self.root, manifest.stages[name], env=self._env)
        return True

    def _is_free(self, node: StageNode) -> bool:
        """Whether no other process is at the files of a stage."""
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            started_here = {run.process.pid for run in self.running.values()}
            with hold_dvc_lock(self.root):
                self._claims = [c for c in read_claims(self.root) if c.pid not in started_here]
            self._looked_at = time.monotonic()
        claim = find_conflict(self._claims, self.root, node)
        if claim is None:
            return True
        self._is_blocked = True
        if (node.name, claim.pid) not in self._said:
            self._said.add((node.name, claim.pid))
            self._say(f"{node.name} waits for {describe(claim.pid)}, which is at {claim.path}")
        return False

    def _has_lost_race(self, run: StageRun) -> bool:
        """Whether DVC refused to start a stage since another process was at its files just then."""
        assert run.result is not None
        if run.result.ok or self._lost_races[run.name] == MAX_LOST_RACES:
            return False
        if not run.was_overtaken():
            return False
        self._lost_races[run.name] += 1
        self._looked_at = 0.0
        return True


def single_stage(root: Path, name: str) -> Schedule:
    """A schedule of one stage, and of the hidden ones that it reads from, as far as they changed.

    DVC is asked about the stage itself in any case.
    """
    manifest = load_manifest(root)
    hidden = manifest.hidden_upstream(name)
    # A hidden stage behind visible ones may read a folder of many outputs, of which dvc.lock alone
    # doesn't tell whether it has changed: DVC is asked.
    behind = {parent for parent in hidden if manifest.visible_upstream(parent)}
    changed = {name} | behind | _changed(root, manifest, hidden - behind)
    return Schedule(manifest, selected={name, *hidden}, changed=changed)


def first_hidden_stages(root: Path) -> Schedule:
    """A schedule of the hidden stages that come before all others, as far as they have changed.

    What they write may make other stages changed: run them before you ask which those are.
    """
    manifest = load_manifest(root)
    hidden = [node.name for node in manifest.stages.values() if node.is_hidden]
    first = {name for name in hidden if not manifest.visible_upstream(name)}
    return Schedule(manifest, selected=first, changed=_changed(root, manifest, first))


def _changed(root: Path, manifest: DvcManifest, names: Collection[str]) -> set[str]:
    if not names:
        return set()
    lock = read_lock(root, only=names)
    return set(lock_status(manifest, lock, root=root, only=names))


def _look(
    root: Path, node: StageNode
) -> tuple[LockedStage | None, list[tuple[int, int, int] | None]]:
    """Return what dvc.lock says of a stage, and which files its outputs are."""
    locked = read_lock(root, only={node.name}).get(node.name)
    return locked, [_identity(root / out) for out in node.outs]


def _identity(path: Path) -> tuple[int, int, int] | None:
    try:
        state = path.lstat()
    except FileNotFoundError:
        return None
    return state.st_ino, state.st_mtime_ns, state.st_size
