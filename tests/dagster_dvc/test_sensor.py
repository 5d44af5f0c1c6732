"""What is run outside of Dagster arrives in it, and both agree on what is stale."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from dagster_dvc.assets import build_dvc_assets
from dagster_dvc.checks import DVC_STATUS, build_stage_checks
from dagster_dvc.execution import DvcServer
from dagster_dvc.jobs import build_dvc_job
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import changed_stages, load_manifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.sensor import build_outside_runs_sensor


def definitions(root: Path) -> dg.Definitions:
    manifest = load_manifest(root)
    return dg.Definitions(
        assets=build_dvc_assets(manifest),
        asset_checks=build_stage_checks(manifest, []),
        jobs=[build_dvc_job("everything", description="All stages")],
        sensors=[build_outside_runs_sensor()],
        resources={"dvc": DvcProject(project_dir=str(root)).as_resource()},
        executor=dg.in_process_executor,
    )


class Dagster:
    """A Dagster instance that looks at a project through freshly loaded definitions, as after a reload."""

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

    def stale(self) -> dict[str, list[str]]:
        """Stages that Dagster calls stale or missing, and why."""
        graph = definitions(self.root).resolve_asset_graph()
        resolver = CachingStaleStatusResolver(
            self.instance, graph, LoadingContextForTest(self.instance)
        )
        found = {}
        for name, node in load_manifest(self.root).stages.items():
            key = dg.AssetKey(node.group)
            status = resolver.get_status(key, node.key).value
            if status != "FRESH":
                found[name] = [
                    status,
                    *(cause.reason for cause in resolver.get_stale_causes(key, node.key)),
                ]
        return found

    def run(self, job: str, **kwargs: Any) -> dg.ExecuteInProcessResult:
        return (
            definitions(self.root)
            .resolve_job_def(job)
            .execute_in_process(instance=self.instance, **kwargs)
        )


@pytest.fixture
def dagster(project: Path) -> Iterator[Dagster]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Dagster(instance, project)


def repro(server: DvcServer, root: Path, *names: str) -> None:
    for name in names:
        stage = server.run(root, name)
        list(stage.lines())
        assert stage.result.ok, stage.result.tail


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_what_ran_in_a_shell_arrives_and_staleness_agrees(
    dagster: Dagster, server: DvcServer
) -> None:
    root = dagster.root
    assert dagster.tick() == "reported 6 materializations"
    assert dagster.stale() == {} == changed_stages(root)
    assert dagster.tick() == "nothing has changed"
    record = dagster.instance.fetch_materializations(dg.AssetKey("masksyn"), limit=1).records[0]
    assert (
        record.asset_materialization is not None and record.asset_materialization.tags is not None
    )
    locked = read_lock(root)[f"masksyn@{record.partition_key}"]
    assert (
        record.asset_materialization.tags["dagster/data_version"]
        == next(iter(locked.outs.values())).md5
    )

    # A parameter: everything that reads it, whatever wrote params.yaml.
    replace(root / "params.yaml", "seed: 0", "seed: 1")
    dagster.tick()
    assert (
        set(dagster.stale())
        == set(changed_stages(root))
        == {"dataset", "masksyn@car", "masksyn@bus"}
    )
    repro(server, root, "dataset", "masksyn@car")
    dagster.tick()
    assert set(dagster.stale()) == set(changed_stages(root)) == {"masksyn@bus"}
    repro(server, root, "masksyn@bus")
    dagster.tick()
    assert dagster.stale() == {} == changed_stages(root)


def test_an_input_of_other_content_makes_stale_what_reads_it(
    dagster: Dagster, server: DvcServer
) -> None:
    root = dagster.root
    dagster.tick()
    replace(root / "stage.sh", 'echo "{}" > $out', 'echo "{$name}" > $out')
    repro(server, root, "dataset", "masksyn@car")
    dagster.tick()
    assert set(dagster.stale()) == set(changed_stages(root))
    assert "masksyn@car" not in dagster.stale()
    assert any("data version" in reason for reason in dagster.stale()["train_seg@masksyn"])


def test_the_pipeline_job_brings_everything_up_to_date(dagster: Dagster) -> None:
    root = dagster.root
    dagster.tick()
    replace(root / "params.yaml", "seed: 0", "seed: 1")
    result = dagster.run("everything")
    told = {
        e.asset_key.to_user_string()
        for e in result.filter_events(lambda event: event.is_step_materialization)
    }
    assert told == {"dataset", "masksyn"}
    assert changed_stages(root) == {}
    dagster.tick()
    assert dagster.stale() == {}


def test_dvc_status_is_told_when_it_changes(dagster: Dagster) -> None:
    dagster.tick()
    replace(dagster.root / "params.yaml", "p_aug: 0.6", "p_aug: 0.5")
    dagster.tick()
    key = dg.AssetCheckKey(dg.AssetKey("train_seg"), DVC_STATUS)
    latest = dagster.instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert latest.event is not None and latest.event.dagster_event is not None
    evaluation: Any = latest.event.dagster_event.event_specific_data
    assert not evaluation.passed
    assert evaluation.description.startswith(
        "2 of 2 stages changed: train_seg@baseline, train_seg@masksyn"
    )
