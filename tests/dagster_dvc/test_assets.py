"""The toy project as assets, materialised in this process."""

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dvc.assets import build_dvc_assets
from dagster_dvc.checks import DVC_STATUS, build_stage_checks, lock_status
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import changed_stages, load_manifest
from dagster_dvc.resource import DvcProject
from tests.dagster_dvc.conftest import dvc


def definitions(root: Path) -> dg.Definitions:
    manifest = load_manifest(root)
    return dg.Definitions(
        assets=build_dvc_assets(manifest),
        asset_checks=build_stage_checks(manifest, []),
        resources={"dvc": DvcProject(project_dir=str(root)).as_resource()},
        executor=dg.in_process_executor,
    )


def materialize(
    root: Path,
    instance: dg.DagsterInstance,
    *keys: str,
    partition: str | None = None,
    **kwargs: Any,
) -> Any:
    job = definitions(root).resolve_implicit_global_asset_job_def()
    selection = [dg.AssetKey(key) for key in keys]
    return job.execute_in_process(
        instance=instance,
        asset_selection=selection,
        partition_key=partition,
        raise_on_error=False,
        **kwargs,
    )


@pytest.fixture
def instance() -> Any:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def change_seed(root: Path, seed: int) -> None:
    (root / "params.yaml").write_text(
        (root / "params.yaml").read_text().replace("seed: 0", f"seed: {seed}")
    )


def test_a_partition_runs_through_dvc_and_is_told_with_dvcs_hash(
    project: Path, instance: dg.DagsterInstance
) -> None:
    change_seed(project, 1)
    result = materialize(project, instance, "masksyn", partition="car")
    assert result.success
    (event,) = result.get_asset_materialization_events()
    told = event.materialization
    locked = read_lock(project)["masksyn@car"]
    assert told.tags is not None
    assert told.tags["dagster/data_version"] == locked.outs["data/synthetic/masksyn/car"].md5
    assert told.metadata["dvc/outcome"].value == "ran"
    assert changed_stages(project).keys() >= {"masksyn@bus"}
    assert "masksyn@car" not in changed_stages(project)

    (project / "data/synthetic/masksyn/car").unlink()
    result = materialize(project, instance, "masksyn", partition="car")
    assert str(
        result.get_asset_materialization_events()[0].materialization.metadata["dvc/outcome"].value
    ).startswith("cached")


def test_the_graph(project: Path) -> None:
    graph = definitions(project).resolve_asset_graph()
    mapping = graph.get(dg.AssetKey("train_seg")).partition_mappings
    assert mapping[dg.AssetKey("masksyn")] == dg.StaticPartitionMapping(
        {"car": ["masksyn"], "bus": ["masksyn"]}
    )
    assert graph.get(dg.AssetKey("train_seg")).parent_keys == {
        dg.AssetKey("dataset"),
        dg.AssetKey("masksyn"),
    }
    assert (
        graph.get(dg.AssetKey("ablation")).partition_mappings[dg.AssetKey("train_seg")]
        == dg.AllPartitionMapping()
    )
    assert graph.get(dg.AssetKey("masksyn")).kinds == {"dvc"}


def test_dvc_status_is_on_every_asset(project: Path, instance: dg.DagsterInstance) -> None:
    change_seed(project, 1)
    result = materialize(project, instance, "dataset")
    assert {e.check_name: e.passed for e in result.get_asset_check_evaluations()} == {
        DVC_STATUS: True
    }
    assert set(lock_status(load_manifest(project), read_lock(project), root=project)) == set(
        changed_stages(project)
    )


def test_a_failure_says_why_and_only_what_may_pass_is_retried(
    project: Path, instance: dg.DagsterInstance
) -> None:
    change_seed(project, 1)
    (project / "trace" / "masksyn@car.fail").touch()
    result = materialize(project, instance, "masksyn", partition="car")
    failure = result.failure_data_for_node("masksyn").user_failure_data
    assert "the disk is full" in failure.metadata["dvc/last_lines"].value
    assert not [
        event for event in result.all_events if event.event_type_value == "STEP_UP_FOR_RETRY"
    ]


def test_other_parameters_make_an_experiment_and_leave_the_workspace_alone(
    project: Path, instance: dg.DagsterInstance
) -> None:
    dvc(project, "status")
    import subprocess

    subprocess.run(["git", "add", "."], cwd=project, check=True)
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *identity, "commit", "--quiet", "-m", "start"], cwd=project, check=True)
    before = (project / "dvc.lock").read_bytes(), (project / "params.yaml").read_bytes()
    config = {"ops": {"masksyn": {"config": {"params": {"seed": 7}}}}}
    result = materialize(project, instance, "masksyn", partition="car", run_config=config)
    assert result.success, result.all_events
    assert ((project / "dvc.lock").read_bytes(), (project / "params.yaml").read_bytes()) == before
    assert not result.get_asset_materialization_events()
    (event,) = result.get_asset_observation_events()
    name = event.asset_observation_data.asset_observation.metadata["dvc/experiment"].value
    assert name in dvc(project, "exp", "list", "--name-only")
    assert instance.get_run_by_id(result.run_id).tags["dvc/experiment"] == name
    dvc(project, "exp", "apply", name)
    assert "seed: 7" in (project / "params.yaml").read_text()
