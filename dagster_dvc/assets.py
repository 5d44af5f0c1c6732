"""Assets from a manifest: one per entry of dvc.yaml, which DVC materialises stage by stage."""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_dvc.blueprint import Blueprint
from dagster_dvc.checks import failed_inputs
from dagster_dvc.durations import note_durations
from dagster_dvc.errors import ParamsError
from dagster_dvc.events import (
    StageReader,
    cancelled,
    may_pass_next_time,
    stage_failure,
    stage_metadata,
)
from dagster_dvc.experiment import experiment_outputs, run_experiment
from dagster_dvc.follow import StageLog, follow
from dagster_dvc.graph import StageNode
from dagster_dvc.lock import read_lock
from dagster_dvc.resource import DvcProject
from dagster_dvc.result import StageResult
from dagster_dvc.runner import Runner, single_stage
from dagster_dvc.versions import RECORD_TAG, data_version


class StageConfig(dg.Config):
    """What a run may set when it is launched."""

    params: dict[str, Any] = Field(
        default={},
        description=(
            "Parameters to use instead of those in params.yaml, e.g. "
            "{masksyn.samples_per_source: 4}; only ones that it has. The run is recorded as a DVC "
            "experiment and leaves the workspace as it is."
        ),
    )
    """Parameters to run with instead of those of params.yaml. The run then is a DVC experiment: it
    leaves the workspace alone, and is an observation of the asset and not its state."""


def build_dvc_assets(blueprint: Blueprint) -> list[dg.AssetsDefinition]:
    """One asset per group of stages; they want a `DvcProject` as the resource "dvc".

    A stage isn't run while a blocking check has failed on what it reads.
    """
    return [_build_asset(blueprint, group) for group in blueprint.manifest.assets]


def _build_asset(blueprint: Blueprint, group: str) -> dg.AssetsDefinition:
    manifest, translator = blueprint.manifest, blueprint.translator
    # Skippable: a run as an experiment says nothing about the asset's own state.
    spec = translator.get_asset_spec(manifest, group).replace_attributes(skippable=True)
    stages = {manifest.stages[name].key: manifest.stages[name] for name in manifest.groups[group]}

    @dg.multi_asset(
        name=spec.key.to_python_identifier(),
        specs=[spec],
        backfill_policy=translator.get_backfill_policy(manifest, group),
        pool=translator.get_pool(manifest, group),
    )
    def run_stage(
        context: dg.AssetExecutionContext, config: StageConfig, dvc: dg.ResourceParam[DvcProject]
    ) -> Iterator[dg.MaterializeResult | dg.AssetObservation]:
        key = context.partition_key if context.has_partition_key else None
        if key not in stages:
            what = "a range of partitions" if context.has_partition_key_range else "no partition"
            raise dg.Failure(
                f"this run has {what}; {group} wants runs of one partition each",
                allow_retries=False,
            )
        node = stages[key]
        if failed := failed_inputs(blueprint, node, dvc=dvc):
            advice = "mend the data, then materialise it again or run its checks"
            raise dg.Failure(
                f"{node.name} isn't run: {'; '.join(failed)} ({advice})", allow_retries=False
            )
        try:
            if config.params:
                yield _observe_experiment(
                    context, node, dvc=dvc, reader=blueprint.reader, params=config.params
                )
                return
            result = _run(context, node, dvc=dvc, reader=blueprint.reader)
        except dg.DagsterExecutionInterruptedError:
            raise cancelled(node.name) from None
        if not result.ok:
            policy = translator.get_retry_policy(manifest, group)
            raise _failure(result, policy=policy, attempt=context.retry_number + 1)
        locked = read_lock(dvc.root, only={node.name})[node.name]
        yield dg.MaterializeResult(
            asset_key=spec.key,
            metadata=stage_metadata(
                dvc.root, node, locked=locked, reader=blueprint.reader, result=result
            ),
            data_version=dg.DataVersion(data_version(locked)),
            tags={RECORD_TAG: locked.digest},
        )

    return run_stage


def _run(
    context: dg.AssetExecutionContext, node: StageNode, *, dvc: DvcProject, reader: StageReader
) -> StageResult:
    """Run a stage, first the hidden ones that it reads from; return its result, or a failed one."""
    runner = Runner(dvc.root, env=dvc.environment(context.run.run_id), say=context.log.info)
    log = StageLog(context.log)
    schedule = single_stage(dvc.root, node.name)
    for _ in follow(runner, schedule, log=log, reader=reader):
        pass
    note_durations(dvc.state, schedule.results.values())
    failed = [result for result in schedule.results.values() if not result.ok]
    return failed[0] if failed else schedule.results[node.name]


def _failure(result: StageResult, *, policy: dg.RetryPolicy | None, attempt: int) -> Exception:
    """What to raise for a failed stage: a request for another try where that may end well.

    The policy isn't the op's own: Dagster would follow that when a run is cancelled, too.

    Args:
        result: how the stage ended.
        policy: how often and when to try again; None for never.
        attempt: 1 for the first try.
    """
    if policy is None or not may_pass_next_time(result):
        return stage_failure(result, advice="not tried again: it would end the same way")
    if attempt > policy.max_retries:
        return stage_failure(result, advice=f"given up after {attempt} tries")
    request = dg.RetryRequested(policy.max_retries, policy.calculate_delay(attempt))
    request.__cause__ = stage_failure(
        result, advice=f"this was try {attempt} of {policy.max_retries + 1}"
    )
    return request


def _observe_experiment(
    context: dg.AssetExecutionContext,
    node: StageNode,
    *,
    dvc: DvcProject,
    reader: StageReader,
    params: dict[str, Any],
) -> dg.AssetObservation:
    """Run `node` with the parameters of the launchpad; returns what came out of it."""
    run_id, log = context.run.run_id, StageLog(context.log)
    try:
        result, experiment = run_experiment(
            dvc, node, params=params, run_id=run_id, on_line=lambda line: log.take(node.name, line)
        )
    except ParamsError as error:
        raise dg.Failure(
            f"the launch option params is refused: {error}", allow_retries=False
        ) from error
    if experiment is None:
        raise stage_failure(result)
    context.instance.add_run_tags(run_id, {"dvc/experiment": experiment.name})
    with experiment_outputs(dvc, node, experiment=experiment) as folder:
        metadata = stage_metadata(
            folder, node, locked=experiment.locked, reader=reader, result=result
        )
    metadata |= {
        "dvc/outcome": "run as an experiment: params.yaml, dvc.lock and the workspace are as they "
        "were",
        "dvc/experiment": experiment.name,
        "dvc/experiment_params": dg.MetadataValue.json(params),
        "dvc/adopt": dg.MetadataValue.md(f"`dvc exp apply {experiment.name}`"),
    }
    context.log.info(f"recorded as DVC experiment {experiment.name}; the asset itself is unchanged")
    return dg.AssetObservation(
        asset_key=context.asset_key,
        partition=node.key,
        metadata=metadata,
        tags={"dvc/data_version": data_version(experiment.locked)},
    )
