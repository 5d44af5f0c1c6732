"""The DVC project as a Dagster resource: runs its stages, each in a process group that a cancelled run ends."""

import os
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.execution import DvcServer, StageResult, StageRun
from dagster_dvc.manifest import DvcManifest, load_manifest
from dagster_dvc.params import ParamsValidator

WAIT_SECONDS = 10.0
"""How often `on_wait` is called while a stage says nothing new."""


@dataclass(frozen=True)
class DvcProject:
    """A DVC project on disk.

    No `ConfigurableResource`: the fields of such a one can be set in the configuration of a run, so
    by everybody who may launch one, and these say which folder's commands are run, and with what
    environment.

    Attributes:
        project_dir: the folder that holds dvc.yaml.
        env: environment variables that stages get on top of this process's own.
        validate_params: checks params.yaml as a launch would have it; None takes every value for
            the parameters that it has.
    """

    project_dir: str
    env: Mapping[str, str] = field(default_factory=dict)
    validate_params: ParamsValidator | None = None

    _servers: list[DvcServer] = field(default_factory=list, init=False, repr=False, compare=False)
    _starting: threading.Lock = field(
        default_factory=threading.Lock, init=False, repr=False, compare=False
    )

    def as_resource(self) -> dg.ResourceDefinition:
        """The project as a resource that takes no configuration; each run gets a server of its own, and ends it."""

        @contextmanager
        def opened() -> Iterator[DvcProject]:
            project = replace(self)
            try:
                yield project
            finally:
                project.close()

        return fixed_resource(opened, description=f"The DVC project in {self.project_dir}")

    @property
    def root(self) -> Path:
        """`project_dir` as an absolute path."""
        return Path(self.project_dir).resolve()

    def manifest(self) -> DvcManifest:
        """The project's stages as they are defined now."""
        return load_manifest(self.root)

    def close(self) -> None:
        """End the process that stages are forked from; stages that are running go on."""
        while self._servers:
            self._servers.pop().close()

    def start(self, name: str, *, run_id: str, argv: Sequence[str] | None = None) -> StageRun:
        """Start a stage; its command finds `run_id` as DAGSTER_RUN_ID. `argv` is as `DvcServer.run` takes it."""
        with self._starting:
            if not self._servers:
                self._servers.append(DvcServer())
        # One thread writes to one MLflow run: the caller's must not leak into the stage.
        inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"}
        return self._servers[0].run(
            self.root, name, env=inherited | {**self.env, "DAGSTER_RUN_ID": run_id}, argv=argv
        )

    def run(
        self,
        name: str,
        *,
        run_id: str,
        on_line: Callable[[str], None],
        on_wait: Callable[[], None] = lambda: None,
        argv: Sequence[str] | None = None,
    ) -> StageResult:
        """Run a stage to its end.

        Whatever is raised meanwhile (a cancelled run raises here) ends the stage's whole process
        group first; what the stage left is as after a failure, so that `dvc repro` goes on from it.

        Args:
            name: a stage, not a group.
            run_id: the Dagster run.
            on_line: gets each line of output as it comes.
            on_wait: called about every `WAIT_SECONDS` while there is none.
            argv: as `DvcServer.run` takes it.
        """
        return follow(self.start(name, run_id=run_id, argv=argv), on_line=on_line, on_wait=on_wait)


def fixed_resource(
    make: Callable[[], AbstractContextManager[Any]], *, description: str
) -> dg.ResourceDefinition:
    """A resource that the configuration of a run can't change: it has no fields, and names that it doesn't have are refused."""

    @dg.resource(config_schema={}, description=description)
    def resource() -> Iterator[Any]:
        with make() as value:
            yield value

    return resource


def follow(
    stage: StageRun, *, on_line: Callable[[str], None], on_wait: Callable[[], None]
) -> StageResult:
    """Read a stage to its end in a thread of its own, so that this one can be interrupted; see `DvcProject.run`."""
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        try:
            for line in stage.lines():
                lines.put(line)
        finally:
            lines.put(None)

    reader = threading.Thread(target=read, name=f"output of {stage.name}", daemon=True)
    reader.start()
    try:
        while True:
            try:
                line = lines.get(timeout=WAIT_SECONDS)
            except queue.Empty:
                on_wait()
                continue
            if line is None:
                break
            on_line(line)
    except BaseException:
        stage.stop()
        raise
    reader.join()
    return stage.result
