"""One tracked run of a stage: what it reports goes to disk at once and to MLflow in batches."""

import getpass
import json
import logging
import os
import re
import shutil
import signal
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from seggen_core.config import RuntimeConfig
from seggen_core.project.digests import content_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.delivery import deliver
from seggen_core.tracking.dvc_lineage import git_tags, read_dvc_lock
from seggen_core.tracking.metrics_log import MetricsLog, RunRecord, encode_metrics
from seggen_core.tracking.target import DISK_ONLY, describe, import_mlflow_store, resolve_target

if TYPE_CHECKING:
    from seggen_core.tracking.mlflow_store import MlflowStore

logger = logging.getLogger(__name__)

FLUSH_SECONDS = 10.0
"""Time from the start to the first batch, and between batches. A stage that fails sooner never imports mlflow."""

MAX_OVERHEAD = 0.02
"""Share of a stage's time that sending may take: a slow or dead store is tried less often."""

_KEY = re.compile(r"[\w\-./: ]{1,250}")


class StageRun:
    """What `track_stage` yields. Its methods never raise because of a store or a disk, only for misuse."""

    def __init__(
        self,
        stage: str,
        *,
        item: str | None,
        params: Mapping[str, Any],
        runtime: RuntimeConfig,
        paths: ProjectPaths,
    ) -> None:
        """Open the log on disk and write the start of the run; nothing is sent yet."""
        self.name = stage if item is None else f"{stage}@{item}"
        self._target = resolve_target(paths, runtime)
        self._root = paths.root.resolve()
        self._artifacts = paths.metrics_log.resolve() / "artifacts"
        self._lock = read_dvc_lock(paths.root / "dvc.lock")
        self._pid = os.getpid()
        self._log = MetricsLog(paths.metrics_log / f"{self.name}.jsonl")
        self._abandoned = self._log.end_abandoned() if self._log.claim() else []
        self._log.share()
        self._record = RunRecord(uuid.uuid4().hex)
        self._store: MlflowStore | None = None
        self._warned = False
        self._next_flush = time.monotonic() + FLUSH_SECONDS
        self._report(
            "start",
            name=self.name,
            params=flatten_params(params),
            tags=self._start_tags(stage, item),
        )

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record values (anything `float` takes; NaN and infinities are kept) at `step`."""
        bad = [key for key in metrics if not _KEY.fullmatch(key)]
        assert not bad, f"metric names hold letters, digits and _-./: and spaces only, got {bad}"
        self._report("metrics", step=int(step), metrics=encode_metrics(metrics))

    def log_input(self, *, name: str, path: Path) -> None:
        """Record the dataset at `path` as an input, with its DVC md5 where dvc.lock has one, else a hash of its content."""
        relative = self._relative(path)
        dvc_digest = self._lock.digest(relative)
        digest = dvc_digest or content_digest(path)
        self._report(
            "input",
            name=name,
            path=relative,
            digest=digest,
            digest_from="dvc" if dvc_digest else "content",
        )
        self.set_tags({_tag_key(f"dvc.dep.{relative}"): digest} if dvc_digest else {})

    def log_artifact(self, path: Path) -> None:
        """Record a file (picture, table) as it is now; it is copied, and may be moved or deleted afterwards.

        Raises FileNotFoundError where there is none.
        """
        if not path.is_file():
            raise FileNotFoundError(f"artifact {path} of {self.name} is not a file")
        kept = self._artifacts / self._record.uid / str(self._record.next_seq) / path.name
        try:
            kept.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, kept)
        except OSError as error:
            logger.warning(
                "%s can't be kept for tracking (%s); the stage goes on without it there",
                path,
                error.strerror,
            )
            return
        self._report("artifact", path=self._relative(path), kept=self._relative(kept))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags of the run."""
        if tags:
            self._report("tags", tags={_tag_key(key): str(value) for key, value in tags.items()})

    def end(self, status: str) -> None:
        """Record how the run ended and send what is left.

        A run that failed before anything was sent stays on disk, for `replay`: failing is not
        slowed by an import.
        """
        self._report("end", status=status)
        if self._sends and (status == "FINISHED" or self._store is not None):
            self._flush()
        self._log.close()

    @property
    def _sends(self) -> bool:
        """Whether this process sends; a forked worker only writes to the log."""
        return self._target.uri != DISK_ONLY and os.getpid() == self._pid

    def _report(self, kind: str, **fields: Any) -> None:
        self._log.append(self._record.add(kind, **fields))
        if self._sends and kind != "end" and time.monotonic() >= self._next_flush:
            self._flush()

    def _flush(self) -> None:
        started = time.monotonic()
        reason: Exception | None = None
        try:
            if self._store is None:
                store_class = import_mlflow_store()
                started = time.monotonic()
                self._store = store_class(self._target)
                for record in self._abandoned:
                    if self._target.label in record.deliveries:
                        deliver(record, store=self._store, log=self._log)
            reason = deliver(self._record, store=self._store, log=self._log)
        except Exception as error:  # noqa: BLE001 (whatever a client library raises, the stage goes on)
            reason = error
        now = time.monotonic()
        self._next_flush = now + max(FLUSH_SECONDS, (now - started) / MAX_OVERHEAD)
        if reason is not None and not self._warned:
            self._warned = True
            logger.warning(
                "tracking store %s can't be reached or refuses data: %s. %s goes on and its metrics are kept in %s; once the "
                "store answers, send what is missing with: seggen track --replay",
                self._target.label,
                describe(reason),
                self.name,
                self._log.path,
            )

    def _relative(self, path: Path) -> str:
        path = path.resolve()
        return (
            path.relative_to(self._root).as_posix()
            if path.is_relative_to(self._root)
            else path.as_posix()
        )

    def _start_tags(self, stage: str, item: str | None) -> dict[str, str]:
        tags = {
            "seggen.stage": stage,
            "dvc.stage": self.name,
            "mlflow.source.type": "LOCAL",
            "mlflow.user": _user(),
        }
        tags["mlflow.source.name"] = f"python -m seggen_core {stage}" + (
            f" --item {item}" if item else ""
        )
        if item is not None:
            tags["seggen.item"] = item
        if dagster_run := os.environ.get("DAGSTER_RUN_ID"):
            tags["dagster/run_id"] = dagster_run
        tags |= {
            _tag_key(f"dvc.dep.{p}"): md5
            for p, md5 in self._lock.current_dependencies(self.name).items()
        }
        return tags | git_tags(self._root)


@contextmanager
def track_stage(
    stage: str,
    *,
    item: str | None,
    params: Mapping[str, Any],
    runtime: RuntimeConfig,
    paths: ProjectPaths,
) -> Iterator[StageRun]:
    """Track one execution of `stage`.

    Args:
        stage: name of the DVC stage; with `item` the run's name ("masksyn@car").
        params: the stage's section of params.yaml, as nested mappings.
        runtime: its `tracking_uri` is used where MLFLOW_TRACKING_URI is unset.
        paths: `metrics_log` holds the record on disk.

    The run ends FINISHED, FAILED (an exception; tag "seggen.error" says which) or KILLED (Ctrl-C,
    SIGTERM, exit; a process killed outright is marked by the next run of the same stage, or by
    `replay`). While it lasts, MLFLOW_RUN_ID is out of the environment, so that no child process
    writes into somebody's run.
    """
    inherited_run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    run = StageRun(stage, item=item, params=params, runtime=runtime, paths=paths)
    try:
        with _sigterm_raises():
            yield run
    except Exception as error:
        run.set_tags({"seggen.error": f"{type(error).__name__}: {error}"[:500]})
        run.end("FAILED")
        raise
    except BaseException:
        run.end("KILLED")
        raise
    else:
        run.end("FINISHED")
    finally:
        if inherited_run_id is not None:
            os.environ["MLFLOW_RUN_ID"] = inherited_run_id


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), so that the run gets its end; a handler that is already set is left alone."""
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    owner = os.getpid()

    def handler(_signum: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker dies as it would without us
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def flatten_params(params: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Return nested mappings as MLflow params: "mask2img.num_steps" to "600"; sequences become JSON."""
    flat: dict[str, str] = {}
    for key, value in params.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten_params(value, prefix=f"{name}.")
        elif isinstance(value, (list, tuple)):
            flat[_tag_key(name)] = json.dumps(value, default=str)
        else:
            flat[_tag_key(name)] = str(value)
    return flat


def _tag_key(key: str) -> str:
    """Return `key` with the characters that MLflow refuses in names replaced by "_"."""
    return re.sub(r"[^\w\-./: ]", "_", key)[:250]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
