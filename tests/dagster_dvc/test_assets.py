"""The toy project as assets, materialised in this process."""

import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dvc.blueprint import Blueprint
from dagster_dvc.checks import DVC_STATUS
from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import load_manifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import changed_stages, lock_status
from dagster_dvc.translator import DvcTranslator
from dagster_dvc.versions import RECORD_TAG
from tests.dagster_dvc.conftest import dvc, edit, is_alive, wait_for_file
from tests.dagster_dvc.test_manifest import HIDDEN


class QuickRetries(DvcTranslator):
    """Tries again at once."""

    def get_retry_policy(self, manifest: Any, group: str) -> dg.RetryPolicy:
        return dg.RetryPolicy(max_retries=2, delay=0)


def definitions(root: Path) -> dg.Definitions:
    blueprint = Blueprint(load_manifest(root), translator=QuickRetries())
    return dg.Definitions.merge(
        build_dvc_definitions(DvcProject(str(root)), blueprint=blueprint),
        dg.Definitions(executor=dg.in_process_executor),
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
    edit(root / "params.yaml", "seed: 0", f"seed: {seed}")


def test_a_partition_runs_through_dvc_and_is_told_with_dvcs_hash(
    project: Path, instance: dg.DagsterInstance
) -> None:
    change_seed(project, 1)
    result = materialize(project, instance, "masksyn", partition="car")
    assert result.success
    (event,) = result.get_asset_materialization_events()
    materialization = event.materialization
    locked = read_lock(project)["masksyn@car"]
    assert materialization.tags is not None
    assert (
        materialization.tags["dagster/data_version"]
        == locked.outs["data/synthetic/masksyn/car"].md5
    )
    assert materialization.tags[RECORD_TAG] == locked.digest
    assert materialization.metadata["dvc/outcome"].value == "ran"
    assert changed_stages(project).keys() >= {"masksyn@bus"}
    assert "masksyn@car" not in changed_stages(project)

    (project / "data/synthetic/masksyn/car").unlink()
    result = materialize(project, instance, "masksyn", partition="car")
    assert str(
        result.get_asset_materialization_events()[0].materialization.metadata["dvc/outcome"].value
    ).startswith("restored")


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


def failure_of(result: Any, node: str) -> Any:
    return result.failure_data_for_node(node).user_failure_data


def num_retries(result: Any) -> int:
    return len([e for e in result.all_events if e.event_type_value == "STEP_UP_FOR_RETRY"])


def test_a_failure_that_would_come_again_says_why_and_is_not_tried_again(
    project: Path, instance: dg.DagsterInstance
) -> None:
    change_seed(project, 1)
    (project / "trace" / "masksyn@car.fail").touch()
    result = materialize(project, instance, "masksyn", partition="car")
    failure = failure_of(result, "masksyn")
    assert "the disk is full" in failure.metadata["dvc/last_lines"].value
    assert "not tried again" in failure.description and "the disk is full" in failure.description
    assert num_retries(result) == 0


@pytest.mark.parametrize(
    "breaks",
    [
        "kill -9 $PPID; sleep 600",  # the kernel ends DVC
        "echo 'torch.OutOfMemoryError: CUDA out of memory' >&2; exit 1",
        "kill -9 $$",  # the kernel ends the command
    ],
)
def test_a_failure_that_may_pass_is_tried_again(
    project: Path, instance: dg.DagsterInstance, breaks: str
) -> None:
    change_seed(project, 1)
    once = f"[ -e trace/tried ] || {{ touch trace/tried; {breaks}; }}\n"
    (project / "stage.sh").write_text((project / "stage.sh").read_text() + once)
    result = materialize(project, instance, "masksyn", partition="car")
    assert result.success, result.all_events
    assert num_retries(result) == 1
    (event,) = result.get_asset_materialization_events()
    assert event.materialization.metadata["dvc/outcome"].value == "ran"


def test_tries_come_to_an_end(project: Path, instance: dg.DagsterInstance) -> None:
    change_seed(project, 1)
    edit(project / "stage.sh", "mkdir -p trace\n", "mkdir -p trace\nkill -9 $$\n")
    result = materialize(project, instance, "masksyn", partition="car")
    assert num_retries(result) == 2
    assert "given up after 3 tries" in failure_of(result, "masksyn").description


def test_a_hidden_stage_is_no_asset_and_is_run_where_it_is_needed(
    project: Path, instance: dg.DagsterInstance
) -> None:
    (project / "dvc.yaml").write_text((project / "dvc.yaml").read_text() + HIDDEN)
    edit(project / "dvc.yaml", "[stage.sh, data/real/train]", "[stage.sh, data/digest]")
    graph = definitions(project).resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get_all_asset_keys()} == {
        "dataset",
        "masksyn",
        "train_seg",
        "ablation",
    }
    assert graph.get(dg.AssetKey("masksyn")).parent_keys == set()
    assert materialize(project, instance, "masksyn", partition="car").success
    version = graph.get(dg.AssetKey("masksyn")).code_version
    edit(project / "dataset.txt", "first", "second")
    assert materialize(project, instance, "masksyn", partition="car").success
    assert not {"digests", "masksyn@car"} & set(changed_stages(project))
    graph = definitions(project).resolve_asset_graph()
    assert graph.get(dg.AssetKey("masksyn")).code_version != version


def test_other_parameters_make_an_experiment_and_leave_the_workspace_alone(
    project: Path, instance: dg.DagsterInstance
) -> None:
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


def test_a_cancelled_run_says_so_without_a_stack_trace(
    project: Path, instance: dg.DagsterInstance
) -> None:
    (project / "trace" / "masksyn@car.hang").touch()
    (project / "trace" / "masksyn@car.pid").unlink(missing_ok=True)
    edit(project / "stage.sh", "name=$1; shift", "name=$1; shift # changed")

    def cancel() -> None:
        wait_for_file(project / "trace" / "masksyn@car.pid")
        os.kill(os.getpid(), signal.SIGINT)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    assert not materialize(project, instance, "masksyn", partition="car").success
    canceller.join()
    (run,) = instance.get_runs()
    (event,) = instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    assert event.dagster_event is not None
    error = event.dagster_event.step_failure_data.error
    assert error is not None and error.cause is None and error.context is None
    assert error.cls_name == "Cancelled" and not error.stack
    assert "masksyn@car was cancelled" in error.message
    assert "what was finished is kept" in error.message
    assert not is_alive(int((project / "trace" / "masksyn@car.pid").read_text()))
