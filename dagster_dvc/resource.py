"""The DVC project as a Dagster resource: runs its stages, which a cancelled run ends."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.files import STATE_FOLDER
from dagster_dvc.graph import DvcManifest
from dagster_dvc.manifest import load_manifest
from dagster_dvc.params import ParamsValidator
from dagster_dvc.verdicts import Verdicts


@dataclass(frozen=True)
class DvcProject:
    """A DVC project on disk.

    It is no `ConfigurableResource`: whoever launches a run may set the fields of such a one, and
    these say which folder's commands are run, and with what environment.

    Attributes:
        project_dir: the folder that holds dvc.yaml.
        env: environment variables that stages get on top of this process's own.
        validate_params: checks params.yaml as a launch would have it; None takes every value for
            the parameters that it has.
        state_folder: folder of durations and verdicts, from `project_dir`.
        checks: folder where the project keeps the results of its own checks, one JSON file a stage,
            from `project_dir`; the sensor looks again when a file changes.
    """

    project_dir: str
    env: Mapping[str, str] = field(default_factory=dict)
    validate_params: ParamsValidator | None = None
    state_folder: str = str(STATE_FOLDER)
    checks: str = str(STATE_FOLDER / "checks")

    def as_resource(self) -> dg.ResourceDefinition:
        """The project as a resource that takes no configuration."""
        description = f"The DVC project in {self.project_dir}"
        return fixed_resource(lambda: nullcontext(self), description=description)

    @property
    def root(self) -> Path:
        """`project_dir` as an absolute path."""
        return Path(self.project_dir).resolve()

    @property
    def state(self) -> Path:
        """`state_folder` as an absolute path."""
        return self.root / self.state_folder

    def manifest(self, *, patience: float | None = None) -> DvcManifest:
        """The project's stages as they are defined now; `load_manifest` explains `patience`."""
        return load_manifest(self.root, patience=patience)

    def verdicts(self) -> Verdicts:
        """Results of blocking checks."""
        return Verdicts(self.state / "verdicts")

    def environment(self, run_id: str) -> dict[str, str]:
        """The environment of stages; they find the Dagster run as DAGSTER_RUN_ID."""
        # A stage has an MLflow run of its own: that of the process that starts it must not leak.
        inherited = {key: value for key, value in os.environ.items() if key != "MLFLOW_RUN_ID"}
        return inherited | {**self.env, "DAGSTER_RUN_ID": run_id}


def fixed_resource(
    make: Callable[[], AbstractContextManager[Any]], *, description: str
) -> dg.ResourceDefinition:
    """A resource that the configuration of a run can't change: it has no fields."""

    @dg.resource(config_schema={}, description=description)
    def resource() -> Iterator[Any]:
        with make() as value:
            yield value

    return resource
