"""What a failed blocking check stops in later runs: in a backfill, in automation, and by hand."""

import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.execution.backfill import BulkActionStatus, PartitionBackfill
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.backfill import execute_backfill_iteration

from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import load_manifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import changed_stages
from tests.dagster_dvc import test_checks
from tests.dagster_dvc.conftest import edit, run_stage
from tests.dagster_dvc.test_checks import make_write

MAX_ITERATIONS = 6


@dg.definitions
def checked_project() -> dg.Definitions:
    """The toy project with a blocking check on masksyn, as Dagster's daemon loads it."""
    return test_checks.definitions(Path(os.environ["SEGGEN_PROJECT"]))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """With runs that are executed where they are launched."""
    with dg.instance_for_test(
        synchronous_run_launcher=True, synchronous_run_coordinator=True
    ) as instance:
        yield instance


def backfill(instance: dg.DagsterInstance, project: Path, *assets: str) -> PartitionBackfill:
    """Dagster's own backfill of all partitions of some assets, to its end."""
    graph = test_checks.definitions(project).resolve_asset_graph()
    request = PartitionBackfill.from_asset_partitions(
        backfill_id="all",
        asset_graph=graph,
        partition_names=None,
        asset_selection=[dg.AssetKey(asset) for asset in assets],
        backfill_timestamp=time.time(),
        tags={},
        dynamic_partitions_store=instance,
        all_partitions=True,
        title=None,
        description=None,
        run_config=None,
    )
    instance.add_backfill(request)
    target = LoadableTargetOrigin(
        executable_path=sys.executable, python_file=__file__, attribute="checked_project"
    )
    location = InProcessWorkspaceLoadTarget(
        [InProcessCodeLocationOrigin(target, location_name="project")]
    )
    with create_test_daemon_workspace_context(location, instance) as context:
        for _ in range(MAX_ITERATIONS):
            errors = [
                error
                for error in execute_backfill_iteration(context, logging.getLogger("backfill"))
                if error
            ]
            assert not errors
            backfill_now = instance.get_backfill("all")
            assert backfill_now is not None
            if backfill_now.status != BulkActionStatus.REQUESTED:
                break
    return backfill_now


def outcomes(instance: dg.DagsterInstance) -> dict[str, str]:
    """Status of the run of each partition."""
    return {
        f"{key.to_user_string()}@{run.tags['dagster/partition']}": run.status.value
        for run in instance.get_runs()
        for key in run.asset_selection or ()
    }


def failures(instance: dg.DagsterInstance) -> list[str]:
    """What the steps that failed said."""
    logs = [
        log
        for run in instance.get_runs()
        for log in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.STEP_FAILURE)
    ]
    failures_of_runs = [
        log.dagster_event.step_failure_data.user_failure_data for log in logs if log.dagster_event
    ]
    return [str(failure.description) for failure in failures_of_runs if failure is not None]


def test_a_backfill_stops_at_a_broken_partition(
    project: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGGEN_PROJECT", str(project))
    make_write(project, "broken")
    done = backfill(instance, project, "masksyn", "train_seg")
    assert done.status == BulkActionStatus.COMPLETED_FAILED
    # The arm that reads masksyn was launched, since its partitions are materialized, and did
    # nothing.
    assert outcomes(instance) == {
        "masksyn@car": "FAILURE",
        "masksyn@bus": "SUCCESS",
        "train_seg@baseline": "SUCCESS",
        "train_seg@masksyn": "FAILURE",
    }
    assert not (project / "trace" / "train_seg@masksyn.start").exists()
    assert "train_seg@masksyn" in changed_stages(project)
    (said,) = [
        failure for failure in failures(instance) if "train_seg@masksyn isn't run" in failure
    ]
    assert "check sound of masksyn@car failed: data/synthetic/masksyn/car is broken" in said


def materialize(instance: dg.DagsterInstance, project: Path, asset: str, partition: str) -> bool:
    """Run one partition and its checks; returns whether all went well."""
    job = test_checks.definitions(project).resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey(asset)],
        partition_key=partition,
        raise_on_error=False,
    )
    return result.success


def test_automation_stops_at_a_broken_partition_and_goes_on_when_it_is_mended(
    project: Path, instance: dg.DagsterInstance
) -> None:
    for asset, partitions in {
        "dataset": [None],
        "train_seg": ["baseline", "masksyn"],
        "masksyn": ["bus"],
    }.items():
        for partition in partitions:
            instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition))

    def tick(cursor: Any) -> tuple[set[str | None], Any]:
        """The partitions of train_seg that are asked for."""
        definitions, selection = (
            test_checks.definitions(project),
            dg.AssetSelection.assets("train_seg"),
        )
        result = dg.evaluate_automation_conditions(
            definitions, instance, asset_selection=selection, cursor=cursor
        )
        asked = (
            result.get_requested_partitions(dg.AssetKey("train_seg"))
            if result.total_requested
            else set()
        )
        return set(asked), result.cursor

    assert materialize(instance, project, "masksyn", "car")
    _, cursor = tick(None)
    make_write(project, "broken")
    assert not materialize(instance, project, "masksyn", "car")
    requested, cursor = tick(cursor)
    assert requested == set()

    # A sound partition after it speaks for the whole asset in Dagster, but not for the broken one
    # here.
    assert materialize(instance, project, "masksyn", "bus")
    assert not materialize(instance, project, "train_seg", "masksyn")
    assert not (project / "trace" / "train_seg@masksyn.start").exists()

    make_write(project, "mended")
    assert materialize(instance, project, "masksyn", "car")
    requested, cursor = tick(cursor)
    assert requested == {"masksyn"}
    assert materialize(instance, project, "train_seg", "masksyn")


def test_checks_by_hand_renew_what_is_known_of_each_partition(
    project: Path, instance: dg.DagsterInstance
) -> None:
    manifest = load_manifest(project)
    node = manifest.stages["train_seg@masksyn"]
    verdicts = DvcProject(str(project)).verdicts()

    def held_up_by(*checks: str) -> list[str]:
        lines = verdicts.failed_inputs(manifest, node, root=project, checks=checks)
        return [line.partition(":")[0] for line in lines]

    assert held_up_by("sound") == []
    checks = {dg.AssetCheckKey(dg.AssetKey("masksyn"), "sound")}
    job = test_checks.definitions(project).resolve_implicit_global_asset_job_def()
    by_hand = job.get_subset(asset_selection=set(), asset_check_selection=checks)
    lines = ["check sound of masksyn@car failed"]
    for word, expected in (("broken", lines), ("doubtful", []), ("broken", lines)):
        path = project / "data/synthetic/masksyn/car"
        path.unlink()  # it is a link into DVC's cache
        path.write_text(word)
        by_hand.execute_in_process(instance=instance, raise_on_error=False)
        assert held_up_by("sound") == expected
    assert held_up_by("another") == []
    # What was found of an earlier content counts no more.
    edit(project / "stage.sh", 'echo "{}"', 'echo "{1}"')
    assert run_stage(project, "masksyn@car")[0].changed_outs
    assert held_up_by("sound") == []


@pytest.mark.parametrize("text", ["", "{", "[]", '{"failed": 3}'])
def test_damaged_verdicts_are_worth_nothing(project: Path, text: str) -> None:
    manifest, locked = load_manifest(project), read_lock(project)["masksyn@car"]
    verdicts = DvcProject(str(project)).verdicts()
    node = manifest.stages["masksyn@car"]
    verdicts.note(node, locked=locked, check="sound", problem="broken")
    assert verdicts.failed("masksyn@car", locked=locked) == {"sound": "broken"}
    (verdicts.folder / "masksyn@car.json").write_text(text)
    assert verdicts.failed("masksyn@car", locked=locked) == {}
