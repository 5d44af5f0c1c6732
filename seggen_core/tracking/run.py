"""One tracked run of a stage. It appends events to the log on disk and sends nothing."""

import getpass
import json
import os
import re
import signal
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Literal

from seggen_core.config import RuntimeConfig
from seggen_core.config.params_file import read_params
from seggen_core.errors import ArtefactError, ConfigError
from seggen_core.project.digests import content_digest, dvc_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.dvc_lineage import git_tags, read_dvc_lock
from seggen_core.tracking.log import (
    Artifact,
    End,
    Input,
    Metrics,
    Model,
    Output,
    Params,
    RunLog,
    Start,
    Tags,
)

_KEY = re.compile(r"[\w\-./: ]{1,250}")


class StageRun:
    """A run that `track_stage` yields. Its methods raise only for misuse, never for a full disk."""

    def __init__(
        self,
        stage: str,
        *,
        item: str | None,
        params: Mapping[str, Any],
        runtime: RuntimeConfig,
        paths: ProjectPaths,
    ) -> None:
        """Write the start of the run."""
        self.name = stage if item is None else f"{stage}@{item}"
        self._root = paths.root.resolve()
        folder, experiment = log_folder(paths)
        self._digests = folder / "digests"
        self._lock = read_dvc_lock(paths.root / "dvc.lock")
        name = self.name if experiment is None else f"{self.name} ({experiment})"
        self._folder = folder.resolve()
        self._log = RunLog(self._folder, name=_file_name(name))
        # The run of `evaluate` is that of the arm: it knows the checkpoint and the scores.
        is_arm = stage == "evaluate"
        project = experiment_name(paths)
        self._start = Start(
            run=self._log.uid,
            name=name.replace(self.name, str(item), 1) if is_arm else name,
            stage=stage,
            item=item,
            experiment=project if is_arm else f"{project}/stages",
            params=flatten_params(params),
            tags=self._start_tags(stage, item, runtime),
            kind="arm" if is_arm else "stage",
        )
        self._log.append(self._start)

    @contextmanager
    def child(self, name: str, *, params: Mapping[str, Any]) -> "Iterator[ChildRun]":
        """Yield a run that is a part of this one, such as the one of a seed.

        It ends FINISHED, or FAILED on an exception.
        """
        log = RunLog(self._folder, name=_file_name(f"{self._start.name} {name}"))
        start = self._start.model_copy(
            update={
                "run": log.uid,
                "time": Params(params={}).time,
                "name": f"{self._start.name} {name}",
                "params": flatten_params(params),
                "kind": "seed",
                "parent": self._log.uid,
            }
        )
        log.append(start)
        try:
            yield ChildRun(log)
        except BaseException:
            log.append(End(status="FAILED"))
            raise
        else:
            log.append(End(status="FINISHED"))
        finally:
            log.close()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record parameters that were not known at the start."""
        self._log.append(Params(params=flatten_params(params)))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record values at `step`: anything that `float` accepts, also NaN and infinities."""
        _append_metrics(self._log, metrics, step=step)

    def log_input(self, *, name: str, path: Path) -> None:
        """Record the artifact at `path` as an input, with DVC's md5 if dvc.lock has one.

        A folder of several outputs is recorded as these outputs: "masksyn" as "masksyn@car", ...
        What dvc.lock does not know is hashed.

        Raises:
            ArtefactError: it is a link in a circle, a FIFO or a device.
            FileNotFoundError: there is nothing at `path`.
        """
        try:
            relative = self._relative(path)
        except (OSError, RuntimeError) as error:  # RuntimeError is Python 3.11's word for a loop
            raise ArtefactError(
                f"{path} can't be followed ({error}); run: dvc checkout --force"
            ) from None
        outputs = self._lock.find(relative)
        for place, md5 in outputs.items():
            below = place.removeprefix(f"{relative}/")
            part = name if below == place else f"{name}@{below}"
            self._log.append(Input(name=part, path=place, digest=md5, digest_from="dvc"))
        if not outputs:
            digest = content_digest(path, cache=self._digests)
            self._log.append(Input(name=name, path=relative, digest=digest, digest_from="content"))
        self.set_tags({f"dvc.dep.{place}": md5 for place, md5 in outputs.items()})

    def log_output(self, path: Path) -> None:
        """Record a finished artifact with the md5 that DVC records for it."""
        digest = dvc_digest(path, cache=self._digests)
        self._log.append(Output(path=self._relative(path), digest=digest))

    def log_model(
        self,
        name: str,
        *,
        architecture: Literal["hrnet", "mask2former", "eomt", "detectron2"],
        files: Mapping[str, Path],
        tags: Mapping[str, str],
    ) -> None:
        """Record copies of a segmenter's files, for MLflow's registry.

        Args:
            name: of the registered model.
            architecture: of the segmenter.
            files: by the name that `tracking.segmenter_pyfunc` knows them by.
            tags: of the model's version.
        """
        copies = {key: self._log.copy_artifact(file, link=True) for key, file in files.items()}
        known = {key: copy for key, copy in copies.items() if copy is not None}
        if len(known) == len(files):
            texts = {key: str(value) for key, value in tags.items()}
            self._log.append(Model(name=name, architecture=architecture, files=known, tags=texts))

    def log_artifact(self, path: Path) -> None:
        """Record a copy of a file (picture, table); the file may be moved or deleted afterwards.

        Raises:
            FileNotFoundError: there is no such file.
        """
        if not path.is_file():
            raise FileNotFoundError(f"artifact {path} of {self.name} is not a file")
        if (file := self._log.copy_artifact(path)) is not None:
            self._log.append(Artifact(path=self._relative(path), file=file))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Record tags of the run."""
        if tags:
            self._log.append(Tags(tags={_tag_key(k): str(value) for k, value in tags.items()}))

    def end(self, status: Literal["FINISHED", "FAILED", "KILLED"]) -> None:
        """Record how the run ended."""
        self._log.append(End(status=status))
        self._log.close()

    def _relative(self, path: Path) -> str:
        path = path.resolve()
        is_inside = path.is_relative_to(self._root)
        return (path.relative_to(self._root) if is_inside else path).as_posix()

    def _start_tags(self, stage: str, item: str | None, runtime: RuntimeConfig) -> dict[str, str]:
        tags = {
            "seggen.stage": stage,
            "seggen.device": runtime.device,
            "dvc.stage": self.name,
            "mlflow.source.type": "LOCAL",
            "mlflow.source.name": f"python -m seggen_core {stage}"
            + (f" --item {item}" if item else ""),
            "mlflow.user": _user(),
        }
        if item is not None:
            tags["seggen.item"] = item
        for tag, variable in (("dagster/run_id", "DAGSTER_RUN_ID"), ("dvc.exp", "DVC_EXP_NAME")):
            if value := os.environ.get(variable):
                tags[tag] = value
        dependencies = self._lock.current_dependencies(self.name)
        tags |= {_tag_key(f"dvc.dep.{path}"): md5 for path, md5 in dependencies.items()}
        return tags | git_tags(self._root)


class ChildRun:
    """A part of a run that `StageRun.child` yields."""

    def __init__(self, log: RunLog) -> None:
        self._log = log

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Record values at `step`; see `StageRun.log_metrics`."""
        _append_metrics(self._log, metrics, step=step)


def _append_metrics(log: RunLog, metrics: Mapping[str, float], *, step: int) -> None:
    bad = [key for key in metrics if not _KEY.fullmatch(key)]
    assert not bad, f"metric names hold letters, digits and _-./: and spaces only, got {bad}"
    values = {key: float(value) for key, value in metrics.items()}
    log.append(Metrics(step=int(step), metrics=values))


def _file_name(name: str) -> str:
    return re.sub(r"[^\w@.() -]", "_", name)


def log_folder(paths: ProjectPaths) -> tuple[Path, str | None]:
    """Return where a run is recorded, and the DVC experiment that it is named after, if any.

    `dvc exp run --temp` and `--queue` run in a copy of the project below .dvc/tmp and then delete
    it. DVC names the project itself in DVC_ROOT, and the experiment in DVC_EXP_NAME. The record
    belongs to the project.
    """
    project, experiment = os.environ.get("DVC_ROOT"), os.environ.get("DVC_EXP_NAME")
    if project and experiment:
        copies = Path(project, ".dvc", "tmp").resolve()
        if paths.root.resolve().is_relative_to(copies):
            return ProjectPaths(Path(project)).metrics_log, experiment
    return paths.metrics_log, None


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
        runtime: its `device` becomes a tag.
        paths: `metrics_log` holds the record on disk; of the project itself, where DVC runs an
            experiment in a copy of it.

    The run ends FINISHED, FAILED (an exception, which the tag "seggen.error" names) or KILLED
    (Ctrl-C, SIGTERM, exit). If SIGKILL ended the process, the follower reports KILLED. During the
    run, MLFLOW_RUN_ID is removed from the environment, so no child process writes into that run.
    """
    inherited_run_id = os.environ.pop("MLFLOW_RUN_ID", None)
    run = StageRun(stage, item=item, params=params, runtime=runtime, paths=paths)
    try:
        with sigterm_exits():
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
def sigterm_exits() -> Iterator[None]:
    """Turn SIGTERM into SystemExit(143), so that the run records its end.

    An existing handler stays.
    """
    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    ):
        yield
        return
    owner = os.getpid()

    def handler(_signum: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker ends as without this handler
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def experiment_name(paths: ProjectPaths) -> str:
    """Return MLFLOW_EXPERIMENT_NAME, else "seggen/" and the profile that params.yaml names."""
    if name := os.environ.get("MLFLOW_EXPERIMENT_NAME"):
        return name
    try:
        tree = read_params(paths.root / "params.yaml")
    except ConfigError:
        tree = None
    profile = tree.get("profile") if isinstance(tree, dict) else None
    return f"seggen/{profile}" if profile else "seggen"


def flatten_params(params: Mapping[str, Any], *, prefix: str = "") -> dict[str, str]:
    """Return nested mappings as flat ones: "mask2img.num_steps" to "600"; lists become JSON."""
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
