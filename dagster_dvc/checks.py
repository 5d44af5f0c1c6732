"""Asset checks on what stages made, run after a stage in a Dagster run, or by hand.

A `StageCheck` says what it looks at and how; `build_stage_checks` makes Dagster's checks of them.
Every asset gets one more, `dvc_status`: what DVC itself says of its stages.

Dagster keeps one result of a check for all partitions of an asset. So each result here is of all
partitions: those that are looked at now, and what is known of the others.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import dagster as dg

from dagster_dvc.blueprint import Blueprint, CheckBook, CheckOutcome, StageCheck
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.lock import LockedStage, read_lock
from dagster_dvc.resource import DvcProject
from dagster_dvc.status import changed_paths, in_words, lock_status, stage_changes

DVC_STATUS = "dvc_status"
MAX_LISTED = 50
MAX_DESCRIBED = 3


def build_stage_checks(blueprint: Blueprint) -> list[dg.AssetChecksDefinition]:
    """All checks of each asset, and `dvc_status`: one step per asset and run.

    They want the resource "dvc". In the run of one partition, that partition is looked at; without
    one, every partition that was made.
    """
    return [_build_checks(blueprint, group) for group in blueprint.manifest.assets]


def evaluate_stage(
    checks: Collection[StageCheck], *, dvc: DvcProject, node: StageNode, book: CheckBook
) -> dict[str, CheckOutcome]:
    """What checks find of a stage, by their names; nothing where its outputs aren't all there.

    `dvc.verdicts()` stores what blocking checks find that are evaluated here, `book` the others.
    """
    if not all((dvc.root / out).exists() for out in node.outs):
        return {}
    outcomes: dict[str, CheckOutcome] = {}
    booked = {check.name for check in checks if check.evaluate is None}
    if booked:
        recorded = book.look(dvc.root, node)
        outcomes |= {name: outcome for name, outcome in recorded.items() if name in booked}
    evaluated = [check for check in checks if check.evaluate is not None]
    locked = read_lock(dvc.root, only={node.name}).get(node.name) if evaluated else None
    for check in evaluated:
        assert check.evaluate is not None
        outcome = outcomes[check.name] = check.evaluate(dvc.root, node)
        if check.blocking and locked is not None:
            problem = outcome.description if outcome.is_error else None
            dvc.verdicts().note(node, locked=locked, check=check.name, problem=problem)
    return outcomes


def failed_inputs(blueprint: Blueprint, node: StageNode, *, dvc: DvcProject) -> list[str]:
    """Return what holds a stage up: a line for each blocking check that failed on its inputs."""
    manifest = blueprint.manifest
    blocking = {check.name for check in blueprint.checks if check.blocking}
    lines = dvc.verdicts().failed_inputs(manifest, node, root=dvc.root, checks=blocking)
    for name in manifest.visible_upstream(node.name):
        checks = blueprint.checks_of(manifest.stages[name].group).values()
        booked = {check.name for check in checks if check.blocking and check.evaluate is None}
        if booked:
            lines += [
                f"check {check} of {name} failed: {outcome.description}"
                for check, outcome in blueprint.book.recall(dvc.root, manifest.stages[name]).items()
                if check in booked and outcome.is_error
            ]
    return lines


def known_outcomes(
    blueprint: Blueprint, node: StageNode, *, dvc: DvcProject, locked: LockedStage | None
) -> dict[str, CheckOutcome]:
    """What is known of a stage without looking at its data, by check.

    That is what the project keeps itself, and the failures that `dvc.verdicts()` stores.
    """
    checks = blueprint.checks_of(node.group)
    if not checks or not all((dvc.root / out).exists() for out in node.outs):
        return {}
    outcomes: dict[str, CheckOutcome] = {}
    if locked is not None:
        for check, problem in dvc.verdicts().failed(node.name, locked=locked).items():
            outcomes[check] = CheckOutcome(passed=False, description=problem)
    outcomes |= blueprint.book.recall(dvc.root, node)
    return {name: outcome for name, outcome in outcomes.items() if name in checks}


def group_outcomes(
    blueprint: Blueprint,
    group: str,
    *,
    dvc: DvcProject,
    lock: Mapping[str, LockedStage],
    fresh: Mapping[str, Mapping[str, CheckOutcome]],
) -> dict[str, CheckOutcome]:
    """What each check says of all stages of a group; a check of which nothing is known isn't there.

    Args:
        blueprint: the stages and their checks.
        group: the stages of one asset.
        dvc: the project.
        lock: what DVC recorded of them.
        fresh: what was just found, by stage and check.
    """
    stages = blueprint.manifest.stages
    names = blueprint.manifest.groups[group]
    by_stage = {
        name: fresh[name]
        if name in fresh
        else known_outcomes(blueprint, stages[name], dvc=dvc, locked=lock.get(name))
        for name in names
    }
    summaries = {}
    for check in blueprint.checks_of(group):
        outcomes = {n: by_check[check] for n, by_check in by_stage.items() if check in by_check}
        if outcomes:
            summaries[check] = summarize(outcomes, total=len(names), asked=fresh or names)
    return summaries


def summarize(
    outcomes: Mapping[str, CheckOutcome],
    *,
    total: int,
    asked: Collection[str],
    words: tuple[str, str] = ("pass", "fail"),
) -> CheckOutcome:
    """One outcome for what a check says of the stages of a group, by their names.

    Args:
        outcomes: of each stage of which anything is known.
        total: how many stages there are.
        asked: stages whose failures count as errors: those that a run is about. A run that made a
            sound partition doesn't fail because of another one, of which it warns.
        words: what partitions do that pass, and that fail.
    """
    if not outcomes:
        return CheckOutcome(passed=True, description="nothing was made yet")
    if total == 1:
        return next(iter(outcomes.values()))
    failed = {name: outcome for name, outcome in outcomes.items() if not outcome.passed}
    errors = [name for name, outcome in failed.items() if outcome.is_error and name in asked]
    order = sorted(outcomes, key=lambda name: (name not in errors, name not in failed))
    rows = [
        dg.TableRecord(
            {
                "partition": _key(name),
                "result": "passed" if outcomes[name].passed else "failed",
                "found": outcomes[name].description,
            }
        )
        for name in order
    ]
    metadata: dict[str, Any] = {"failed": len(failed), "partitions": dg.MetadataValue.table(rows)}
    unknown = total - len(outcomes)
    rest = f"; nothing is known of the other {unknown}" if unknown else ""
    if not failed:
        return CheckOutcome(
            True, f"{len(outcomes)} of {total} partitions {words[0]}{rest}", metadata
        )
    shown = [name for name in order if name in failed][:MAX_DESCRIBED]
    listed = "; ".join(f"{_key(name)}: {failed[name].description}" for name in shown)
    more = f"; and {len(failed) - len(shown)} more" if len(failed) > len(shown) else ""
    return CheckOutcome(
        passed=False,
        description=f"{len(failed)} of {total} partitions {words[1]}: {listed}{more}{rest}",
        metadata={**failed[shown[0]].metadata, **metadata},
        severity=dg.AssetCheckSeverity.ERROR if errors else dg.AssetCheckSeverity.WARN,
    )


def _key(name: str) -> str:
    return name.partition("@")[2] or name


def check_evaluation(
    key: dg.AssetKey, check: str, outcome: CheckOutcome
) -> dg.AssetCheckEvaluation:
    """The event that tells Dagster what a check says of an asset."""
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=check,
        passed=outcome.passed,
        metadata=outcome.metadata,
        severity=outcome.severity,
        description=outcome.description,
    )


def group_status(
    manifest: DvcManifest,
    group: str,
    *,
    changed: Mapping[str, Sequence[Any]],
    lock: Mapping[str, LockedStage],
    asked: Collection[str] | None = None,
) -> CheckOutcome:
    """What DVC says of all stages of a group, which `lock` has; `summarize` explains `asked`."""
    names = manifest.groups[group]
    outcomes = {
        name: dvc_status_outcome(manifest, name, changed=changed, has_run=name in lock)
        for name in names
    }
    asked = names if asked is None else asked
    words = ("are up to date", "are changed")
    return summarize(outcomes, total=len(names), asked=asked, words=words)


def dvc_status_outcome(
    manifest: DvcManifest, name: str, *, changed: Mapping[str, Sequence[Any]], has_run: bool
) -> CheckOutcome:
    """DVC's verdict on one stage, from `stage_changes`; it blocks nothing.

    Outputs that are missing or aren't what DVC recorded are an error, everything else a warning.
    """
    advice = f"(materialise it, or run: dvc repro {name})"
    if not has_run:
        return CheckOutcome(
            passed=False,
            description=f"it was never run {advice}",
            severity=dg.AssetCheckSeverity.WARN,
        )
    behind = sorted(changed.keys() & (manifest.select([name]) - {name}))
    metadata: dict[str, Any] = {}
    if behind:
        metadata["changed_upstream"] = dg.MetadataValue.json(behind[:MAX_LISTED])
    if name not in changed:
        description = (
            "up to date"
            if not behind
            else f"up to date with its inputs, but {', '.join(behind[:3])} changed upstream"
        )
        return CheckOutcome(passed=True, description=description, metadata=metadata)
    metadata["reasons"] = dg.MetadataValue.json(list(changed[name]))
    outs = changed_paths(changed[name], kind="changed outs")
    return CheckOutcome(
        passed=False,
        description=f"{in_words(changed[name])} {advice}",
        metadata=metadata,
        severity=dg.AssetCheckSeverity.ERROR if outs else dg.AssetCheckSeverity.WARN,
    )


def _build_checks(blueprint: Blueprint, group: str) -> dg.AssetChecksDefinition:
    key, checks = blueprint.key(group), blueprint.checks_of(group).values()
    specs = [
        dg.AssetCheckSpec(c.name, asset=key, description=c.description, blocking=c.blocking)
        for c in checks
    ]
    described = "Its outputs are there, and DVC calls nothing changed that it is made from"
    specs.append(dg.AssetCheckSpec(DVC_STATUS, asset=key, description=described))
    stages = blueprint.manifest.stages
    nodes = {stages[name].key: stages[name] for name in blueprint.manifest.groups[group]}

    @dg.multi_asset_check(name=f"{key.to_python_identifier()}_checks", specs=specs, can_subset=True)
    def check_stages(
        context: dg.AssetCheckExecutionContext, dvc: dg.ResourceParam[DvcProject]
    ) -> Iterable[dg.AssetCheckResult]:
        run = context.op_execution_context
        selected = {check_key.name for check_key in context.selected_asset_check_keys}
        wanted = [nodes[run.partition_key]] if run.has_partition_key else list(nodes.values())
        chosen = [check for check in checks if check.name in selected]
        fresh = {
            node.name: evaluate_stage(chosen, dvc=dvc, node=node, book=blueprint.book)
            for node in wanted
        }
        lock = read_lock(dvc.root, only=blueprint.manifest.groups[group])
        outcomes = group_outcomes(blueprint, group, dvc=dvc, lock=lock, fresh=fresh)
        outcomes = {
            check.name: outcomes.get(check.name) or summarize({}, total=len(nodes), asked=())
            for check in chosen
        }
        if DVC_STATUS in selected:
            made_here = key in (run.run.asset_selection or ())
            asked = [node.name for node in wanted]
            outcomes[DVC_STATUS] = _look_at_status(group, asked, dvc=dvc, made_here=made_here)
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


def _look_at_status(
    group: str, asked: Collection[str], *, dvc: DvcProject, made_here: bool
) -> CheckOutcome:
    current = dvc.manifest()
    # After a run that made the asset, hashing all data of the project would cost more than it
    # tells.
    names = current.groups[group]
    read = {parent for name in names for parent in current.stages[name].upstream}
    lock = read_lock(dvc.root, only={*names, *read})
    if made_here:
        changed = lock_status(current, lock, root=dvc.root, only=names)
    else:
        changed = stage_changes(current, root=dvc.root)
    return group_status(current, group, changed=changed, lock=lock, asked=asked)
