"""Writes runs to MLflow. Only `follow` imports it; `mlflow_registry` registers models.

It uses only MLflow's public client and command line. Every call ends in bounded time. MLflow's
timeouts count from byte to byte, so a slow server could hold a call for ever.
"""

import json
import logging
import os
import re
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import quote

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from seggen_core.tracking.describe import model_text, note
from seggen_core.tracking.log import (
    End,
    Event,
    Input,
    Metrics,
    Model,
    Output,
    Params,
    Start,
    Tags,
    file_lock,
)
from seggen_core.tracking.relocate import relocate
from seggen_core.tracking.target import TrackingTarget

logger = logging.getLogger(__name__)

MLFLOW_PARENT_RUN_ID, MLFLOW_NOTE = "mlflow.parentRunId", "mlflow.note.content"
"""MLflow's tags of a child run, and of a description."""

_OUTPUT = "dvc.out."
"""Beginning of the tags with the md5s of a run's outputs."""

_ARMS_VIEW = {
    "searchFilter": "tags.`seggen.kind` = 'arm'",
    "orderByKey": "metrics.`miou`",
    "orderByAsc": False,
    "startTime": "ALL",
    "lifecycleFilter": "Active",
    "modelVersionFilter": "All Runs",
    "datasetsFilter": [],
    "selectedColumns": [
        *(f"metrics.`{name}`" for name in ("miou", "miou_std", "val_miou", "pq", "ap")),
        *(
            f"params.`{name}`"
            for name in ("model", "strategy", "synthetic", "num_real", "num_synthetic")
        ),
    ],
}
"""State of MLflow's list of runs, as its own pages write it when a view is shared."""

UID_TAG = "seggen.run"
"""The tag that identifies a run of the log in the store."""

CALL_SECONDS = 20.0
"""Longest time of a call. MLflow itself waits as long for a locked SQLite database."""

UPLOAD_BYTES_PER_SECOND = 100_000
"""An upload that is slower than this is interrupted."""

SETUP_SECONDS = 600.0
"""Longest time to make or upgrade a database: seconds for a new one, minutes for a large one."""

_CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the follower itself tries again, later
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


class MlflowStore:
    """One MLflow store. Its methods raise what MLflow raises, and TimeoutError."""

    def __init__(self, target: TrackingTarget) -> None:
        """Connect. A missing SQLite database is made.

        If MLflow asks for an upgrade, only the database in the project folder is upgraded.
        """
        for name, value in _CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        for noisy in ("mlflow", "alembic", "urllib3.connectionpool"):
            logging.getLogger(noisy).setLevel(logging.CRITICAL)
        self._target = target
        if target.sqlite_file is None:
            with _bounded(CALL_SECONDS):
                self._client = MlflowClient(target.uri)
        else:
            lock = target.sqlite_file.parent / ".seggen" / f"{target.sqlite_file.name}.lock"
            with file_lock(lock, timeout=SETUP_SECONDS):
                self._client = self._open_database(target.sqlite_file)
        with _bounded(CALL_SECONDS):  # fails at once if nothing answers
            self._client.search_experiments(max_results=1)

    def find_or_create(self, start: Start, *, parent_id: str | None = None) -> tuple[str, bool]:
        """Return the store's id of the run that begins with `start`, and whether it was deleted.

        Args:
            start: the first event of the run.
            parent_id: the store's id of the run that it is a part of.
        """
        query = f"tags.`{UID_TAG}` = '{start.run}'"
        parent = {MLFLOW_PARENT_RUN_ID: parent_id} if parent_id else {}
        with _bounded(CALL_SECONDS):
            experiment_id = self._experiment_id(start.experiment)
            for run in self._client.search_runs([experiment_id], query, ViewType.ALL):
                return str(run.info.run_id), run.info.lifecycle_stage == "deleted"
            run = self._client.create_run(
                experiment_id,
                start_time=start.time,
                tags=start.tags | {UID_TAG: start.run, "seggen.kind": start.kind} | parent,
                run_name=start.name,
            )
        return str(run.info.run_id), False

    def find_output(self, experiment: str, *, path: str, digest: str) -> str | None:
        """Return the address of the newest run that made an artifact; None if there is none.

        It is the address that MLflow's own pages use.
        """
        query = f"tags.`{_OUTPUT}{path}` = '{digest}'"
        with _bounded(CALL_SECONDS):
            known = self._client.get_experiment_by_name(experiment)
            if known is None:
                return None
            runs = self._client.search_runs([known.experiment_id], query, max_results=1)
            return next(
                (f"#/experiments/{r.info.experiment_id}/runs/{r.info.run_id}" for r in runs), None
            )

    def arm_pages(self, experiment: str) -> tuple[str, dict[str, str]]:
        """Return the addresses of pages: the arms with their scores, and their comparisons by task.

        The first is a view that MLflow's pages read from a tag of the experiment. The others have
        the newest run of each arm, without those of DVC's experiments. There is one for each task
        of several arms, because MLflow compares only scores that all runs have.
        """
        with _bounded(CALL_SECONDS):
            experiment_id = self._experiment_id(experiment)
            self._client.set_experiment_tag(
                experiment_id, "mlflow.sharedViewState.arms", json.dumps(_ARMS_VIEW)
            )
            runs = self._client.search_runs(
                [experiment_id], "tags.`seggen.kind` = 'arm'", max_results=1000
            )
        newest: dict[str, dict[str, str]] = {}
        for run in runs:
            if "dvc.exp" not in run.data.tags and run.info.status == "FINISHED":
                arms = newest.setdefault(run.data.params.get("task", "semantic"), {})
                arms.setdefault(run.data.tags.get("seggen.arm", ""), str(run.info.run_id))
        within = quote(json.dumps([experiment_id]))
        comparisons = {
            task: f"#/compare-runs?runs={quote(json.dumps([*arms.values()][::-1]))}"
            f"&experiments={within}"
            for task, arms in newest.items()
            if len(arms) > 1
        }
        return f"#/experiments/{experiment_id}/runs?viewStateShareKey=arms", comparisons

    def describe_run(self, run_id: str, text: str) -> None:
        """Set the description of a run."""
        with _bounded(CALL_SECONDS):
            self._client.set_tag(run_id, MLFLOW_NOTE, note(text))

    def describe_experiment(self, name: str, text: str) -> None:
        """Set the description of an experiment, which is made if there is none."""
        with _bounded(CALL_SECONDS):
            experiment_id = self._experiment_id(name)
            self._client.set_experiment_tag(experiment_id, MLFLOW_NOTE, note(text))

    def register(self, run_id: str, model: Model, *, folder: Path, experiment: str | None) -> None:
        """Log and register the segmenter of an arm's run, unless that was done.

        Args:
            run_id: the run of the arm.
            model: the segmenter.
            folder: holds the copies that `model` names.
            experiment: DVC's name of the experiment that made it.
        """
        with warnings.catch_warnings(action="ignore"):
            from seggen_core.tracking.mlflow_registry import ModelRegistry

        registry = ModelRegistry(self._client, uri=self._target.uri)
        num_bytes = sum((folder / file).stat().st_size for file in model.files.values())
        with _bounded(SETUP_SECONDS + num_bytes / UPLOAD_BYTES_PER_SECOND):
            if registry.find(model.name, run_id=run_id) is None:
                model_id = registry.log(run_id, model, folder=folder)
                registry.register(
                    run_id,
                    model,
                    model_id=model_id,
                    experiment=experiment,
                    description=model_text(model.tags),
                )

    def _experiment_id(self, name: str) -> str:
        known = self._client.get_experiment_by_name(name)
        if known is not None:
            return str(known.experiment_id)
        tags = {"mlflow.experimentKind": "custom_model_development"}  # else pages are for chatbots
        return str(self._client.create_experiment(name, self._target.artifact_root, tags))

    def send(self, run_id: str, events: Sequence[Event]) -> None:
        """Write the events of a run, without its artifacts. Writing them again changes nothing.

        MLflow's key of a metric is (name, step, time, value); it stores equal ones once.
        """
        metrics, params, inputs = [], [], []
        tags: dict[str, str] = {}
        for event in events:
            match event:
                case Start() | Params():
                    params += [Param(key, value) for key, value in event.params.items()]
                case Metrics():
                    values = event.metrics.items()
                    metrics += [Metric(key, value, event.time, event.step) for key, value in values]
                case Tags():
                    tags |= event.tags
                case Output():
                    tags[f"{_OUTPUT}{event.path}"[:250]] = event.digest
                case Input():
                    inputs.append(_dataset_input(event))
        with _bounded(CALL_SECONDS):
            self._client.log_batch(
                run_id,
                metrics=metrics,
                params=params,
                tags=[RunTag(key, value) for key, value in tags.items()],
                synchronous=True,
            )
        if inputs:
            with _bounded(CALL_SECONDS):
                self._client.log_inputs(run_id, inputs)
        for event in events:
            if isinstance(event, End):
                with _bounded(CALL_SECONDS):
                    self._client.set_terminated(run_id, event.status, event.time)

    def upload(self, run_id: str, file: Path) -> None:
        """Upload an artifact; it replaces an earlier one of the same name."""
        with _bounded(CALL_SECONDS + file.stat().st_size / UPLOAD_BYTES_PER_SECOND):
            self._client.log_artifact(run_id, str(file))

    def _open_database(self, file: Path) -> MlflowClient:
        if not file.exists():
            unfinished = file.with_name(f"{file.name}.new")
            unfinished.unlink(missing_ok=True)
            try:
                _upgrade_database(f"sqlite:///{unfinished}")
                unfinished.replace(file)
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
        # Fail at once if the file is no database or is locked; MLflow would try for two minutes.
        if not file.is_file():
            raise OSError(f"{file} is not a file")
        with closing(sqlite3.connect(f"{file.as_uri()}?mode=rw", uri=True)) as database:
            database.execute("PRAGMA schema_version").fetchone()
        if self._target.is_own and relocate(file, folder=self._target.root / "mlruns"):
            logger.info("%s was moved or copied here; its artifacts are found again", file)
        try:
            with _bounded(CALL_SECONDS):
                return MlflowClient(self._target.uri)
        except MlflowException as error:
            if not self._target.is_own or "out-of-date database schema" not in str(error):
                raise
        _upgrade_database(self._target.uri)
        with _bounded(CALL_SECONDS):
            return MlflowClient(self._target.uri)


def _upgrade_database(uri: str) -> None:
    """Upgrade a database to MLflow's current schema.

    Raises:
        RuntimeError: MLflow fails; the message is the last line that names an exception.
        TimeoutError: it takes longer than `SETUP_SECONDS`.
    """
    command = [sys.executable, "-m", "mlflow", "db", "upgrade", uri]
    try:
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=SETUP_SECONDS
        )
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"the database isn't ready after {SETUP_SECONDS:.0f} s") from None
    if done.returncode:
        # SQLAlchemy ends with the statement and with where to read on.
        named = re.findall(r"^[\w.]+: .*", done.stderr, re.MULTILINE)
        lines = named or done.stderr.strip().splitlines() or ["mlflow db upgrade fails"]
        raise RuntimeError(lines[-1])


def _dataset_input(event: Input) -> DatasetInput:
    source = json.dumps({"uri": event.path})
    dataset = Dataset(event.name, event.digest, source_type="local", source=source)
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", event.digest_from)])


class _OutOfTimeError(BaseException):
    """Interrupts a call that takes too long. It is no Exception, so no library catches it."""


@contextmanager
def _bounded(seconds: float) -> Iterator[None]:
    """Interrupt a call of the main thread after `seconds` with TimeoutError; silence warnings."""

    def interrupt(*_: object) -> None:
        raise _OutOfTimeError

    previous = signal.signal(signal.SIGALRM, interrupt)
    # Repeat after some seconds: a finaliser may have swallowed the first interruption.
    signal.setitimer(signal.ITIMER_REAL, seconds, 5.0)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    except _OutOfTimeError:
        raise TimeoutError(f"no answer within {seconds:.0f} s") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
