"""Jobs that bring a whole part of the pipeline up to date in one run, several stages at a time.

Dagster's own asset jobs run assets of one set of partitions; a pipeline has several (classes,
ablation arms). Such a job is one op that runs stages as `Schedule` orders them and tells Dagster of
each as it ends. Starting a process and loading definitions is paid once instead of once a
partition.
"""

import queue
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence

import dagster as dg
from pydantic import Field

from dagster_dvc.assets import line_logger, progress_logger
from dagster_dvc.bridge import ProvenanceBridge
from dagster_dvc.checks import StageCheck, check_evaluation, evaluate_stages, stage_changes
from dagster_dvc.events import StageReader, stage_failure, stage_metadata
from dagster_dvc.execution import StageResult, StageRun
from dagster_dvc.lock import read_lock
from dagster_dvc.manifest import DvcManifest, StageNode
from dagster_dvc.resource import DvcProject, follow
from dagster_dvc.schedule import Schedule
from dagster_dvc.sensor import PIPELINE_TAG
from dagster_dvc.translator import DvcTranslator


class PipelineConfig(dg.Config):
    """How a pipeline job runs.

    Attributes:
        jobs: stages at a time; those of one pool are limited by the pool as well.
    """

    jobs: int = Field(
        default=2,
        ge=1,
        description="Stages at a time; stages of one pool are limited by the pool as well.",
    )


def build_dvc_job(
    name: str,
    *,
    targets: Sequence[str] = (),
    description: str,
    checks: Sequence[StageCheck] = (),
    translator: DvcTranslator | None = None,
    reader: StageReader | None = None,
    tags: dict[str, str] | None = None,
) -> dg.JobDefinition:
    """A job that brings `targets` and everything upstream of them up to date; it wants the resource "dvc".

    Blocking checks are evaluated as each stage ends; what is downstream of one that fails isn't
    run, and the run fails.

    Args:
        name: of the job.
        targets: stages and groups; all stages for none.
        description: for people.
        checks: as for `build_stage_checks`.
        translator: gives asset keys and pools.
        reader: reads metadata of stages.
        tags: of its runs.
    """
    translator, reader = translator or DvcTranslator(), reader or StageReader()

    @dg.op(name=f"{name}_stages", out=dg.Out(dg.Nothing), description=description)
    def run_stages(
        context: dg.OpExecutionContext, config: PipelineConfig, dvc: dg.ResourceParam[DvcProject]
    ) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        pipeline = Pipeline(
            context, dvc=dvc, targets=targets, checks=checks, translator=translator, reader=reader
        )
        yield from pipeline.run(jobs=config.jobs)

    @dg.job(
        name=name,
        description=description,
        tags={**(tags or {}), PIPELINE_TAG: name},
        executor_def=dg.in_process_executor,
    )
    def pipeline_job() -> None:
        run_stages()

    return pipeline_job


class Pipeline:
    """One run of a pipeline job.

    Args:
        context: of the op.
        dvc: the project.
        targets, checks, translator, reader: as for `build_dvc_job`.
    """

    def __init__(
        self,
        context: dg.OpExecutionContext,
        *,
        dvc: DvcProject,
        targets: Sequence[str],
        checks: Sequence[StageCheck],
        translator: DvcTranslator,
        reader: StageReader,
    ) -> None:
        """Ask DVC what has changed."""
        self._context = context
        self._dvc = dvc
        self._checks = checks
        self._translator = translator
        self._reader = reader
        self._manifest: DvcManifest = dvc.manifest()
        changed = set(stage_changes(self._manifest, root=dvc.root))
        self._schedule = Schedule(
            self._manifest, selected=self._manifest.select(targets), changed=changed, durations={}
        )
        self._ended: queue.Queue[StageResult | BaseException] = queue.Queue()
        self._running: dict[str, StageRun] = {}
        self._sound: dict[str, bool] = {}
        self._bridge = ProvenanceBridge(
            context.instance, manifest=self._manifest, translator=translator
        )

    def run(self, *, jobs: int) -> Iterator[dg.AssetMaterialization | dg.AssetCheckEvaluation]:
        """Run until all is up to date and yield what to tell Dagster.

        Raises:
            Failure: a stage or a blocking check has failed; what was running beside it has been let
                end.
        """
        due = self._schedule.due()
        self._context.log.info(
            f"{len(due)} of {len(self._schedule.selected)} stages to bring up to date"
        )
        limits = self._pool_limits()
        failed: list[StageResult] = []
        try:
            while True:
                while not failed and len(self._running) < jobs:
                    name = self._schedule.pop(lambda name: self._has_slot(name, limits))
                    if name is None:
                        break
                    if (yield from self._reads_sound_data(name)):
                        self._start(name)
                if not self._running:
                    break
                result = self._next_result()
                if result is None:
                    continue
                del self._running[result.name]
                self._context.log.info(f"{result.name} {result.outcome} in {result.seconds:.1f} s")
                if not result.ok:
                    failed.append(result)
                else:
                    yield from self._tell(result)
                    self._sound[result.name] = yield from self._check(
                        self._manifest.stages[result.name]
                    )
                self._schedule.finish(result)
        except BaseException:
            stops = [threading.Thread(target=stage.stop) for stage in self._running.values()]
            for stop in stops:
                stop.start()
            for stop in stops:
                stop.join()
            raise
        if failed:
            raise stage_failure(failed[0])
        if unsound := [name for name, sound in self._sound.items() if not sound]:
            names = ", ".join(unsound)
            raise dg.Failure(
                f"blocking checks of {names} failed; nothing that reads them was run",
                allow_retries=False,
            )

    def _start(self, name: str) -> None:
        stage = self._running[name] = self._dvc.start(name, run_id=self._context.run_id)
        take = line_logger(self._context.log, prefix=f"[{name}] ")
        node = self._manifest.stages[name]
        wait = progress_logger(
            self._context.log, lambda: self._reader.progress(self._dvc.root, node)
        )

        def read() -> None:
            try:
                self._ended.put(follow(stage, on_line=take, on_wait=wait))
            except BaseException as error:
                self._ended.put(error)

        self._context.log.info(f"{name} started")
        threading.Thread(target=read, name=f"stage {name}", daemon=True).start()

    def _next_result(self) -> StageResult | None:
        """The next stage that has ended; waits in steps, so that a cancelled run is noticed."""
        try:
            result = self._ended.get(timeout=1.0)
        except queue.Empty:
            return None
        if isinstance(result, BaseException):
            raise result
        return result

    def _has_slot(self, name: str, limits: dict[str, int]) -> bool:
        pool = self._translator.get_pool(self._manifest, self._manifest.stages[name].group)
        taken = Counter(
            self._translator.get_pool(self._manifest, self._manifest.stages[n].group)
            for n in self._running
        )
        return pool is None or taken[pool] < limits.get(pool, limits[""])

    def _pool_limits(self) -> dict[str, int]:
        """Slots of each pool that has a limit of its own; "" is for all others."""
        storage = self._context.instance.event_log_storage
        default = self._context.instance.get_concurrency_config().pool_config.default_pool_limit
        limits = {"": default if default is not None else len(self._manifest.stages)}
        if storage.supports_global_concurrency_limits:
            limits |= {
                limit.name: limit.limit
                for limit in storage.get_pool_limits()
                if not limit.from_default
            }
        return limits

    def _tell(self, result: StageResult) -> Iterator[dg.AssetMaterialization]:
        """Yield the materialization of a stage that has ended well, unless Dagster knows it already."""
        node, root = self._manifest.stages[result.name], self._dvc.root
        locked = read_lock(root, only={node.name})[node.name]
        if result.outcome != "unchanged" or not self._bridge.is_told(
            node, locked=locked, outdated=frozenset()
        ):
            metadata = stage_metadata(root, node, locked=locked, reader=self._reader, result=result)
            yield self._bridge.materialization(
                node, locked=locked, outdated=frozenset(), metadata=metadata
            )
            self._bridge.refresh(node.group, only=node.name)

    def _reads_sound_data(self, name: str) -> Generator[dg.AssetCheckEvaluation, None, bool]:
        """Whether no blocking check of anything that a stage reads has failed.

        Each is evaluated once a run, also for what an earlier run made: it may have been stopped by
        it.
        """
        for parent in self._manifest.stages[name].upstream:
            if parent not in self._sound:
                self._sound[parent] = yield from self._check(self._manifest.stages[parent])
        return all(self._sound[parent] for parent in self._manifest.stages[name].upstream)

    def _check(self, node: StageNode) -> Generator[dg.AssetCheckEvaluation, None, bool]:
        """Yield the evaluations of a stage's checks and return whether no blocking one failed."""
        passes = True
        for check in self._checks:
            if not check.applies(node.group):
                continue
            outcome = evaluate_stages(check, root=self._dvc.root, nodes=[node])
            error = not outcome.passed and outcome.severity == dg.AssetCheckSeverity.ERROR
            passes = passes and not (check.blocking and error)
            asset = self._bridge.asset_key(node.group)
            yield check_evaluation(
                self._context.instance,
                asset,
                check=check,
                node=node,
                outcome=outcome,
                blocking=check.blocking,
            )
        return passes
