"""Sends to MLflow what the logs on disk hold and the store lacks."""

from contextlib import closing
from dataclasses import dataclass

from seggen_core.config import RuntimeConfig
from seggen_core.errors import SegGenError
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.delivery import deliver
from seggen_core.tracking.metrics_log import MetricsLog, file_lock, read_log
from seggen_core.tracking.target import DISK_ONLY, describe, import_mlflow_store, resolve_target


@dataclass(frozen=True)
class ReplayReport:
    """What a replay did.

    Attributes:
        store: the store's address, without credentials.
        num_runs: runs that something was sent for.
        num_events: events sent (a batch of metrics of one step is one).
        num_complete: runs that the store had already.
        num_busy: logs left out because a stage is writing to them.
    """

    store: str
    num_runs: int
    num_events: int
    num_complete: int
    num_busy: int

    def __str__(self) -> str:
        busy = f"; {self.num_busy} running stages were left alone" if self.num_busy else ""
        return f"{self.store}: sent {self.num_runs} runs ({self.num_events} events); had {self.num_complete} already{busy}"


def replay(paths: ProjectPaths, runtime: RuntimeConfig) -> ReplayReport:
    """Send every run in `paths.metrics_log` that the store lacks, or the rest of it; a second replay sends nothing.

    Times, steps and statuses are those of the original run. Runs whose process died without an end
    are closed as KILLED; the log of a stage that is running is left to it.

    Raises:
        SegGenError: the address says to send nothing, or the store can't be reached or refuses
            something. What was sent stays sent, and the next replay goes on from there.
    """
    target = resolve_target(paths, runtime)
    if target.uri == DISK_ONLY:
        raise SegGenError(
            f"the tracking address is {DISK_ONLY!r}, which sends nothing; name the store to replay to in MLFLOW_TRACKING_URI "
            "or runtime.tracking_uri (sqlite:///mlflow.db is the project's own)"
        )
    num_runs = num_events = num_complete = num_busy = 0
    store = None
    try:
        with file_lock(paths.metrics_log / ".replay.lock", timeout=5.0):
            for path in sorted(paths.metrics_log.glob("*.jsonl")):
                with closing(MetricsLog(path)) as log:
                    if not log.claim():
                        num_busy += 1
                        continue
                    log.end_abandoned()
                    log.share()
                    for record in read_log(path):
                        store = store or import_mlflow_store()(target)
                        delivery = record.deliveries.get(target.label)
                        if delivery is not None and not store.has_run(delivery.run_id):
                            del record.deliveries[target.label]
                        num_wanted = len(record.undelivered(target.label))
                        if not num_wanted:
                            num_complete += 1
                            continue
                        reason = deliver(record, store=store, log=log)
                        if reason is not None:
                            raise reason
                        num_runs += 1
                        num_events += num_wanted
    except Exception as error:
        raise SegGenError(
            f"replay to {target.label} stopped after {num_runs} runs: {describe(error)}. Nothing on disk is lost; run "
            "`seggen track --replay` again once the store answers"
        ) from error
    return ReplayReport(target.label, num_runs, num_events, num_complete, num_busy)
