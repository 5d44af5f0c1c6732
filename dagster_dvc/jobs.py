"""Jobs that bring a whole part of the pipeline up to date in one run, several stages at a time.

Dagster's own asset jobs run assets of one set of partitions; a pipeline has several (classes,
ablation arms). Such a job is one op that runs stages as `Schedule` orders them and tells Dagster of
each as it ends. A process is started and definitions are loaded once, not once a partition.
"""

from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from typing import TypeAlias

import dagster as dg
from pydantic import Field

from dagster_dvc.blueprint import Blueprint, CheckOutcome
from dagster_dvc.cache import due_changes
from dagster_dvc.checks import check_evaluation, evaluate_stage, group_outcomes
from dagster_dvc.durations import note_durations, read_durations
from dagster_dvc.events import cancelled, materialization, stage_failure, stage_metadata
from dagster_dvc.follow import StageLog, follow
from dagster_dvc.lock import read_lock
from dagster_dvc.resource import DvcProject
from dagster_dvc.result import StageResult
from dagster_dvc.runner import Runner, first_hidden_stages
from dagster_dvc.schedule import Schedule
from dagster_dvc.sensor import PIPELINE_TAG

Event: TypeAlias = dg.AssetMaterialization | dg.AssetCheckEvaluation


class PipelineConfig(dg.Config):
    """How a pipeline job runs."""

    jobs: int = Field(
        default=2,
        ge=1,
        description="Stages at a time; stages of one pool are limited by the pool as well.",
    )


def build_dvc_job(
    blueprint: Blueprint,
    name: str,
    *,
    description: str,
    targets: Sequence[str] = (),
    tags: dict[str, str] | None = None,
) -> dg.JobDefinition:
    """A job that brings `targets` and everything upstream of them up to date.

    It wants the resource "dvc". Blocking checks are evaluated as each stage ends; what is
    downstream of one that fails isn't run, and the run fails.

    Args:
        blueprint: its checks, translator and reader count; stages are those that there are when
            the job runs.
        name: of the job.
        description: for people.
        targets: stages and groups; all stages for none.
        tags: of its runs.
    """

    @dg.op(name=f"{name}_stages", out=dg.Out(dg.Nothing), description=description)
    def run_stages(
        context: dg.OpExecutionContext, config: PipelineConfig, dvc: dg.ResourceParam[DvcProject]
    ) -> Iterator[Event]:
        try:
            yield from Pipeline(context, dvc, blueprint).run(targets, jobs=config.jobs)
        except dg.DagsterExecutionInterruptedError:
            raise cancelled(name) from None

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
    """One run of a pipeline job."""

    def __init__(
        self, context: dg.OpExecutionContext, dvc: DvcProject, blueprint: Blueprint
    ) -> None:
        """Run nothing yet."""
        self._context = context
        self._dvc = dvc
        self._blueprint = blueprint
        self._limits = pool_limits(context.instance)
        self._log = StageLog(context.log, with_names=True)
        env = dvc.environment(context.run_id)
        self._runner = Runner(dvc.root, env=env, say=context.log.warning)
        self._outcomes: dict[str, dict[str, dict[str, CheckOutcome]]] = {}
        """What was found, by group, stage and check."""
        self._problems: dict[str, list[str]] = {}
        """Of each stage that was looked at: a line for each blocking check that failed."""
        self._events: list[Event] = []

    def run(self, targets: Sequence[str], *, jobs: int) -> Iterator[Event]:
        """Run until all is up to date and yield what to tell Dagster.

        Raises:
            Failure: a stage or a blocking check has failed; what was running beside it has been let
                end.
        """
        failed = yield from self._run_all(first_hidden_stages(self._dvc.root), jobs=jobs)
        if not failed:
            manifest = self._dvc.manifest()
            schedule = Schedule(
                manifest,
                selected=manifest.select(targets),
                changed=set(due_changes(manifest, root=self._dvc.root, say=self._context.log.info)),
                durations=read_durations(self._dvc.state),
            )
            due, total = len(schedule.due()), len(schedule.selected)
            self._context.log.info(f"{due} of {total} stages to bring up to date")
            failed = yield from self._run_all(schedule, jobs=jobs)
        if failed:
            raise stage_failure(failed[0])
        if problems := [line for lines in self._problems.values() for line in lines]:
            raise dg.Failure(
                "blocking checks failed, and nothing that reads these data was run: "
                + "; ".join(problems),
                allow_retries=False,
            )

    def _run_all(
        self, schedule: Schedule, *, jobs: int
    ) -> Generator[Event, None, list[StageResult]]:
        """Run a schedule, yield what to tell Dagster, and return what failed."""
        self._blueprint = self._blueprint.renewed(schedule.manifest)
        for run in follow(
            self._runner,
            schedule,
            log=self._log,
            reader=self._blueprint.reader,
            jobs=jobs,
            may_start=lambda name: self._has_slot(name) and self._reads_sound_data(name),
        ):
            result = run.result
            assert result is not None
            self._context.log.info(f"{run.name} {result.outcome} in {result.seconds:.1f} s")
            if result.ok and not run.node.is_hidden:
                self._note_materialization(result)
                self._problems[run.name] = self._check(run.name)
            yield from self._take_events()
        yield from self._take_events()
        results = schedule.results.values()
        note_durations(self._dvc.state, results)
        return [result for result in results if not result.ok]

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _has_slot(self, name: str) -> bool:
        """Whether the pool of a stage has room for it."""
        stages, translator = self._blueprint.manifest.stages, self._blueprint.translator
        pools = {
            n: translator.get_pool(self._blueprint.manifest, stages[n].group)
            for n in (name, *self._runner.running)
        }
        pool = pools.pop(name)
        taken = Counter(pools.values())[pool]
        limit = self._limits.get(pool or "", self._limits.get(""))
        return pool is None or limit is None or taken < limit

    def _note_materialization(self, result: StageResult) -> None:
        """Note the materialization of a stage that has ended well, if it did anything."""
        if result.outcome == "unchanged":
            return
        node, root = self._blueprint.manifest.stages[result.name], self._dvc.root
        locked, reader = read_lock(root, only={node.name})[node.name], self._blueprint.reader
        metadata = stage_metadata(root, node, locked=locked, reader=reader, result=result)
        key = self._blueprint.key(node.group)
        self._events.append(materialization(key, node, locked=locked, metadata=metadata))

    def _reads_sound_data(self, name: str) -> bool:
        """Whether no blocking check of anything that a stage reads has failed.

        Each is evaluated once a run, also for what an earlier run made.
        """
        parents = self._blueprint.manifest.visible_upstream(name)
        for parent in parents:
            if parent not in self._problems:
                self._problems[parent] = self._check(parent)
        return not any(self._problems[parent] for parent in parents)

    def _check(self, name: str) -> list[str]:
        """Note what the checks of a stage find; returns a line for each failed blocking one."""
        node = self._blueprint.manifest.stages[name]
        checks = self._blueprint.checks_of(node.group)
        outcomes = evaluate_stage(
            checks.values(), dvc=self._dvc, node=node, book=self._blueprint.book
        )
        self._outcomes.setdefault(node.group, {})[name] = outcomes
        lock = read_lock(self._dvc.root, only=self._blueprint.manifest.groups[node.group])
        summaries = group_outcomes(
            self._blueprint, node.group, dvc=self._dvc, lock=lock, fresh=self._outcomes[node.group]
        )
        key = self._blueprint.key(node.group)
        self._events += [
            check_evaluation(key, check, summary) for check, summary in summaries.items()
        ]
        return [
            f"check {check} of {name}: {outcome.description}"
            for check, outcome in outcomes.items()
            if checks[check].blocking and outcome.is_error
        ]


def pool_limits(instance: dg.DagsterInstance) -> dict[str, int]:
    """Slots of each pool that has a limit of its own; "" is for all others, where they have one."""
    storage = instance.event_log_storage
    default = instance.get_concurrency_config().pool_config.default_pool_limit
    limits = {} if default is None else {"": default}
    if storage.supports_global_concurrency_limits:
        limits |= {
            limit.name: limit.limit for limit in storage.get_pool_limits() if not limit.from_default
        }
    return limits
