"""Asset checks on what stages made, run after a stage in a Dagster run, or by hand.

A `StageCheck` says what it looks at and how; `build_stage_checks` makes Dagster's checks of them.
Every asset gets one more, `dvc_status`: what DVC itself says of its stages.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_dvc.blueprint import Blueprint, CheckOutcome, StageCheck
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.lock import read_lock
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import lock_status, stage_changes

DVC_STATUS = "dvc_status"
MAX_LISTED = 50


def build_stage_checks(blueprint: Blueprint) -> list[dg.AssetChecksDefinition]:
    """All checks of each asset, and `dvc_status`: one step per asset and run.

    They want the resource "dvc". In the run of one partition, that partition is looked at; without
    one, every partition that was made.
    """
    return [_build_checks(blueprint, group) for group in blueprint.manifest.assets]


def evaluate_stage(
    checks: Iterable[StageCheck], *, dvc: DvcProject, node: StageNode
) -> dict[str, CheckOutcome]:
    """What checks find of a stage, by their names; nothing where its outputs aren't all there.

    `dvc.verdicts()` stores what blocking checks find.
    """
    if not all((dvc.root / out).exists() for out in node.outs):
        return {}
    outcomes = {}
    locked = read_lock(dvc.root, only={node.name}).get(node.name)
    for check in checks:
        outcome = outcomes[check.name] = check.evaluate(dvc.root, node)
        if check.blocking and locked is not None:
            problem = outcome.description if outcome.is_error else None
            dvc.verdicts().note(node, locked=locked, check=check.name, problem=problem)
    return outcomes


def summarize(outcomes: Mapping[str, CheckOutcome]) -> CheckOutcome:
    """One outcome for what a check found of several stages, by their names.

    It is the first failure (errors before warnings), with what each stage got.
    """
    if not outcomes:
        return CheckOutcome(passed=True, description="nothing was made yet")
    if len(outcomes) == 1:
        return next(iter(outcomes.values()))
    failed = {name: outcome for name, outcome in outcomes.items() if not outcome.passed}
    errors = {name: outcome for name, outcome in failed.items() if outcome.is_error}
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


def dvc_status_outcome(
    manifest: DvcManifest, group: str, *, changed: Mapping[str, Sequence[Any]]
) -> CheckOutcome:
    """DVC's verdict on one asset, from `stage_changes`; a warning that blocks nothing."""
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
    first = list(stale)[:3]
    shown = ", ".join(first) + (", ..." if len(stale) > 3 else "")
    description = (
        f"{len(stale)} of {len(names)} stages changed: {shown} "
        f"(materialise them, or run: dvc repro {' '.join(first)})"
    )
    return CheckOutcome(
        passed=False,
        description=description,
        metadata=metadata,
        severity=dg.AssetCheckSeverity.WARN,
    )


def _build_checks(blueprint: Blueprint, group: str) -> dg.AssetChecksDefinition:
    key, checks = blueprint.key(group), blueprint.checks_of(group).values()
    specs = [
        dg.AssetCheckSpec(c.name, asset=key, description=c.description, blocking=c.blocking)
        for c in checks
    ]
    status = dg.AssetCheckSpec(
        DVC_STATUS, asset=key, description="DVC calls none of its stages changed (dvc status)"
    )
    stages = blueprint.manifest.stages
    nodes = {stages[name].key: stages[name] for name in blueprint.manifest.groups[group]}

    @dg.multi_asset_check(
        name=f"{key.to_python_identifier()}_checks", specs=[*specs, status], can_subset=True
    )
    def check_stages(
        context: dg.AssetCheckExecutionContext, dvc: dg.ResourceParam[DvcProject]
    ) -> Iterable[dg.AssetCheckResult]:
        run = context.op_execution_context
        selected = {check_key.name for check_key in context.selected_asset_check_keys}
        wanted = [nodes[run.partition_key]] if run.has_partition_key else list(nodes.values())
        chosen = [check for check in checks if check.name in selected]
        found = {node.name: evaluate_stage(chosen, dvc=dvc, node=node) for node in wanted}
        outcomes = {
            check.name: summarize({n: by[check.name] for n, by in found.items() if by})
            for check in chosen
        }
        if DVC_STATUS in selected:
            made_here = key in (run.run.asset_selection or ())
            outcomes[DVC_STATUS] = _look_at_status(group, dvc=dvc, made_here=made_here)
        for name, outcome in outcomes.items():
            yield dg.AssetCheckResult(
                passed=outcome.passed,
                check_name=name,
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
        lock = read_lock(dvc.root, only=own | read)
        changed = lock_status(current, lock, root=dvc.root, only=own)
    else:
        changed = stage_changes(current, root=dvc.root)
    return dvc_status_outcome(current, group, changed=changed)
