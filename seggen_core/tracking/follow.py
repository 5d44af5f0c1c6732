"""Sends the log of all runs to MLflow, while stages run or afterwards.

How far a store is with a run stands in a note beside the log. A follower may be killed at any
point: what it then sends again, MLflow already has. A run is found there by its uid, and equal
metrics, parameters, tags and inputs leave one row. Several followers may work at once, since a lock
lets one of them send at a time.
"""

import logging
import os
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import TypeAdapter, ValidationError

from seggen_core.config import RuntimeConfig
from seggen_core.errors import SegGenError
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking import log
from seggen_core.tracking.run import sigterm_exits
from seggen_core.tracking.target import DISK_ONLY, TrackingTarget, describe, resolve_target

if TYPE_CHECKING:
    from seggen_core.tracking.mlflow_store import MlflowStore

logger = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""How often a follower looks for new lines."""

RETRY_SECONDS = 10.0
"""When a run that could not be sent is tried again."""

SLOW_FAILURE_SECONDS = 2.0
"""A store that takes longer to fail is not asked for the next run, too."""

LOCK_SECONDS = 120.0
"""How long a follower waits for another one to finish with a run."""


@dataclass
class Delivery:
    """How far one store is with a run; the content of a note.

    Attributes:
        run_id: the store's id of the run.
        offset: byte position in the run's file behind what the store has.
        is_ended: the store knows how the run ended.
    """

    run_id: str
    offset: int = 0
    is_ended: bool = False


_DELIVERY = TypeAdapter(Delivery)


@dataclass
class Report:
    """What a follower did in one pass over the log.

    Attributes:
        store: the store's address, without credentials.
        num_runs: runs that something was sent for.
        num_events: lines sent; a line may hold several metrics of one step.
        num_damaged: lines, and files without a start, that were left out.
        problems: why something could not be sent, by run; by `store` for everything.
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
    """Brings one store up to the log, pass by pass."""

    def __init__(self, paths: ProjectPaths, target: TrackingTarget) -> None:
        """Follow the log of the project at `paths`; the first pass connects."""
        self._target = target
        self._folder = paths.metrics_log
        self._notes = paths.metrics_log / "sent" / target.key
        self._store: MlflowStore | None = None
        self._found: set[Path] = set()
        self._complete: set[Path] = set()
        self._problems: dict[str, str] = {}
        self._retry_at: dict[Path, float] = {}

    def send(self) -> Report:
        """Send what the store lacks. A run that fails holds up no other one.

        Times, steps and statuses are those of the log. A database is made where there is none, also
        when there is nothing to send. Nothing raises: the report has the problems.
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
                self._problems[path.stem] = describe(error)
                self._retry_at[path] = time.monotonic() + RETRY_SECONDS
                if time.monotonic() - started > SLOW_FAILURE_SECONDS:
                    break
            else:
                self._problems.pop(path.stem, None)
                report.num_runs += num_sent > 0
                report.num_events += num_sent
        return report

    def _connect(self) -> "MlflowStore":
        """Import MLflow (2.5 s of CPU) with its telemetry off, and open the store, once."""
        if self._target.uri == DISK_ONLY:
            raise SegGenError(
                "this address sends nothing; name a store in MLFLOW_TRACKING_URI or "
                "runtime.tracking_uri (sqlite:///mlflow.db is the project's own)"
            )
        if self._store is None:
            os.environ["MLFLOW_DISABLE_TELEMETRY"] = os.environ["DO_NOT_TRACK"] = "true"
            with warnings.catch_warnings(action="ignore"):  # MLflow uses deprecated SQLAlchemy
                from seggen_core.tracking.mlflow_store import MlflowStore
            self._store = MlflowStore(self._target)
        return self._store

    def _send_run(self, path: Path, report: Report) -> int:
        """Send what the store lacks of one run; return how many events that was."""
        if path.stat().st_size == 0:  # just made, and not yet locked
            return 0
        # Asked before the file is read: a stage may write its end and exit in between.
        is_running = log.is_being_written(path)
        num_sent = 0
        with log.file_lock(self._notes / ".lock", timeout=LOCK_SECONDS):
            note = self._notes / f"{path.name.rsplit('.', 2)[1]}.json"
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
        """Return how far the store is with a run, which is created there; None without a start."""
        delivery = _read_note(note)
        if delivery is not None and path in self._found:
            return delivery
        start = next((e for e in log.read_chunk(path).events if isinstance(e, log.Start)), None)
        if start is None:
            return None
        run_id, is_deleted = self._connect().find_or_create(start)
        self._found.add(path)
        if is_deleted:  # by a user, who doesn't want it back
            return Delivery(run_id, offset=path.stat().st_size, is_ended=True)
        return delivery if delivery and delivery.run_id == run_id else Delivery(run_id)

    def _deliver(self, path: Path, delivery: Delivery, *, note: Path, report: Report) -> int:
        """Send what lies behind `delivery.offset`; an artifact that fails is left for later."""
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
        """Upload the artifacts of a chunk; return the reason where one of them failed."""
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
    """Send what the store lacks, of running stages what they have written; then end."""
    return Follower(paths, resolve_target(paths, runtime)).send()


def follow(paths: ProjectPaths, runtime: RuntimeConfig) -> Report:
    """Send what stages write within seconds, until Ctrl-C or SIGTERM; then send the rest.

    A store that can't be reached, or doesn't take something, is said once and tried again.
    """
    follower = Follower(paths, resolve_target(paths, runtime))
    is_said = False
    with sigterm_exits():
        try:
            while True:
                report = follower.send()
                if report.problems and not is_said:
                    logger.warning("%s. Runs stay on disk, and sending is tried again", report)
                is_said = bool(report.problems)
                time.sleep(POLL_SECONDS)
        except (KeyboardInterrupt, SystemExit):
            pass
    return follower.send()


def mlflow_run_id(paths: ProjectPaths, name: str) -> str | None:
    """Return MLflow's id of the newest run of a stage ("masksyn@car"); None where none was sent."""
    for path in log.run_files(paths.metrics_log, name)[:1]:
        uid = path.name.rsplit(".", 2)[1]
        for note in (paths.metrics_log / "sent").glob(f"*/{uid}.json"):
            if delivery := _read_note(note):
                return delivery.run_id
    return None


def _read_note(path: Path) -> Delivery | None:
    """Return what a note says; None for none, or a damaged one: the run is then sent again."""
    try:
        return _DELIVERY.validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _write_note(path: Path, delivery: Delivery) -> None:
    unfinished = path.with_suffix(".new")
    unfinished.write_bytes(_DELIVERY.dump_json(delivery))
    unfinished.replace(path)
