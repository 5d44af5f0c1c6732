"""Talks to MLflow: the only importer of mlflow, itself imported only when there is something to send.

`import mlflow` costs 2.5 s of CPU whatever is imported from it (the package's own __init__ loads
everything), and an SQLite store 1.4 s more, so it waits for the first flush.
`target.import_mlflow_store` imports this module, telemetry off.
"""

import json
import logging
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from seggen_core.tracking.metrics_log import Event, file_lock
from seggen_core.tracking.target import TrackingTarget

CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""In force during our own calls only, and only where the user hasn't set them: the run itself retries, later."""

DATABASE_LOCK_SECONDS = 60.0
"""Creating and migrating a fresh database takes 1 s of CPU; several processes wait for one another."""

SLOW_FAILURE_SECONDS = 2.0
"""A call that fails after this long met a server that hangs: the rest isn't tried this time."""


@contextmanager
def _client_calls() -> Iterator[None]:
    """Short timeouts, no retries, no log lines or warnings of MLflow's own; nothing of it is seen by child processes."""
    added = {k: v for k, v in CLIENT_SETTINGS.items() if k not in os.environ}
    loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "urllib3.connectionpool")]
    levels = [log.level for log in loggers]
    os.environ.update(added)
    for log in loggers:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        for key in added:
            os.environ.pop(key, None)
        for log, level in zip(loggers, levels, strict=True):
            log.setLevel(level)


class MlflowStore:
    """One experiment of one MLflow store. Every method raises what MLflow raises; the caller goes on without."""

    def __init__(self, target: TrackingTarget) -> None:
        """Connect, and make the experiment where there is none.

        A SQLite database is created, migrated and opened by one process at a time: of eight
        processes that meet a fresh one, MLflow 3.17 lets seven fail.
        """
        self.target = target
        with _client_calls():
            if target.sqlite_file is None:
                self._client = MlflowClient(target.uri)
                self._experiment_id = self._find_experiment()
            else:
                target.sqlite_file.parent.mkdir(parents=True, exist_ok=True)
                lock = target.sqlite_file.parent / ".seggen" / f"{target.sqlite_file.name}.lock"
                with file_lock(lock, timeout=DATABASE_LOCK_SECONDS):
                    self._client = self._open_database(target.sqlite_file)
                    self._experiment_id = self._find_experiment()

    def _open_database(self, file: Path) -> MlflowClient:
        if not file.exists():
            _create_database(file)
        try:
            return MlflowClient(self.target.uri)
        except MlflowException as error:
            if not self.target.is_own or "out-of-date database schema" not in str(error):
                raise
        from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

        engine = create_sqlalchemy_engine(self.target.uri)
        _upgrade_db(engine)
        engine.dispose()
        return MlflowClient(self.target.uri)

    def _find_experiment(self) -> str:
        name = self.target.experiment
        if (found := self._client.get_experiment_by_name(name)) is not None:
            return found.experiment_id
        location = self.target.artifact_root.as_uri() if self.target.is_database else None
        try:
            return self._client.create_experiment(name, artifact_location=location)
        except MlflowException:
            if (found := self._client.get_experiment_by_name(name)) is not None:
                return found.experiment_id
            raise

    def create_run(self, start: Event) -> str:
        """Create the run that a start event announces and return its id."""
        with _client_calls():
            run = self._client.create_run(
                self._experiment_id,
                start_time=start["time"],
                tags=start["tags"],
                run_name=start["name"],
            )
        return run.info.run_id

    def has_run(self, run_id: str) -> bool:
        """Whether the store knows this run and would take more of it."""
        with _client_calls():
            try:
                return self._client.get_run(run_id).info.lifecycle_stage == "active"
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return False
                raise

    def send(self, run_id: str, events: Sequence[Event]) -> tuple[list[Event], Exception | None]:
        """Send events of one run; sending one twice changes nothing.

        Returns:
            The events that did not get through, and the first reason. Metrics, inputs, the end and
            each artifact are independent: a picture that can't be uploaded holds nothing else up.
        """
        groups = [
            [e for e in events if e["event"] in ("start", "metrics", "tags")],
            [e for e in events if e["event"] == "input"],
            [e for e in events if e["event"] == "end"],
            *([e] for e in events if e["event"] == "artifact"),
        ]
        missing: list[Event] = []
        reason: Exception | None = None
        hangs = False
        with _client_calls():
            for group in filter(None, groups):
                if hangs:
                    missing += group
                    continue
                started = time.monotonic()
                try:
                    self._send_group(run_id, group)
                except Exception as error:  # noqa: BLE001 (whatever a client library raises, the stage goes on)
                    reason = reason or error
                    missing += group
                    hangs = time.monotonic() - started > SLOW_FAILURE_SECONDS
        return sorted(missing, key=lambda e: e["seq"]), reason

    def _send_group(self, run_id: str, group: Sequence[Event]) -> None:
        kind = group[0]["event"]
        if kind == "input":
            self._client.log_inputs(run_id, [_dataset_input(e) for e in group])
        elif kind == "artifact":
            kept = self.target.root / group[0]["kept"]
            if kept.exists():
                self._client.log_artifact(run_id, str(kept))
                kept.unlink()
        elif kind == "end":
            self._client.set_terminated(
                run_id, status=group[-1]["status"], end_time=group[-1]["time"]
            )
        else:
            metrics = [
                Metric(key, float(value), e["time"], e["step"])
                for e in group
                if e["event"] == "metrics"
                for key, value in e["metrics"].items()
            ]
            params = [
                Param(k, v) for e in group if e["event"] == "start" for k, v in e["params"].items()
            ]
            tags = {k: v for e in group if e["event"] == "tags" for k, v in e["tags"].items()}
            self._client.log_batch(
                run_id,
                metrics=metrics,
                params=params,
                tags=[RunTag(k, v) for k, v in tags.items()],
                synchronous=True,
            )


def _create_database(file: Path) -> None:
    """Make an SQLite database with MLflow's current schema at `file`, whole or not at all.

    The migrations of MLflow 3.17 sync to disk a few hundred times (8 s on a busy disk); here they
    sync once, at the end.
    """
    import sqlalchemy
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

    unfinished = file.with_name(f"{file.name}.new")
    unfinished.unlink(missing_ok=True)
    engine = create_sqlalchemy_engine(f"sqlite:///{unfinished}")
    sqlalchemy.event.listen(
        engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous = OFF")
    )
    _initialize_tables(engine)
    engine.dispose()
    with unfinished.open("rb+") as handle:
        os.fsync(handle.fileno())
    unfinished.replace(file)


def _dataset_input(event: dict[str, Any]) -> DatasetInput:
    source = json.dumps({"uri": event["path"]})
    dataset = Dataset(
        name=event["name"], digest=event["digest"], source_type="local", source=source
    )
    return DatasetInput(
        dataset=dataset, tags=[InputTag("mlflow.data.context", event["digest_from"])]
    )
