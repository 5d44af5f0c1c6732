"""The DVC project as a Dagster resource: runs its stages, each in a process group that a cancelled run ends."""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import dagster as dg
from pydantic import Field, PrivateAttr

from dagster_dvc.execution import DvcServer, StageResult, StageRun
from dagster_dvc.manifest import DvcManifest, load_manifest

WAIT_SECONDS = 10.0
"""How often `on_wait` is called while a stage says nothing new."""


class DvcProject(dg.ConfigurableResource):
    """A DVC project on disk.

    Attributes:
        project_dir: the folder that holds dvc.yaml.
        env: environment variables that stages get on top of this process's own.
    """

    project_dir: str = Field(description="The folder that holds dvc.yaml.")
    env: dict[str, str] = Field(
        default={}, description="Environment variables for stages, on top of the process's own."
    )

    _server: DvcServer | None = PrivateAttr(default=None)
    _starting: threading.Lock = PrivateAttr(default_factory=threading.Lock)

    @property
    def root(self) -> Path:
        """`project_dir` as an absolute path."""
        return Path(self.project_dir).resolve()

    def manifest(self) -> DvcManifest:
        """The project's stages as they are defined now."""
        return load_manifest(self.root)

    def teardown_after_execution(self, context: dg.InitResourceContext) -> None:  # noqa: ARG002
        """End the process that stages are forked from."""
        self.close()

    def close(self) -> None:
        """End the process that stages are forked from; stages that are running go on."""
        if self._server is not None:
            self._server.close()
            self._server = None

    def start(self, name: str, *, run_id: str, argv: Sequence[str] | None = None) -> StageRun:
        """Start a stage; its command finds `run_id` as DAGSTER_RUN_ID. `argv` is as `DvcServer.run` takes it."""
        with self._starting:
            if self._server is None:
                self._server = DvcServer()
        # One thread writes to one MLflow run: the caller's must not leak into the stage.
        inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"}
        return self._server.run(
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
