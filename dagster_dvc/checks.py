"""Asset checks on what stages made, run after a stage in a Dagster run, or by hand.

A `StageCheck` says what it looks at and how; `build_stage_checks` makes Dagster's checks of them.
Every asset gets one more, `dvc_status`: what DVC itself says of its stages.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import (
    AssetCheckEvaluationTargetMaterializationData,
)

from dagster_dvc.errors import DvcBusyError
from dagster_dvc.lock import LockedStage, read_lock
from dagster_dvc.manifest import DvcManifest, StageNode, changed_stages
from dagster_dvc.provenance import definition_changes
from dagster_dvc.resource import DvcProject
from dagster_dvc.translator import DvcTranslator

DVC_STATUS = "dvc_status"
MAX_LISTED = 50


@dataclass(frozen=True)
class CheckOutcome:
    """What a check found.

    Attributes:
        passed: nothing is wrong.
        description: one sentence for people.
        metadata: numbers, and where it failed an example.
        severity: of a failure; only an error holds up what is downstream of a blocking check.
    """

    passed: bool
    description: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class StageCheck:
    """A check of single stages.

    Attributes:
        name: unique among the checks of an asset.
        description: what has to hold.
        blocking: whether a failure holds up what is downstream.
        applies: whether a group of stages has this check.
        evaluate: looks at what one stage made; gets the project folder and the stage.
    """

    name: str
    description: str
    blocking: bool
    applies: Callable[[str], bool]
    evaluate: Callable[[Path, StageNode], CheckOutcome]


def build_stage_checks(
    manifest: DvcManifest, checks: Sequence[StageCheck], *, translator: DvcTranslator | None = None
) -> list[dg.AssetChecksDefinition]:
    """All checks of each asset, and `dvc_status`: one step per asset and run. They want the resource "dvc".

    In the run of one partition, that partition is looked at; without one, every partition that was
    made. What is found of each is in the event log beside the result for the asset, for `gate` to
    read.
    """
    translator = translator or DvcTranslator()
    definitions = []
    for group in manifest.groups:
        applying = [check for check in checks if check.applies(group)]
        definitions.append(_build_checks(manifest, group, checks=applying, translator=translator))
    return definitions


def check_evaluation(
    instance: dg.DagsterInstance,
    asset: dg.AssetKey,
    *,
    check: StageCheck,
    node: StageNode,
    outcome: CheckOutcome,
    blocking: bool | None = None,
) -> dg.AssetCheckEvaluation:
    """The event that says what a check found of one stage, as a finding on the stage's last materialization.

    Where `blocking` is true and the finding an error, the step that yields it fails at its end.
    """
    wanted = dg.AssetRecordsFilter(
        asset_key=asset, asset_partitions=[node.key] if node.key is not None else None
    )
    records = instance.fetch_materializations(wanted, limit=1).records
    target = None
    if records:
        last = records[0]
        target = AssetCheckEvaluationTargetMaterializationData(
            storage_id=last.storage_id, run_id=last.run_id, timestamp=last.timestamp
        )
    return dg.AssetCheckEvaluation(
        asset_key=asset,
        check_name=check.name,
        passed=outcome.passed,
        metadata=outcome.metadata,
        target_materialization_data=target,
        severity=outcome.severity,
        description=outcome.description,
        blocking=blocking,
        partition=node.key,
    )


def evaluate_stages(check: StageCheck, *, root: Path, nodes: Iterable[StageNode]) -> CheckOutcome:
    """One outcome for several stages: the first failure (errors before warnings), with what each stage got."""
    return summarize(
        {node.name: check.evaluate(root, node) for node in nodes if is_made(root, node)}
    )


def is_made(root: Path, node: StageNode) -> bool:
    """Whether all outputs of a stage are there."""
    return all((root / out).exists() for out in node.outs)


def summarize(outcomes: Mapping[str, CheckOutcome]) -> CheckOutcome:
    """One outcome for what a check found of several stages, by their names."""
    if not outcomes:
        return CheckOutcome(passed=True, description="nothing was made yet")
    failed = {name: outcome for name, outcome in outcomes.items() if not outcome.passed}
    if len(outcomes) == 1:
        return next(iter(outcomes.values()))
    errors = {
        name: outcome
        for name, outcome in failed.items()
        if outcome.severity == dg.AssetCheckSeverity.ERROR
    }
    rows = [
        dg.TableRecord({"stage": name, "passed": outcome.passed, "found": outcome.description})
        for name, outcome in outcomes.items()
    ]
    metadata: dict[str, Any] = {"failed": len(failed), "stages": dg.MetadataValue.table(rows)}
    if not failed:
        return CheckOutcome(
            passed=True, description=f"all {len(outcomes)} stages pass", metadata=metadata
        )
    name, first = next(iter((errors or failed).items()))
    description = f"{len(failed)} of {len(outcomes)} stages fail; {name}: {first.description}"
    return CheckOutcome(
        passed=False,
        description=description,
        metadata={**first.metadata, **metadata},
        severity=first.severity,
    )


def stage_changes(manifest: DvcManifest, *, root: Path) -> dict[str, list[Any]]:
    """What `dvc status` says of changed stages; while a stage is running, which keeps DVC from answering, `lock_status`."""
    try:
        return changed_stages(root)
    except DvcBusyError:
        return lock_status(manifest, read_lock(root), root=root)


def lock_status(
    manifest: DvcManifest,
    lock: Mapping[str, LockedStage],
    *,
    root: Path,
    only: Collection[str] | None = None,
) -> dict[str, list[Any]]:
    """What dvc.lock alone says of changed stages, in the words of `changed_stages`: reads no data, and never has to wait.

    Looks at the stages in `only`, or at all. Misses what only a look at the data shows: outputs
    that were altered by hand, and whether a folder of several stages' outputs has changed since it
    was read.
    """
    changed: dict[str, list[Any]] = {}
    outs = {path: out.md5 for stage in lock.values() for path, out in stage.outs.items()}
    for name, node in manifest.stages.items():
        if only is not None and name not in only:
            continue
        if name not in lock:
            changed[name] = [{"changed outs": dict.fromkeys(node.outs, "never made")}]
            continue
        reasons = definition_changes(manifest, node, locked=lock[name])
        inputs = {
            path: "modified" for path, md5 in lock[name].deps.items() if outs.get(path, md5) != md5
        }
        missing = {path: "deleted" for path in node.outs if not (root / path).exists()}
        reasons += [
            {kind: paths}
            for kind, paths in (("changed deps", inputs), ("changed outs", missing))
            if paths
        ]
        if reasons:
            changed[name] = reasons
    return changed


def dvc_status_outcome(
    manifest: DvcManifest, group: str, *, changed: Mapping[str, Sequence[Any]]
) -> CheckOutcome:
    """DVC's verdict on one asset, from `changed_stages` or `lock_status`; a warning that blocks nothing."""
    names = manifest.groups[group]
    stale = {name: list(changed[name]) for name in names if name in changed}
    upstream = manifest.select(names) - set(names)
    behind = sorted(name for name in changed if name in upstream)
    metadata: dict[str, Any] = {"stages": len(names), "changed": len(stale)}
    if stale:
        metadata["reasons"] = dg.MetadataValue.json(dict(list(stale.items())[:MAX_LISTED]))
    if behind:
        metadata["changed_upstream"] = dg.MetadataValue.json(behind[:MAX_LISTED])
    if not stale:
        description = (
            "up to date"
            if not behind
            else f"up to date with its inputs, but {', '.join(behind[:3])} changed upstream"
        )
        return CheckOutcome(passed=True, description=description, metadata=metadata)
    shown = ", ".join(list(stale)[:3]) + (", ..." if len(stale) > 3 else "")
    description = f"{len(stale)} of {len(names)} stages changed: {shown} (materialise them, or run: dvc repro {shown})"
    return CheckOutcome(
        passed=False,
        description=description,
        metadata=metadata,
        severity=dg.AssetCheckSeverity.WARN,
    )


def _build_checks(
    manifest: DvcManifest, group: str, *, checks: Sequence[StageCheck], translator: DvcTranslator
) -> dg.AssetChecksDefinition:
    key = translator.get_asset_key(manifest, group)
    by_name = {check.name: check for check in checks}
    specs = [
        dg.AssetCheckSpec(c.name, asset=key, description=c.description, blocking=c.blocking)
        for c in checks
    ]
    specs.append(
        dg.AssetCheckSpec(
            DVC_STATUS, asset=key, description="DVC calls none of its stages changed (dvc status)"
        )
    )
    nodes = {manifest.stages[name].key: manifest.stages[name] for name in manifest.groups[group]}

    @dg.multi_asset_check(name=f"{key.to_python_identifier()}_checks", specs=specs, can_subset=True)
    def check_stages(
        context: dg.AssetCheckExecutionContext, dvc: dg.ResourceParam[DvcProject]
    ) -> Iterable[dg.AssetCheckResult | dg.AssetCheckEvaluation]:
        run = context.op_execution_context
        wanted = [nodes[run.partition_key]] if run.has_partition_key else list(nodes.values())
        made_here = key in (run.run.asset_selection or ())
        for spec in specs:
            if spec.key not in context.selected_asset_check_keys:
                continue
            if spec.name == DVC_STATUS:
                outcome = _look_at_status(group, dvc=dvc, made_here=made_here)
            else:
                check = by_name[spec.name]
                outcomes = {
                    node.name: check.evaluate(dvc.root, node)
                    for node in wanted
                    if is_made(dvc.root, node)
                }
                outcome = summarize(outcomes)
                # Dagster keeps one result of a check for all of an asset: a sound partition must
                # not speak for a broken one.
                for node in (
                    node for node in wanted if node.key is not None and node.name in outcomes
                ):
                    yield check_evaluation(
                        run.instance, key, check=check, node=node, outcome=outcomes[node.name]
                    )
            yield dg.AssetCheckResult(
                passed=outcome.passed,
                check_name=spec.name,
                asset_key=key,
                severity=outcome.severity,
                description=outcome.description,
                metadata=outcome.metadata,
            )

    return check_stages


def _look_at_status(group: str, *, dvc: DvcProject, made_here: bool) -> CheckOutcome:
    current = dvc.manifest()
    # After a run that made the asset, hashing all data of the project would cost more than it
    # tells.
    if made_here:
        own = set(current.groups[group])
        read = {parent for name in own for parent in current.stages[name].upstream}
        changed = lock_status(
            current, read_lock(dvc.root, only=own | read), root=dvc.root, only=own
        )
    else:
        changed = stage_changes(current, root=dvc.root)
    return dvc_status_outcome(current, group, changed=changed)
