"""What is run outside of Dagster arrives in it once, and `dvc_status` says what DVC says."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from dagster_dvc.checks import DVC_STATUS
from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import load_manifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import changed_stages
from tests.dagster_dvc.conftest import edit, run_stage


def definitions(root: Path) -> dg.Definitions:
    return dg.Definitions.merge(
        build_dvc_definitions(DvcProject(str(root)), job="everything"),
        dg.Definitions(executor=dg.in_process_executor),
    )


class Dagster:
    """A Dagster instance that looks at a project through freshly loaded definitions."""

    def __init__(self, instance: dg.DagsterInstance, root: Path) -> None:
        self.instance = instance
        self.root = root
        self.cursor: str | None = None

    def tick(self) -> str:
        defs = definitions(self.root)
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursor,
            repository_def=defs.get_repository_def(),
            resources=defs.resources,
        ) as context:
            answer = defs.get_sensor_def("outside_runs")(context)
            self.cursor = context.cursor
        assert isinstance(answer, dg.SkipReason)
        return answer.skip_message or ""

    def status(self, asset: str) -> str:
        """What the last evaluation of dvc_status says of an asset."""
        key = dg.AssetCheckKey(dg.AssetKey(asset), DVC_STATUS)
        record = self.instance.get_latest_asset_check_evaluation_record(key)
        assert record is not None and record.evaluation is not None
        return record.evaluation.description or ""

    def stale(self) -> set[str]:
        """Assets that dvc_status warns of."""
        assets = load_manifest(self.root).assets
        return {asset for asset in assets if not self.status(asset).startswith("up to date")}

    def versions(self) -> dict[str, str]:
        """The data version of each stage in its last materialization, by Dagster."""
        found = {}
        for name, node in load_manifest(self.root).stages.items():
            partitions = [node.key] if node.key else None
            wanted = dg.AssetRecordsFilter(dg.AssetKey(node.group), asset_partitions=partitions)
            records = self.instance.fetch_materializations(wanted, limit=1).records
            assert records[0].asset_materialization is not None
            found[name] = (records[0].asset_materialization.tags or {})["dagster/data_version"]
        return found


@pytest.fixture
def dagster(project: Path) -> Iterator[Dagster]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Dagster(instance, project)


def groups(stages: Any) -> set[str]:
    return {name.partition("@")[0] for name in stages}


def test_what_ran_in_a_shell_arrives_once_and_dvc_status_agrees(dagster: Dagster) -> None:
    root = dagster.root
    assert dagster.tick() == "reported 6 materializations"
    assert dagster.stale() == set() == groups(changed_stages(root))
    assert dagster.tick() == "nothing has changed"
    versions = dagster.versions()
    for name, locked in read_lock(root).items():
        if len(locked.outs) == 1:
            assert versions[name] == next(iter(locked.outs.values())).md5

    # A parameter was changed and nothing ran: there is nothing to report.
    edit(root / "params.yaml", "seed: 0", "seed: 1")
    assert dagster.tick() == "reported 0 materializations"
    assert dagster.stale() == {"dataset", "masksyn"} == groups(changed_stages(root))
    edit(root / "stage.sh", 'echo "{}" > $out', 'echo "{$name}" > $out')
    for name in ("dataset", "masksyn@car"):
        assert run_stage(root, name)[0].ok
    assert dagster.tick() == "reported 2 materializations"
    assert dagster.stale() == groups(changed_stages(root))
    assert dagster.versions()["masksyn@car"] != versions["masksyn@car"]
    assert dagster.versions()["masksyn@bus"] == versions["masksyn@bus"]


def test_a_fresh_sensor_reports_nothing_that_dagster_knows(dagster: Dagster) -> None:
    dagster.tick()
    dagster.cursor = None
    assert dagster.tick() == "reported 0 materializations"
    dagster.cursor = '{"told": "by an earlier version"}'
    assert dagster.tick() == "reported 0 materializations"


def test_outputs_that_were_altered_are_not_reported(dagster: Dagster) -> None:
    path = dagster.root / "data/synthetic/masksyn/car"
    path.unlink()
    path.write_text("altered by hand")
    assert dagster.tick() == "reported 5 materializations"


def test_the_pipeline_job_brings_everything_up_to_date(dagster: Dagster) -> None:
    root = dagster.root
    dagster.tick()
    edit(root / "params.yaml", "seed: 0", "seed: 1")
    job = definitions(root).resolve_job_def("everything")
    result = job.execute_in_process(instance=dagster.instance)
    told = {
        e.asset_key.to_user_string()
        for e in result.filter_events(lambda event: event.is_step_materialization)
    }
    assert told == {"dataset", "masksyn"}
    assert changed_stages(root) == {}
    assert dagster.tick() == "reported 0 materializations"
    assert dagster.stale() == set()


def test_dvc_status_is_told_when_it_changes(dagster: Dagster) -> None:
    dagster.tick()
    assert dagster.status("train_seg") == "up to date"
    edit(dagster.root / "params.yaml", "p_aug: 0.6", "p_aug: 0.5")
    dagster.tick()
    assert dagster.status("train_seg").startswith(
        "2 of 2 stages changed: train_seg@baseline, train_seg@masksyn"
    )
    assert dagster.status("ablation").startswith("up to date with its inputs, but")
