"""A DVC project as a Dagster component: its assets from a few lines of YAML, without Python.

    # defs/pipeline/defs.yaml
    type: dagster_dvc.component.DvcProjectComponent
    attributes:
      project: ../../../pipeline   # the folder that holds dvc.yaml, from this file's

The component's state is the manifest: `dg utils refresh-defs-state` (or `dagster dev`, at every
reload) asks DVC for it and writes it down, and loading definitions reads it, so that a code server
starts without asking DVC.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import dagster as dg
from dagster.components import DefsStateConfig, DefsStateConfigArgs, ResolvedDefsStateConfig

from dagster_dvc.blueprint import Blueprint
from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.events import StageReader
from dagster_dvc.files import write_json
from dagster_dvc.graph import DvcManifest
from dagster_dvc.manifest import load_manifest
from dagster_dvc.params import ParamsValidator
from dagster_dvc.resource import DvcProject
from dagster_dvc.translator import DvcTranslator


def _resolve_folder(context: dg.ResolutionContext, project: str) -> str:
    return str(context.resolve_source_relative_path(context.resolve_value(project, as_type=str)))


ProjectFolder = Annotated[str, dg.Resolver(_resolve_folder, model_field_type=str)]
"""A folder, relative to that of the YAML file."""


@dataclass
class DvcProjectComponent(dg.StateBackedComponent, dg.Resolvable):
    """Assets, checks, a job and the sensor of one DVC project.

    Override `translator`, `reader` or `validate_params` in a subclass to derive other properties,
    read other files or check what a launch may set.

    Attributes:
        project: the folder that holds dvc.yaml, relative to the folder of the YAML file.
        job: name of the job that brings the whole pipeline up to date.
        env: environment variables for stages.
        defs_state: where the manifest is stored.
    """

    project: ProjectFolder
    job: str = "repro"
    env: dict[str, str] = field(default_factory=dict)
    defs_state: ResolvedDefsStateConfig = field(
        default_factory=DefsStateConfigArgs.local_filesystem
    )

    @property
    def defs_state_config(self) -> DefsStateConfig:
        """Where the state is stored; its key names the project's folder."""
        return DefsStateConfig.from_args(
            self.defs_state, default_key=f"{type(self).__name__}[{Path(self.project).name}]"
        )

    @property
    def translator(self) -> DvcTranslator:
        """Derives the properties of assets."""
        return DvcTranslator()

    @property
    def reader(self) -> StageReader:
        """Reads metadata and progress from the files of stages."""
        return StageReader()

    @property
    def validate_params(self) -> ParamsValidator | None:
        """Checks params.yaml as a launch would have it; None takes every value."""
        return None

    def write_state_to_path(self, state_path: Path) -> None:
        """Ask DVC for the manifest and keep it."""
        write_json(state_path, load_manifest(Path(self.project).resolve()).to_json())

    def build_defs_from_state(
        self,
        context: dg.ComponentLoadContext,  # noqa: ARG002 (Dagster's signature)
        state_path: Path | None,
    ) -> dg.Definitions:
        """Definitions from the stored manifest; none before there is one."""
        if state_path is None:
            return dg.Definitions()
        manifest = DvcManifest.from_json(json.loads(state_path.read_text(encoding="utf-8")))
        project = DvcProject(
            project_dir=self.project, env=self.env, validate_params=self.validate_params
        )
        blueprint = Blueprint(manifest, translator=self.translator, reader=self.reader)
        return build_dvc_definitions(project, blueprint=blueprint, job=self.job)
