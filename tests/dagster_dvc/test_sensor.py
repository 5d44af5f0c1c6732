"""What is run outside of Dagster arrives in it once, and `dvc_status` says what DVC says."""

import threading
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc.blueprint import Blueprint, CheckBook, CheckOutcome, StageCheck
from dagster_dvc.busy import hold_dvc_lock
from dagster_dvc.checks import DVC_STATUS
from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.graph import StageNode
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import load_manifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import changed_stages
from tests.dagster_dvc.conftest import dvc, edit, run_stage


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

    def definitions(self) -> dg.Definitions:
        return definitions(self.root)

    def tick(self) -> str:
        defs = self.definitions()
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

    def evaluations(self, asset: str, check: str = DVC_STATUS) -> list[dg.AssetCheckEvaluation]:
        """All evaluations of a check of an asset, the newest first."""
        records = self.instance.event_log_storage.get_asset_check_execution_history(
            dg.AssetCheckKey(dg.AssetKey(asset), check), limit=100
        )
        return [record.evaluation for record in records if record.evaluation is not None]

    def status(self, asset: str) -> str:
        """What the last evaluation of dvc_status says of an asset."""
        return self.evaluations(asset)[0].description or ""

    def stale(self) -> set[str]:
        """Stages that dvc_status warns of."""
        stale_names = set()
        for asset, names in load_manifest(self.root).groups.items():
            newest = self.evaluations(asset)[0]
            if len(names) == 1:
                stale_names |= set() if newest.passed else set(names)
                continue
            table = newest.metadata["partitions"]
            assert isinstance(table, dg.TableMetadataValue)
            rows = [row.data for row in table.records]
            failed = {f"{asset}@{row['partition']}" for row in rows if row["result"] == "failed"}
            assert bool(failed) is not newest.passed
            stale_names |= failed
        return stale_names

    def materializations(self) -> list[dg.EventLogRecord]:
        """All materializations of all assets."""
        return [
            record
            for asset in load_manifest(self.root).assets
            for record in self.instance.fetch_materializations(
                dg.AssetKey(asset), limit=100
            ).records
        ]

    def versions(self) -> dict[str, str]:
        """The data version of each stage in its last materialization, by Dagster."""
        by_name = {}
        for name, node in load_manifest(self.root).stages.items():
            partitions = [node.key] if node.key else None
            wanted = dg.AssetRecordsFilter(dg.AssetKey(node.group), asset_partitions=partitions)
            records = self.instance.fetch_materializations(wanted, limit=1).records
            assert records[0].asset_materialization is not None
            by_name[name] = (records[0].asset_materialization.tags or {})["dagster/data_version"]
        return by_name


@pytest.fixture
def dagster(project: Path) -> Iterator[Dagster]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Dagster(instance, project)


def test_what_ran_in_a_shell_arrives_once_and_dvc_status_agrees(dagster: Dagster) -> None:
    root = dagster.root
    assert dagster.tick() == "reported 6 materializations"
    assert dagster.stale() == set() == set(changed_stages(root))
    assert dagster.tick() == "nothing has changed"
    versions = dagster.versions()
    for name, locked in read_lock(root).items():
        if len(locked.outs) == 1:
            assert versions[name] == next(iter(locked.outs.values())).md5

    # A parameter was changed and nothing ran: there is nothing to report.
    edit(root / "params.yaml", "seed: 0", "seed: 1")
    assert dagster.tick() == "reported 0 materializations"
    assert dagster.stale() == {"dataset", "masksyn@car", "masksyn@bus"} == set(changed_stages(root))
    edit(root / "stage.sh", 'echo "{}" > $out', 'echo "{$name}" > $out')
    for name in ("dataset", "masksyn@car"):
        assert run_stage(root, name)[0].ok
    assert dagster.tick() == "reported 2 materializations"
    assert dagster.stale() == set(changed_stages(root))
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
    (status,) = dagster.evaluations("masksyn")
    assert (status.passed, status.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert "1 of 2 partitions are changed: car: data/synthetic/masksyn/car changed" in str(
        status.description
    )


def test_a_deleted_output_and_stale_stages_are_named_and_nothing_is_materialized(
    dagster: Dagster,
) -> None:
    dagster.tick()
    (dagster.root / "data/synthetic/masksyn/car").unlink()
    edit(dagster.root / "params.yaml", "p_aug: 0.6", "p_aug: 0.5")
    num_materializations = len(dagster.materializations())
    assert dagster.tick() == "reported 0 materializations"
    assert len(dagster.materializations()) == num_materializations
    deleted, stale = (dagster.evaluations(asset)[0] for asset in ("masksyn", "train_seg"))
    assert deleted.severity == dg.AssetCheckSeverity.ERROR
    assert deleted.description == (
        "1 of 2 partitions are changed: car: data/synthetic/masksyn/car deleted (materialise it, "
        "or run: dvc repro masksyn@car)"
    )
    assert stale.severity == dg.AssetCheckSeverity.WARN
    assert str(stale.description).startswith(
        "2 of 2 partitions are changed: baseline: p_aug changed (materialise it, or run: dvc repro "
        "train_seg@baseline); masksyn: data/synthetic/masksyn changed; p_aug changed"
    )
    assert dagster.status("dataset") == "up to date"
    assert len(dagster.evaluations("dataset")) == 1, "what didn't change isn't said again"


def test_the_pipeline_job_brings_everything_up_to_date(dagster: Dagster) -> None:
    root = dagster.root
    dagster.tick()
    edit(root / "params.yaml", "seed: 0", "seed: 1")
    job = definitions(root).resolve_job_def("everything")
    result = job.execute_in_process(instance=dagster.instance)
    reported = {
        e.asset_key.to_user_string()
        for e in result.filter_events(lambda event: event.is_step_materialization)
    }
    assert reported == {"dataset", "masksyn"}
    assert changed_stages(root) == {}
    assert dagster.tick() == "reported 0 materializations"
    assert dagster.stale() == set()


def test_dvc_status_is_told_when_it_changes(dagster: Dagster) -> None:
    dagster.tick()
    assert dagster.status("train_seg") == "2 of 2 partitions are up to date"
    edit(dagster.root / "params.yaml", "p_aug: 0.6", "p_aug: 0.5")
    dagster.tick()
    assert dagster.status("train_seg").startswith(
        "2 of 2 partitions are changed: baseline: p_aug changed"
    )
    assert dagster.status("ablation").startswith("up to date with its inputs, but")
    edit(dagster.root / "params.yaml", "p_aug: 0.5", "p_aug: 0.6")
    dagster.tick()
    assert dagster.status("train_seg") == "2 of 2 partitions are up to date"


def test_a_run_that_failed_leaves_no_check_without_a_result(dagster: Dagster) -> None:
    """Dagster shows a check that a run planned and never evaluated as "Not Evaluated"."""
    root, key = dagster.root, dg.AssetCheckKey(dg.AssetKey("dataset"), DVC_STATUS)
    edit(root / "stage.sh", 'echo "{}" > $out', "exit 1")
    edit(root / "params.yaml", "seed: 0", "seed: 1")
    dagster.tick()
    job = definitions(root).resolve_implicit_global_asset_job_def()
    for _ in range(2):  # nothing changes in the project from one run to the next
        result = job.execute_in_process(
            instance=dagster.instance, asset_selection=[key.asset_key], raise_on_error=False
        )
        assert not result.success
        record = dagster.instance.get_latest_asset_check_evaluation_record(key)
        assert record is not None and not isinstance(record.evaluation, dg.AssetCheckEvaluation)
        assert dagster.tick() == "reported 0 materializations"
        record = dagster.instance.get_latest_asset_check_evaluation_record(key)
        assert record is not None and isinstance(record.evaluation, dg.AssetCheckEvaluation)
        assert not record.evaluation.passed
        assert "seed changed" in str(record.evaluation.description)
    assert dagster.tick() == "nothing has changed"


def test_results_of_the_projects_own_checks_arrive_without_being_evaluated(
    project: Path,
) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        dagster = BookedDagster(instance, project)
        dagster.tick()
        assert dagster.evaluations("masksyn", "sound") == []
        note = project / ".dvc/tmp/dagster_dvc/checks/masksyn@car.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text("broken")
        assert dagster.tick() == "reported 0 materializations"
        (evaluation,) = dagster.evaluations("masksyn", "sound")
        assert (evaluation.passed, evaluation.severity) == (False, dg.AssetCheckSeverity.ERROR)
        assert evaluation.description == (
            "1 of 2 partitions fail: car: it is broken; nothing is known of the other 1"
        )
        note.write_text("sound as can be")
        dagster.tick()
        assert [e.passed for e in dagster.evaluations("masksyn", "sound")] == [True, False]
        dagster.cursor = None  # a lost cursor repeats nothing that Dagster shows
        dagster.tick()
        assert len(dagster.evaluations("masksyn", "sound")) == 2


class NoteBook(CheckBook):
    """Results in the files of the folder `checks`; a text without "broken" is a pass."""

    def recall(self, root: Path, node: StageNode) -> dict[str, CheckOutcome]:
        note = root / ".dvc/tmp/dagster_dvc/checks" / f"{node.name}.json"
        if not note.is_file():
            return {}
        text = note.read_text()
        return {"sound": CheckOutcome("broken" not in text, f"it is {text}")}


class BookedDagster(Dagster):
    """With a check whose results the project keeps itself."""

    def definitions(self) -> dg.Definitions:
        check = StageCheck(
            "sound",
            "Nothing is broken",
            blocking=True,
            applies=lambda group: group == "masksyn",
            evaluate=None,
        )
        blueprint = Blueprint(load_manifest(self.root), [check], book=NoteBook())
        return build_dvc_definitions(DvcProject(str(self.root)), blueprint=blueprint)


def test_the_sensor_gives_way_to_a_dvc_command(dagster: Dagster) -> None:
    with hold_dvc_lock(dagster.root):
        assert dagster.tick().startswith("looks again later: process ")
    assert dagster.cursor is None
    assert dagster.tick() == "reported 6 materializations"


def test_a_dvc_command_in_a_shell_never_fails_because_of_the_sensor(project: Path) -> None:
    """The sensor looks again and again while a user types `dvc status` and `dvc repro`."""
    is_done, is_looking = threading.Event(), threading.Event()
    ticks: list[str] = []

    def look() -> None:
        with dg.DagsterInstance.ephemeral() as instance:
            while not is_done.is_set():
                dagster = Dagster(instance, project)  # without a cursor: it looks at everything
                is_looking.set()
                ticks.append(dagster.tick())

    def dvc_beside_a_look(*arguments: str) -> None:
        is_looking.clear()
        assert is_looking.wait(120)
        dvc(project, *arguments)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        for seed in range(3):
            edit(project / "params.yaml", f"seed: {seed}", f"seed: {seed + 1}")
            dvc_beside_a_look("status")
            dvc_beside_a_look("repro", "--single-item", "dataset")
    finally:
        is_done.set()
        thread.join()
    assert all(tick.startswith(("reported", "looks again later")) for tick in ticks), ticks
