"""Whether blocking checks of what a stage reads have failed, in whatever run that was.

Dagster itself stops what is downstream of a failed blocking check within one run. A backfill goes
on: for it a partition is made once it is materialized, whatever came of its checks. Automation goes
on once another partition has passed, since a check has one state for all of an asset. So an asset
looks here before it runs, at what was found of each partition.
"""

from collections.abc import Sequence

import dagster as dg
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.storage.asset_check_execution_record import (
    AssetCheckExecutionRecordStatus,
    AssetCheckPartitionInfo,
)

from dagster_dvc.checks import StageCheck
from dagster_dvc.manifest import DvcManifest, StageNode
from dagster_dvc.translator import DvcTranslator

EVALUATED = {AssetCheckExecutionRecordStatus.SUCCEEDED, AssetCheckExecutionRecordStatus.FAILED}


def failed_inputs(
    instance: dg.DagsterInstance,
    manifest: DvcManifest,
    node: StageNode,
    *,
    checks: Sequence[StageCheck],
    translator: DvcTranslator,
) -> list[str]:
    """What holds a stage up: one line for each blocking check that has failed, as an error, on something it reads.

    Only the last evaluation of a check counts, and only while it is of the last materialization:
    nothing bad is known of data that was made anew since.
    """
    read: dict[str, dict[str | None, str]] = {}
    for name in node.upstream:
        parent = manifest.stages[name]
        read.setdefault(parent.group, {})[parent.key] = name
    found = []
    for group, names in read.items():
        asset = translator.get_asset_key(manifest, group)
        keys = [
            dg.AssetCheckKey(asset, check.name)
            for check in checks
            if check.blocking and check.applies(group)
        ]
        for info in instance.event_log_storage.get_asset_check_partition_info(keys) if keys else ():
            # Only those that haven't passed are read one by one: an asset may have hundreds of
            # partitions.
            if (
                info.partition_key in names
                and info.latest_execution_status != AssetCheckExecutionRecordStatus.SUCCEEDED
            ):
                evaluation = _last_evaluation(instance, info)
                if (
                    evaluation is not None
                    and not evaluation.passed
                    and evaluation.severity == dg.AssetCheckSeverity.ERROR
                ):
                    found.append(
                        f"check {info.check_key.name} of {names[info.partition_key]} failed: {evaluation.description}"
                    )
    return found


def _last_evaluation(
    instance: dg.DagsterInstance, info: AssetCheckPartitionInfo
) -> dg.AssetCheckEvaluation | None:
    """What a check found last of the materialization that there is now; a run that was to evaluate it again may have failed."""
    where = PartitionKeyFilter(key=info.partition_key)
    records = instance.event_log_storage.get_asset_check_execution_history(
        info.check_key, 1, None, EVALUATED, where
    )
    evaluation = records[0].evaluation if records else None
    if evaluation is None or info.latest_materialization_storage_id is None:
        return evaluation
    target = evaluation.target_materialization_data
    return (
        evaluation
        if target is not None and target.storage_id == info.latest_materialization_storage_id
        else None
    )
