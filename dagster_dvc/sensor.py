"""A sensor that brings into Dagster what was run in a shell, or came by `git pull && dvc pull`.

For each stage whose record in dvc.lock isn't what Dagster last heard of it, a materialization is
reported, upstream stages first, with the tags from which Dagster works out staleness. So a stage
that DVC calls up to date is up to date in the UI, also where Dagster's own reckoning would call it
stale because an input was made anew with the same content.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.bridge import ProvenanceBridge
from dagster_dvc.checks import DVC_STATUS, dvc_status_outcome, stage_changes
from dagster_dvc.events import StageReader, stage_metadata
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import CACHE_FILE, DvcManifest, StageNode
from dagster_dvc.provenance import changed_paths, upstream_of_path
from dagster_dvc.resource import DvcProject
from dagster_dvc.translator import DvcTranslator

MAX_EVENTS_PER_TICK = 200
"""So that a tick ends before Dagster gives up on it; the next one goes on."""
PIPELINE_TAG = "dvc/pipeline"
"""Tag of a run that may run any stage."""


def build_outside_runs_sensor(
    *,
    translator: DvcTranslator | None = None,
    reader: StageReader | None = None,
    name: str = "outside_runs",
    minimum_interval_seconds: int = 30,
    default_status: dg.DefaultSensorStatus = dg.DefaultSensorStatus.RUNNING,
) -> dg.SensorDefinition:
    """The sensor; it wants a `DvcProject` as the resource "dvc"."""
    translator, reader = translator or DvcTranslator(), reader or StageReader()

    @dg.sensor(
        name=name,
        minimum_interval_seconds=minimum_interval_seconds,
        default_status=default_status,
        description="Reports what was run outside of Dagster, and what `dvc status` says of each asset.",
    )
    def outside_runs(
        context: dg.SensorEvaluationContext, dvc: dg.ResourceParam[DvcProject]
    ) -> dg.SkipReason:
        seen = json.loads(context.cursor) if context.cursor else {}
        manifest = dvc.manifest()
        state = _workspace_state(dvc.root, manifest)
        if state == seen.get("state"):
            return dg.SkipReason("nothing has changed")
        # Stages that were added since the definitions were loaded wait until they are loaded again.
        assets = (
            context.repository_def.asset_graph.get_all_asset_keys()
            if context.repository_def
            else None
        )
        changed = stage_changes(manifest, root=dvc.root)
        reported, complete = report_outside_runs(
            context.instance,
            root=dvc.root,
            manifest=manifest,
            changed=changed,
            translator=translator,
            reader=reader,
            assets=assets,
        )
        verdicts = report_dvc_status(
            context.instance,
            manifest=manifest,
            changed=changed,
            translator=translator,
            told=seen.get("verdicts", {}),
            assets=assets,
        )
        # What a run is still at, or what didn't fit into this tick, is looked at again.
        context.update_cursor(
            json.dumps({"state": state if complete else None, "verdicts": verdicts})
        )
        return dg.SkipReason(
            f"reported {reported} materializations" + ("" if complete else "; others later")
        )

    return outside_runs


def report_outside_runs(
    instance: dg.DagsterInstance,
    *,
    root: Path,
    manifest: DvcManifest,
    changed: Mapping[str, Sequence[Any]],
    translator: DvcTranslator,
    reader: StageReader,
    assets: Any = None,
    limit: int = MAX_EVENTS_PER_TICK,
) -> tuple[int, bool]:
    """Report every stage that DVC knows more of than Dagster; returns how many, and whether there is no need to look again.

    Args:
        instance: what to tell.
        root: the folder that holds dvc.yaml.
        manifest: the project's stages.
        changed: what `stage_changes` says.
        translator: gives asset keys.
        reader: reads metadata of stages.
        assets: keys of the assets that are loaded; None takes all.
        limit: reports at most.
    """
    # In this order: a run that ends meanwhile is still among the busy ones, or its own report is in
    # the event log already.
    lock = read_lock(root)
    busy = busy_stages(instance, manifest, translator=translator)
    bridge = ProvenanceBridge(instance, manifest=manifest, translator=translator)
    reported = 0
    for name in manifest.topological_order():
        node = manifest.stages[name]
        # Outputs that aren't what dvc.lock says (pulled by git alone, altered by hand) were not
        # made by the run it records.
        altered = changed_paths(changed.get(name, ()), kind="changed outs")
        if (
            name not in lock
            or name in busy
            or altered
            or (assets is not None and bridge.asset_key(node.group) not in assets)
        ):
            continue
        outdated = outdated_groups(manifest, node, changed=changed)
        if bridge.is_told(node, locked=lock[name], outdated=outdated):
            continue
        if reported == limit:
            return reported, False
        metadata = stage_metadata(root, node, locked=lock[name], reader=reader)
        event = bridge.materialization(
            node, locked=lock[name], outdated=outdated, metadata=metadata
        )
        instance.report_runless_asset_event(event)
        bridge.refresh(node.group, only=name)
        reported += 1
    return reported, not busy


def report_dvc_status(
    instance: dg.DagsterInstance,
    *,
    manifest: DvcManifest,
    changed: Mapping[str, Sequence[Any]],
    translator: DvcTranslator,
    told: Mapping[str, str],
    assets: Any = None,
) -> dict[str, str]:
    """Report the check `dvc_status` of every asset whose verdict isn't the one in `told`; returns all verdicts."""
    verdicts = {}
    for group in manifest.groups:
        key = translator.get_asset_key(manifest, group)
        if assets is not None and key not in assets:
            continue
        outcome = dvc_status_outcome(manifest, group, changed=changed)
        verdicts[group] = hashlib.sha256(
            f"{outcome.passed} {outcome.description}".encode()
        ).hexdigest()[:16]
        if told.get(group) != verdicts[group]:
            instance.report_runless_asset_event(
                dg.AssetCheckEvaluation(
                    asset_key=key,
                    check_name=DVC_STATUS,
                    passed=outcome.passed,
                    metadata=outcome.metadata,
                    severity=outcome.severity,
                    description=outcome.description,
                )
            )
    return verdicts


def outdated_groups(
    manifest: DvcManifest, node: StageNode, *, changed: Mapping[str, Sequence[Any]]
) -> set[str]:
    """Groups of whose present output DVC says that it isn't what the stage was made from."""
    paths = changed_paths(changed.get(node.name, ()), kind="changed deps")
    return {group for path in paths for group in upstream_of_path(manifest, node, path)}


def busy_stages(
    instance: dg.DagsterInstance, manifest: DvcManifest, *, translator: DvcTranslator
) -> set[str]:
    """Stages that a Dagster run is at, or about to be: that run will report them itself."""
    active = [
        dg.DagsterRunStatus.STARTING,
        dg.DagsterRunStatus.STARTED,
        dg.DagsterRunStatus.CANCELING,
    ]
    groups = {translator.get_asset_key(manifest, group): group for group in manifest.groups}
    busy: set[str] = set()
    for run in instance.get_runs(filters=dg.RunsFilter(statuses=active)):
        if PIPELINE_TAG in run.tags:
            return set(manifest.stages)
        partition = run.tags.get("dagster/partition")
        for group in (groups[key] for key in run.asset_selection or groups if key in groups):
            for name in manifest.groups[group]:
                if partition is None or manifest.stages[name].key in (None, partition):
                    busy.add(name)
    return busy


def _workspace_state(root: Path, manifest: DvcManifest) -> str:
    """A cheap hash of what the sensor's findings rest on: the files that define stages, record them, and are made by them."""
    digest = hashlib.sha256()
    paths = [
        Path("dvc.lock"),
        CACHE_FILE,
        *(Path(out) for node in manifest.stages.values() for out in node.outs),
    ]
    for path in paths:
        try:
            state = (root / path).stat()
        except FileNotFoundError:
            digest.update(f"{path} absent\n".encode())
        else:
            digest.update(f"{path} {state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()
