"""Sends the log of all runs to MLflow, while stages run or afterwards.

A note beside the log says how much of a run a store has. A follower may be killed at any time. The
next one may send some events again, but MLflow keeps one row of equal metrics, parameters, tags and
inputs, and the follower identifies a run there by its uid. Several followers may run at once; a
lock lets one of them send at a time.
"""

import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from seggen_core.config import RuntimeConfig
from seggen_core.errors import SegGenError
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking import log
from seggen_core.tracking.run_description import RunDescription
from seggen_core.tracking.target import DISK_ONLY, TrackingTarget, describe, resolve_target

if TYPE_CHECKING:
    from seggen_core.tracking.mlflow_store import MlflowStore

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Time between two looks for new lines."""

RETRY_SECONDS = 10.0
"""Time after which a run that could not be sent is tried again."""

SLOW_FAILURE_SECONDS = 2.0
"""If a store takes longer than this to fail, the other runs wait for the next pass."""

LOCK_SECONDS = 120.0
"""Longest wait for another follower that sends the same run."""


@dataclass
class Delivery:
    """How much of a run one store has; the content of a note.

    Attributes:
        run_id: the store's id of the run.
        offset: number of bytes of the run's file that the store has.
        is_ended: whether the store has the end of the run.
        is_described: whether the store has what is known after the end: descriptions with links
            to other runs, and an arm's model.
    """

    run_id: str
    offset: int = 0
    is_ended: bool = False
    is_described: bool = False


_DELIVERY = TypeAdapter(Delivery)


@dataclass
class Report:
    """The result of one pass over the log.

    Attributes:
        store: the store's address, without credentials.
        num_runs: number of runs with new events.
        num_events: number of sent lines; a line may hold several metrics of one step.
        num_damaged: number of damaged lines, and of files without a start, that were left out.
        problems: the reason of each failure, by run; by `store` if the store itself fails.
    """

    store: str
    num_runs: int = 0
    num_events: int = 0
    num_damaged: int = 0
    problems: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        text = f"{self.store}: sent {self.num_events} events of {self.num_runs} runs"
        if self.num_damaged:
            text += f", left out {self.num_damaged} damaged lines"
        for name, reason in list(self.problems.items())[:1]:
            text += f"; could not send {len(self.problems)} ({name}: {reason})"
        return text


class Follower:
    """Sends the log to one store, pass by pass."""

    def __init__(self, paths: ProjectPaths, target: TrackingTarget) -> None:
        """Follow the log of the project at `paths`; the first pass connects."""
        self._target = target
        self._folder = paths.metrics_log
        self._notes = paths.metrics_log / "sent" / target.key
        self._store: MlflowStore | None = None
        self._located: set[Path] = set()
        self._complete: set[Path] = set()
        self._described: set[Path] = set()
        self._problems: dict[str, str] = {}
        self._retry_at: dict[Path, float] = {}

    def send(self) -> Report:
        """Send the events that the store lacks. A run that fails does not stop the others.

        Times, steps and statuses are those of the log. If there is no database, one is made, even
        without anything to send. This method never raises; the report has the problems.
        """
        report = Report(self._target.label, problems=self._problems)
        try:
            self._connect()
        except Exception as error:  # noqa: BLE001 (a client library may raise anything)
            return Report(report.store, problems={report.store: describe(error)})
        for path in log.run_files(self._folder):
            started = time.monotonic()
            if path in self._complete or started < self._retry_at.get(path, 0.0):
                continue
            try:
                num_sent = self._send_run(path, report)
            except Exception as error:  # noqa: BLE001 (likewise)
                if self._put_off(path, error, started=started):
                    break
            else:
                self._problems.pop(path.stem, None)
                report.num_runs += num_sent > 0
                report.num_events += num_sent
        self._describe_runs()
        return report

    def _describe_runs(self) -> None:
        """Describe the runs that ended, the oldest first: later ones are made from them."""
        for path in reversed(log.run_files(self._folder)):
            is_waiting = time.monotonic() < self._retry_at.get(path, 0.0)
            if path in self._described or path not in self._complete or is_waiting:
                continue
            started = time.monotonic()
            try:
                self._describe_run(path)
            except Exception as error:  # noqa: BLE001 (a client library may raise anything)
                if self._put_off(path, error, started=started):
                    break
            else:
                self._problems.pop(path.stem, None)
                self._described.add(path)

    def _put_off(self, path: Path, error: Exception, *, started: float) -> bool:
        """Note why a run failed, and when to try again.

        Returns:
            Whether the failure was slow, so that the other runs are better left for later.
        """
        self._problems[path.stem] = describe(error)
        self._retry_at[path] = time.monotonic() + RETRY_SECONDS
        return time.monotonic() - started > SLOW_FAILURE_SECONDS

    def _describe_run(self, path: Path) -> None:
        with log.file_lock(self._notes / ".lock", timeout=LOCK_SECONDS):
            note = self._note(path)
            delivery = _read_note(note)
            if delivery is None or delivery.is_described:
                return
            RunDescription(log.read_events(path), folder=self._folder).send(
                self._connect(), run_id=delivery.run_id
            )
            delivery.is_described = True
            _write_note(note, delivery)

    def _note(self, path: Path) -> Path:
        return self._notes / f"{path.name.rsplit('.', 2)[1]}.json"

    def _connect(self) -> "MlflowStore":
        """Import MLflow (2.5 s of CPU) with its telemetry off, and open the store, once."""
        if self._target.uri == DISK_ONLY:
            raise SegGenError(
                "this address sends nothing; name a store in MLFLOW_TRACKING_URI or "
                "runtime.tracking_uri (sqlite:///mlflow.db is in the project folder)"
            )
        if self._store is None:
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
            with warnings.catch_warnings(action="ignore"):  # MLflow uses deprecated SQLAlchemy
                from seggen_core.tracking.mlflow_store import MlflowStore
            self._store = MlflowStore(self._target)
        return self._store

    def _send_run(self, path: Path, report: Report) -> int:
        """Send the events of one run that the store lacks; return their number."""
        if path.stat().st_size == 0:  # a new file that is not locked yet
            return 0
        # Asked before the file is read: a stage may write its end and exit in between.
        is_running = log.is_being_written(path)
        num_sent = 0
        with log.file_lock(self._notes / ".lock", timeout=LOCK_SECONDS):
            note = self._note(path)
            delivery = self._delivery(path, note=note)
            if delivery is None:
                report.num_damaged += not is_running
            else:
                num_sent = self._deliver(path, delivery, note=note, report=report)
                if not is_running and not delivery.is_ended:
                    last_time = path.stat().st_mtime_ns // 1_000_000
                    end = log.End(status="KILLED", time=last_time)
                    self._connect().send(delivery.run_id, [end])
                    delivery.is_ended = True
                    _write_note(note, delivery)
        if not is_running:
            self._complete.add(path)
        return num_sent

    def _delivery(self, path: Path, *, note: Path) -> Delivery | None:
        """Return how much of a run the store has; create the run there. None without a start."""
        delivery = _read_note(note)
        if delivery is not None and path in self._located:
            return delivery
        start = next((e for e in log.read_chunk(path).events if isinstance(e, log.Start)), None)
        if start is None:
            return None
        parent_id = self._parent_id(start)
        run_id, is_deleted = self._connect().find_or_create(start, parent_id=parent_id)
        self._located.add(path)
        if is_deleted:  # a user deleted it; it stays deleted
            size = path.stat().st_size
            return Delivery(run_id, offset=size, is_ended=True, is_described=True)
        return delivery if delivery and delivery.run_id == run_id else Delivery(run_id)

    def _parent_id(self, start: log.Start) -> str | None:
        """Return the store's id of the run that this one is a part of; create it if need be."""
        if start.parent is None or (file := log.find_run(self._folder, start.parent)) is None:
            return None
        parent = next((e for e in log.read_chunk(file).events if isinstance(e, log.Start)), None)
        return None if parent is None else self._connect().find_or_create(parent)[0]

    def _deliver(self, path: Path, delivery: Delivery, *, note: Path, report: Report) -> int:
        """Send the events after `delivery.offset`; an artifact that fails is tried again later."""
        num_sent, offset, problem = 0, delivery.offset, None
        while (chunk := log.read_chunk(path, offset)).offset > offset:
            self._connect().send(delivery.run_id, chunk.events)
            problem = self._upload(delivery.run_id, chunk) or problem
            offset = chunk.offset
            delivery.offset = delivery.offset if problem else offset
            delivery.is_ended |= any(isinstance(event, log.End) for event in chunk.events)
            _write_note(note, delivery)
            num_sent += len(chunk.events)
            report.num_damaged += chunk.num_damaged
        if problem is not None:
            raise problem
        return num_sent

    def _upload(self, run_id: str, chunk: log.Chunk) -> Exception | None:
        """Upload the artifacts of a chunk; return the error if one of them fails."""
        problem = None
        for file in [event.file for event in chunk.events if isinstance(event, log.Artifact)]:
            try:
                self._connect().upload(run_id, self._folder / "artifacts" / file)
            except FileNotFoundError:
                logger.warning("%s is gone; its run is sent without it", file)
            except Exception as error:  # noqa: BLE001 (a client library may raise anything)
                problem = error
        return problem


def replay(paths: ProjectPaths, runtime: RuntimeConfig) -> Report:
    """Send all events that the store lacks, also those of running stages; then return."""
    return Follower(paths, resolve_target(paths, runtime)).send()


def follow(paths: ProjectPaths, runtime: RuntimeConfig) -> Report:
    """Send new events within seconds, until Ctrl-C or SIGTERM; then send the rest.

    If the store fails, this logs one warning and tries again.
    """
    follower = Follower(paths, resolve_target(paths, runtime))
    is_warned = False
    with _told_to_end() as end:
        try:
            while not end.is_asked:
                report = follower.send()
                if report.problems and not is_warned:
                    logger.warning("%s. Runs stay on disk, and sending is tried again", report)
                is_warned = bool(report.problems)
                time.sleep(POLL_SECONDS)
        except KeyboardInterrupt:
            pass
    return follower.send()


@dataclass
class _End:
    """Whether somebody has asked for the end.

    No `threading.Event`: a signal's handler runs between any two steps of the main thread, also
    where that holds the event's lock, and would wait for it for ever.
    """

    is_asked: bool = False


@contextmanager
def _told_to_end() -> Iterator[_End]:
    """Note the wish to end, and interrupt, at Ctrl-C or SIGTERM.

    Python drops an exception that is raised within a finaliser, and the interruption with it. So
    whoever works in the block looks at the note, too.
    """
    end = _End()

    def stop(*_: object) -> None:
        end.is_asked = True
        raise KeyboardInterrupt

    before = {signum: signal.getsignal(signum) for signum in (signal.SIGINT, signal.SIGTERM)}
    heard = {signum: old for signum, old in before.items() if old != signal.SIG_IGN}
    for signum in heard:  # a shell's background job ignores Ctrl-C
        signal.signal(signum, stop)
    try:
        yield end
    finally:
        for signum, handler in heard.items():
            signal.signal(signum, handler)


def mlflow_run_id(paths: ProjectPaths, name: str) -> str | None:
    """Return MLflow's id of the newest run of a stage ("masksyn@car"); None if none was sent."""
    for path in log.run_files(paths.metrics_log, name)[:1]:
        uid = path.name.rsplit(".", 2)[1]
        for note in (paths.metrics_log / "sent").glob(f"*/{uid}.json"):
            if delivery := _read_note(note):
                return delivery.run_id
    return None


def _read_note(path: Path) -> Delivery | None:
    """Read a note; None if it is missing or damaged. Then the run is sent again."""
    try:
        return _DELIVERY.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write_note(path: Path, delivery: Delivery) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_bytes(_DELIVERY.dump_json(delivery))
    unfinished.replace(path)
