"""The record on disk of what stages report: one JSON object a line, appended; a killed process loses at most its last line.

A line is an event of a run: start (params, tags), metrics, tags, input, artifact, end (status). A
line of kind "delivered" says how far a tracking store has got, so that `replay` sends the rest and
nothing twice.
"""

import fcntl
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

Event = dict[str, Any]
"""One line: {"run": uid, "seq": int, "event": kind, "time": ms since the epoch, ...}."""


@dataclass(frozen=True)
class Delivery:
    """How far one store has got with a run.

    Attributes:
        run_id: the store's id of the run.
        through: events with a smaller seq were sent ...
        missing: ... except these.
    """

    run_id: str
    through: int = 0
    missing: frozenset[int] = frozenset()


@dataclass
class RunRecord:
    """What one run has reported, and how far it got to which store.

    Attributes:
        uid: key of the run in the log.
        events: in order of their seq.
        deliveries: by the store's address without credentials.
    """

    uid: str
    events: list[Event] = field(default_factory=list)
    deliveries: dict[str, Delivery] = field(default_factory=dict)

    @property
    def ended(self) -> bool:
        """Whether the run said how it ended."""
        return any(e["event"] == "end" for e in self.events)

    @property
    def next_seq(self) -> int:
        """The seq that the next event gets."""
        return self.events[-1]["seq"] + 1 if self.events else 0

    def add(self, kind: str, **fields: Any) -> Event:
        """Add and return an event of this moment."""
        now = time.time_ns() // 1_000_000
        event: Event = {"run": self.uid, "seq": self.next_seq, "event": kind, "time": now, **fields}
        self.events.append(event)
        return event

    def undelivered(self, store: str) -> list[Event]:
        """Events that the store with this address hasn't got yet."""
        delivery = self.deliveries.get(store)
        if delivery is None:
            return list(self.events)
        return [
            e for e in self.events if e["seq"] >= delivery.through or e["seq"] in delivery.missing
        ]

    def set_delivery(self, store: str, *, run_id: str, missing: list[Event]) -> Event:
        """Note that everything but `missing` got to the store; return the line that says so in the log."""
        delivery = Delivery(run_id, self.next_seq, frozenset(e["seq"] for e in missing))
        self.deliveries[store] = delivery
        line: Event = {"run": self.uid, "event": "delivered", "store": store, "run_id": run_id}
        return line | {"through": delivery.through, "missing": sorted(delivery.missing)}


def encode_metrics(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Return JSON-ready values: NaN and infinities become the strings that `float` reads back."""
    values = {key: float(value) for key, value in metrics.items()}
    return {key: value if math.isfinite(value) else str(value) for key, value in values.items()}


def read_log(path: Path) -> list[RunRecord]:
    """Return the runs in the log at `path`, oldest first; lines torn by a crash are left out."""
    runs: dict[str, RunRecord] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
            uid = event["run"]
        except (ValueError, KeyError, TypeError):
            continue
        if event["event"] == "delivered":
            if uid in runs:
                runs[uid].deliveries[event["store"]] = Delivery(
                    event["run_id"], event["through"], frozenset(event["missing"])
                )
        elif event["event"] == "start":
            runs[uid] = RunRecord(uid, [event])
        elif uid in runs:
            runs[uid].events.append(event)
    return list(runs.values())


class MetricsLog:
    """Appends events to one log file.

    A file that can't be written (a full disk) is said once and never stops the stage that reports.
    """

    def __init__(self, path: Path) -> None:
        """Open the log at `path`, made where there is none, and mark it as in use until `close`."""
        self.path = path
        self._failed = False
        self._descriptor: int | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(self._descriptor).st_size
            if size and os.pread(self._descriptor, 1, size - 1) != b"\n":
                os.write(self._descriptor, b"\n")
        except OSError as error:
            self._say_failed(error)

    def append(self, *events: Event) -> None:
        """Write events, whole lines in one call, so that two processes never mix theirs."""
        if self._descriptor is None or self._failed:
            return
        text = "".join(json.dumps(event, separators=(",", ":")) + "\n" for event in events)
        try:
            os.write(self._descriptor, text.encode())
        except OSError as error:
            self._say_failed(error)

    def claim(self) -> bool:
        """Take the log for this process alone; False while another live process uses it."""
        if self._descriptor is None:
            return False
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def share(self) -> None:
        """Mark the log as in use by this process, next to others."""
        if self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def end_abandoned(self) -> list[RunRecord]:
        """Write the end (KILLED) of runs whose process died without one, and return them; `claim` the log first."""
        abandoned = [run for run in read_log(self.path) if not run.ended]
        for run in abandoned:
            self.append(run.add("end", time=run.events[-1]["time"], status="KILLED"))
        return abandoned

    def close(self) -> None:
        """Close the file; the log is no longer in use."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _say_failed(self, error: OSError) -> None:
        self._failed = True
        logger.warning(
            "metrics can't be kept in %s (%s); the stage goes on without a record on disk. Free space or fix the folder's "
            "permissions to have one in the next run",
            self.path,
            error.strerror,
        )


@contextmanager
def file_lock(path: Path, *, timeout: float) -> Iterator[None]:
    """Hold an exclusive lock on `path` among processes; TimeoutError after `timeout` seconds of waiting."""
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + timeout
    with path.open("w") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise TimeoutError(
                        f"{path} has been locked by another process for {timeout:.0f} s"
                    ) from None
                time.sleep(0.05)
        yield
