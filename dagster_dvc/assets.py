"""Assets from a manifest: one per entry of dvc.yaml, materialised by running its stages through DVC."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_dvc.checks import StageCheck
from dagster_dvc.errors import ParamsError
from dagster_dvc.events import StageReader, stage_failure, stage_metadata, stage_tags
from dagster_dvc.experiment import experiment_outputs, run_experiment
from dagster_dvc.gate import failed_inputs
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import DvcManifest, StageNode
from dagster_dvc.provenance import data_version
from dagster_dvc.resource import DvcProject
from dagster_dvc.translator import DvcTranslator

MAX_LOGGED_LINES = 300
"""Lines of a stage that become events of the run; all of them are in its stdout."""


class StageConfig(dg.Config):
    """What a run may set when it is launched.

    Attributes:
        params: parameters to run with instead of those of params.yaml. The run then is a DVC
            experiment: it leaves the workspace alone and is recorded as an observation of the
            asset, not as its state.
    """

    params: dict[str, Any] = Field(
        default={},
        description=(
            "Parameters to use instead of those in params.yaml, e.g. {masksyn.samples_per_source: 4}; only ones that it has. "
            "The run is recorded as a DVC experiment and leaves the workspace as it is."
        ),
    )


def build_dvc_assets(
    manifest: DvcManifest,
    *,
    checks: Sequence[StageCheck] = (),
    translator: DvcTranslator | None = None,
    reader: StageReader | None = None,
) -> list[dg.AssetsDefinition]:
    """One asset per group of stages; they want a `DvcProject` as the resource "dvc".

    Args:
        manifest: the project's stages.
        checks: as for `build_stage_checks`; a stage isn't run while a blocking one has failed on
            what it reads.
        translator: derives the properties of assets.
        reader: reads metadata and progress from the files of stages.
    """
    translator, reader = translator or DvcTranslator(), reader or StageReader()
    return [
        _build_asset(manifest, group, checks=checks, translator=translator, reader=reader)
        for group in manifest.groups
    ]


def line_logger(log: dg.DagsterLogManager, *, prefix: str = "") -> Callable[[str], None]:
    """What takes the lines of a stage: all go to stdout, the first `MAX_LOGGED_LINES` to the run's log too."""
    count = 0

    def take(line: str) -> None:
        nonlocal count
        print(prefix + line, flush=True)
        if line.strip() and count <= MAX_LOGGED_LINES:
            count += 1
            log.info(
                prefix + line
                if count <= MAX_LOGGED_LINES
                else f"{prefix}... further lines are in stdout"
            )

    return take


def progress_logger(
    log: dg.DagsterLogManager, report: Callable[[], str | None]
) -> Callable[[], None]:
    """What is called while a stage says nothing: logs what `report` returns whenever that has changed."""
    last: str | None = None

    def wait() -> None:
        nonlocal last
        current = report()
        if current is not None and current != last:
            log.info(current)
            last = current

    return wait


def _build_asset(
    manifest: DvcManifest,
    group: str,
    *,
    checks: Sequence[StageCheck],
    translator: DvcTranslator,
    reader: StageReader,
) -> dg.AssetsDefinition:
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
        if failed := failed_inputs(
            context.instance, manifest, node, checks=checks, translator=translator
        ):
            advice = "put right what is found, then materialise it again or run its checks"
            raise dg.Failure(
                f"{node.name} isn't run: {'; '.join(failed)} ({advice})", allow_retries=False
            )
        if config.params:
            yield _observe_experiment(
                context, node, config=config, dvc=dvc, reader=reader, key=spec.key
            )
            return
        result = dvc.run(
            node.name,
            run_id=context.run.run_id,
            on_line=line_logger(context.log),
            on_wait=progress_logger(context.log, lambda: reader.progress(dvc.root, node)),
        )
        if not result.ok:
            raise stage_failure(result)
        locked = read_lock(dvc.root, only={node.name})[node.name]
        yield dg.MaterializeResult(
            asset_key=spec.key,
            metadata=stage_metadata(dvc.root, node, locked=locked, reader=reader, result=result),
            data_version=dg.DataVersion(data_version(locked)),
            tags=stage_tags(locked),
        )

    return run_stage


def _observe_experiment(
    context: dg.AssetExecutionContext,
    node: StageNode,
    *,
    config: StageConfig,
    dvc: DvcProject,
    reader: StageReader,
    key: dg.AssetKey,
) -> dg.AssetObservation:
    """Run `node` with the parameters of the launchpad; returns what came out of it."""
    try:
        result, experiment = run_experiment(
            dvc,
            node,
            params=config.params,
            run_id=context.run.run_id,
            on_line=line_logger(context.log),
        )
    except ParamsError as error:
        raise dg.Failure(
            f"the launch option params is refused: {error}", allow_retries=False
        ) from error
    if experiment is None:
        raise stage_failure(result)
    context.instance.add_run_tags(context.run.run_id, {"dvc/experiment": experiment.name})
    with experiment_outputs(dvc, node, experiment=experiment, run_id=context.run.run_id) as folder:
        metadata = stage_metadata(
            folder, node, locked=experiment.locked, reader=reader, result=result
        )
    metadata |= {
        "dvc/outcome": "run as an experiment: params.yaml, dvc.lock and the workspace are as they were",
        "dvc/experiment": experiment.name,
        "dvc/experiment_params": dg.MetadataValue.json(config.params),
        "dvc/adopt": dg.MetadataValue.md(f"`dvc exp apply {experiment.name}`"),
    }
    context.log.info(f"recorded as DVC experiment {experiment.name}; the asset itself is unchanged")
    return dg.AssetObservation(
        asset_key=key,
        partition=node.key,
        metadata=metadata,
        tags={"dvc/data_version": data_version(experiment.locked)},
    )
