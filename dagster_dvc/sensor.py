"""A sensor that brings into Dagster what was run in a shell, or came by `git pull && dvc pull`.

For each stage whose record in dvc.lock isn't the one that Dagster heard of last, a materialization
is reported with DVC's data version, upstream stages first. And for each asset it reports what `dvc
status` says of it, and the results of the project's own checks, whenever they have changed.

It runs nothing, evaluates no check, and holds DVC's lock for milliseconds. If a DVC command holds
it, the sensor looks again later.
"""

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg

from dagster_dvc.blueprint import Blueprint, CheckOutcome
from dagster_dvc.checks import DVC_STATUS, check_evaluation, group_outcomes, group_status
from dagster_dvc.durations import read_durations
from dagster_dvc.errors import DvcBusyError
from dagster_dvc.events import materialization, stage_metadata
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.lock import LockedStage, digest_of, read_lock
from dagster_dvc.manifest import CACHE_FILE
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import changed_paths, stage_changes
from dagster_dvc.versions import RECORD_TAG

MAX_EVENTS_PER_TICK = 200
"""So that a tick ends before Dagster gives up on it; the next one goes on."""
PATIENCE_SECONDS = 0.0
"""How long a tick waits for a DVC command that holds DVC's lock, beyond the 3 s of one attempt."""
PIPELINE_TAG = "dvc/pipeline"
"""Tag of a run that may run any stage."""


@dataclass
class Cursor:
    """What the last tick has seen.

    Attributes:
        state: of the workspace; None where there is more to do in it.
        records: the record in dvc.lock that Dagster knows of each stage.
        verdicts: a digest of what was reported of each check of each asset.
        runs: the newest change of a run of Dagster.
    """

    state: str | None = None
    records: dict[str, str] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)
    runs: str = ""

    @classmethod
    def parse(cls, text: str | None) -> "Cursor":
        """The inverse of `dump`; what another version of this sensor left counts as nothing."""
        try:
            return cls(**json.loads(text or "{}"))
        except (TypeError, ValueError):
            return cls()

    def dump(self) -> str:
        """The cursor as text."""
        return json.dumps(self.__dict__)


def build_outside_runs_sensor(
    blueprint: Blueprint,
    *,
    name: str = "outside_runs",
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
) -> dg.SensorDefinition:
    """The sensor; it wants a `DvcProject` as the resource "dvc"."""

    @dg.sensor(
        name=name,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Reports what ran outside of Dagster, and what DVC calls changed of each asset",
    )
    def outside_runs(
        context: dg.SensorEvaluationContext, dvc: dg.ResourceParam[DvcProject]
    ) -> dg.SkipReason:
        cursor = Cursor.parse(context.cursor)
        runs = _newest_change(context.instance)
        try:
            manifest = dvc.manifest(patience=PATIENCE_SECONDS)
            state = _workspace_state(dvc.root, manifest, checks=dvc.root / dvc.checks)
            if state == cursor.state and runs == cursor.runs:
                return dg.SkipReason("nothing has changed")
            # Stages that were added since the definitions were loaded wait until they are loaded
            # again.
            repository = context.repository_def
            loaded = repository.asset_graph.get_all_asset_keys() if repository else None
            look = Look(
                context.instance,
                dvc,
                blueprint.renewed(manifest),
                loaded=loaded,
            )
        except DvcBusyError as error:
            return dg.SkipReason(f"looks again later: {error}")
        num_reported, is_complete = look.report_runs(cursor.records)
        if runs != cursor.runs:
            look.renew(cursor.verdicts)
        look.report_checks(cursor.verdicts)
        cursor.runs = runs
        # What a run is still at, or what didn't fit into this tick, is looked at again.
        cursor.state = state if is_complete else None
        context.update_cursor(cursor.dump())
        return dg.SkipReason(
            f"reported {num_reported} materializations{'' if is_complete else '; others later'}"
        )

    return outside_runs


class Look:
    """One look at a project, for a Dagster instance.

    Args:
        instance: what to tell.
        dvc: the project.
        blueprint: the project's stages.
        loaded: keys of the assets that are loaded; None takes all.
    """

    def __init__(
        self,
        instance: dg.DagsterInstance,
        dvc: DvcProject,
        blueprint: Blueprint,
        *,
        loaded: Collection[dg.AssetKey] | None = None,
    ) -> None:
        """Ask DVC what has changed.

        Raises:
            DvcBusyError: a DVC command holds its lock.
        """
        self._instance = instance
        self._dvc = dvc
        self._root = dvc.root
        self._manifest = blueprint.manifest
        self._blueprint = blueprint
        keys = {group: blueprint.key(group) for group in blueprint.manifest.assets}
        self._keys = {g: key for g, key in keys.items() if loaded is None or key in loaded}
        self._durations = read_durations(dvc.state)
        self._lock = read_lock(dvc.root, patience=PATIENCE_SECONDS)
        self._changed = stage_changes(blueprint.manifest, root=dvc.root, patience=PATIENCE_SECONDS)
        # Asked after dvc.lock was read: a run that ends meanwhile is still among the busy ones, or
        # its own report is in the event log already.
        self._busy = self._busy_stages()

    def report_runs(self, records: dict[str, str]) -> tuple[int, bool]:
        """Report every stage that DVC knows more of than Dagster.

        Args:
            records: the record that Dagster knows of each stage; it is brought up to date.

        Returns:
            How many were reported, and whether there is no need to look again.
        """
        num_reported = 0
        for name in self._manifest.topological_order():
            node, locked = self._manifest.stages[name], self._lock.get(name)
            if locked is None or node.group not in self._keys or name in self._busy:
                continue
            # Outputs that aren't what dvc.lock says (pulled by git alone, altered by hand) were not
            # made by the run it records.
            is_altered = changed_paths(self._changed.get(name, ()), kind="changed outs")
            if records.get(name) == locked.digest or is_altered:
                continue
            if not self._is_known(node, locked):
                if num_reported == MAX_EVENTS_PER_TICK:
                    return num_reported, False
                metadata = stage_metadata(
                    self._root,
                    node,
                    locked=locked,
                    reader=self._blueprint.reader,
                    seconds=self._durations.get(name),
                )
                key = self._keys[node.group]
                event = materialization(key, node, locked=locked, metadata=metadata)
                self._instance.report_runless_asset_event(event)
                num_reported += 1
            records[name] = locked.digest
        return num_reported, not self._busy

    def renew(self, verdicts: dict[str, str]) -> None:
        """Forget what was reported of assets that no run is at: it is compared with what is shown.

        A run that fails or is cancelled leaves the checks that it planned, and Dagster calls them
        "Not Evaluated".

        Args:
            verdicts: what was reported, by asset and check; it is brought up to date.
        """
        for label in list(verdicts):
            if not self._busy.intersection(self._manifest.groups.get(label.partition(" ")[0], ())):
                del verdicts[label]

    def report_checks(self, verdicts: dict[str, str]) -> None:
        """Report each check of each asset whose result is another one than before.

        Args:
            verdicts: what was reported before, by asset and check; it is brought up to date.
        """
        for group, key in self._keys.items():
            status = group_status(self._manifest, group, changed=self._changed, lock=self._lock)
            outcomes = {DVC_STATUS: status}
            if not self._busy.intersection(self._manifest.groups[group]):
                outcomes |= group_outcomes(
                    self._blueprint, group, dvc=self._dvc, lock=self._lock, fresh={}
                )
            for check, outcome in outcomes.items():
                label = f"{group} {check}"
                said = [outcome.passed, outcome.description, outcome.severity.value]
                if verdicts.get(label) == digest_of(said):
                    continue
                if not self._is_shown(key, check, outcome):
                    event = check_evaluation(key, check, outcome)
                    self._instance.report_runless_asset_event(event)
                verdicts[label] = digest_of(said)

    def _is_shown(self, key: dg.AssetKey, check: str, outcome: CheckOutcome) -> bool:
        """Whether Dagster's last evaluation of a check says this already, as after its own run."""
        record = self._instance.get_latest_asset_check_evaluation_record(
            dg.AssetCheckKey(key, check)
        )
        shown = None if record is None else record.evaluation
        return (
            isinstance(shown, dg.AssetCheckEvaluation)  # not one that a run has only planned
            and shown.passed == outcome.passed
            and shown.severity == outcome.severity
            and shown.description == outcome.description
        )

    def _is_known(self, node: StageNode, locked: LockedStage) -> bool:
        """Whether Dagster's last materialization of a stage is of this record."""
        partitions = None if node.key is None else [node.key]
        wanted = dg.AssetRecordsFilter(self._keys[node.group], asset_partitions=partitions)
        records = self._instance.fetch_materializations(wanted, limit=1).records
        event = records[0].asset_materialization if records else None
        return event is not None and (event.tags or {}).get(RECORD_TAG) == locked.digest

    def _busy_stages(self) -> set[str]:
        """Stages that a Dagster run is at, or about to be: that run will report them itself."""
        status = dg.DagsterRunStatus
        active = [status.STARTING, status.STARTED, status.CANCELING]
        groups = {key: group for group, key in self._keys.items()}
        busy: set[str] = set()
        for record in self._instance.get_run_records(dg.RunsFilter(statuses=active)):
            run = record.dagster_run
            if PIPELINE_TAG in run.tags:
                return set(self._manifest.stages)
            partition = run.tags.get("dagster/partition")
            for group in (groups[key] for key in run.asset_selection or groups if key in groups):
                for name in self._manifest.groups[group]:
                    if partition is None or self._manifest.stages[name].key in (None, partition):
                        busy.add(name)
        return busy


def _newest_change(instance: dg.DagsterInstance) -> str:
    """Return what distinguishes the newest change of any run from the one before."""
    for record in instance.get_run_records(limit=1, order_by="update_timestamp"):
        run = record.dagster_run
        return f"{run.run_id} {run.status.value} {record.update_timestamp.isoformat()}"
    return ""


def _workspace_state(root: Path, manifest: DvcManifest, *, checks: Path) -> str:
    """A cheap hash of what the sensor's findings rest on: what defines, records and is made.

    Args:
        root: the folder that holds dvc.yaml.
        manifest: its stages.
        checks: folder of the results of the project's own checks.
    """
    digest = hashlib.sha256()
    outs = (Path(out) for node in manifest.stages.values() for out in node.outs)
    results = sorted(checks.glob("*.json"))
    for path in (Path("dvc.lock"), CACHE_FILE, *outs, *results):
        try:
            state = (root / path).stat()
        except FileNotFoundError:
            digest.update(f"{path} absent\n".encode())
        else:
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
