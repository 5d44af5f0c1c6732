"""The DVC project as a component: a few lines of YAML in somebody else's Dagster project."""

import json
from pathlib import Path

import pytest
from dagster.components.testing import create_defs_folder_sandbox

from dagster_dvc.component import DvcProjectComponent
from dagster_dvc.graph import DvcManifest
from dagster_dvc.manifest import load_manifest


def test_assets_from_yaml(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # As under `dagster dev`, where the state is made again at every load.
    monkeypatch.setenv("DAGSTER_IS_DEV_CLI", "1")
    with create_defs_folder_sandbox() as sandbox:
        folder = sandbox.scaffold_component(
            component_cls=DvcProjectComponent,
            defs_path="pipeline",
            defs_yaml_contents={
                "type": "dagster_dvc.component.DvcProjectComponent",
                "attributes": {"project": str(project), "job": "all_stages"},
            },
        )
        with sandbox.load_component_and_build_defs(defs_path=folder) as (component, defs):
            assert isinstance(component, DvcProjectComponent)
            graph = defs.resolve_asset_graph()
            assert {key.to_user_string() for key in graph.get_all_asset_keys()} == set(
                load_manifest(project).groups
            )
            assert defs.get_job_def("all_stages")
            assert defs.get_sensor_def("outside_runs")


def test_the_state_is_the_manifest(project: Path, tmp_path: Path) -> None:
    component = DvcProjectComponent(project=str(project))
    component.write_state_to_path(tmp_path / "state")
    state = json.loads((tmp_path / "state").read_text())
    assert DvcManifest.from_json(state) == load_manifest(project)
