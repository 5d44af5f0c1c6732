"""Training and evaluation: jobs, a nightly schedule, more samples for weak classes."""

import json
from collections.abc import Iterator, Mapping

import dagster as dg

from dagster_dvc.blueprint import Blueprint
from dagster_dvc.graph import DvcManifest
from dagster_dvc.jobs import build_dvc_job
from dagster_dvc.resource import DvcProject
from dagster_dvc.translator import DvcTranslator
from dagster_project.defs.synthesis import synthetic_groups
from dagster_project.resources import WeakClassPolicy

EVALUATION = ("evaluate", "judge", "memorization")
ABLATION = "ablation"
JOBS = {
    "full_ablation": ((ABLATION,), "Every arm of the ablation, and all that it is made from"),
    "evaluation": (
        EVALUATION,
        "Score every arm on the test split, judge every method and look for copies",
    ),
}
"""Name, groups to bring up to date, and description."""


def build_definitions(blueprint: Blueprint) -> dg.Definitions:
    """Jobs, schedule and sensor, as far as dvc.yaml has the stages for them."""
    manifest = blueprint.manifest
    jobs = {
        name: build_dvc_job(
            blueprint,
            name,
            description=description,
            targets=[group for group in groups if group in manifest.assets],
            tags={"seggen/scope": name},
        )
        for name, (groups, description) in JOBS.items()
        if manifest.assets.keys() & set(groups)
    }
    schedules = []
    if "evaluation" in jobs:
        # It runs what has changed since, and nothing where nothing has.
        schedules = [
            dg.ScheduleDefinition(
                name="nightly_evaluation",
                job=jobs["evaluation"],
                cron_schedule="0 2 * * *",
                execution_timezone="UTC",
                description="Score every arm, judge every method and look for copies at night",
                default_status=dg.DefaultScheduleStatus.STOPPED,
            )
        ]
    sensors = []
    if EVALUATION[0] in manifest.assets and synthetic_groups(manifest):
        sensors = [build_weak_class_sensor(manifest)]
    return dg.Definitions(jobs=list(jobs.values()), schedules=schedules, sensors=sensors)


def build_weak_class_sensor(manifest: DvcManifest) -> dg.SensorDefinition:
    """Asks for more samples of the classes that an arm does worst on, once an evaluation.

    The requested runs materialise the partitions of those classes with a higher count as DVC
    experiments: they leave params.yaml and the workspace alone, and `dvc exp apply` takes over what
    turns out to help.
    """
    translator = DvcTranslator()
    assets = {group: translator.get_asset_key(manifest, group) for group in manifest.assets}
    methods = [assets[group] for group in synthetic_groups(manifest)]

    @dg.sensor(
        name="weak_classes",
        target=dg.AssetSelection.assets(*methods),
        minimum_interval_seconds=300,
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Requests more synthetic samples of the classes with the lowest IoU",
    )
    def weak_classes(
        context: dg.SensorEvaluationContext,
        dvc: dg.ResourceParam[DvcProject],
        weak_class_policy: dg.ResourceParam[WeakClassPolicy],
    ) -> Iterator[dg.RunRequest | dg.SkipReason]:
        policy = weak_class_policy
        report = dvc.root / "data" / "reports" / "evaluate" / policy.arm / "metrics.json"
        if not report.is_file():
            yield dg.SkipReason(f"the arm {policy.arm} hasn't been evaluated: there is no {report}")
            return
        state = str(report.stat().st_mtime_ns)
        if state == context.cursor:
            yield dg.SkipReason("no new evaluation")
            return
        partitions = {
            node.key: node for node in manifest.stages.values() if node.group == policy.method
        }
        iou = json.loads(report.read_text(encoding="utf-8"))["per_class_iou"]
        key = f"{policy.method}.samples_per_source"
        for slug, value in weakest_classes(iou, count=policy.weakest, among=partitions).items():
            section = next(iter(partitions[slug].params.values()))[policy.method]
            wanted = section["samples_per_source"] * policy.factor
            context.log.info(
                f"{slug}: IoU {value:.1f}, {key} {section['samples_per_source']} -> {wanted}"
            )
            asset = assets[policy.method]
            config = {"params": {key: wanted}}
            yield dg.RunRequest(
                run_key=f"{policy.arm}-{state}-{slug}",
                asset_selection=[asset],
                partition_key=slug,
                run_config={"ops": {asset.to_python_identifier(): {"config": config}}},
                tags={"seggen/weak_class": slug, "seggen/iou": f"{value:.1f}"},
            )
        context.update_cursor(state)

    return weak_classes


def weakest_classes(
    iou: Mapping[str, float | None], *, count: int, among: Mapping[str | None, object]
) -> dict[str, float]:
    """The `count` classes with the lowest IoU (percent), weakest first.

    Those without an IoU or without a partition are left out.
    """
    known = {slug: value for slug, value in iou.items() if value is not None and slug in among}
    return dict(sorted(known.items(), key=lambda item: (item[1], item[0]))[:count])
