"""Sensors: runs outside of Dagster, automation, and more samples for weak classes."""

import json
from collections.abc import Iterator, Mapping

import dagster as dg

from dagster_dvc.events import StageReader
from dagster_dvc.manifest import DvcManifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.sensor import build_outside_runs_sensor
from dagster_dvc.translator import DvcTranslator
from dagster_project.defs.jobs import EVALUATION, synthetic_groups
from dagster_project.defs.resources import WeakClassPolicy


def build_sensors(manifest: DvcManifest, *, reader: StageReader) -> list[dg.SensorDefinition]:
    """All sensors; of them only `outside_runs` is on from the start."""
    sensors: list[dg.SensorDefinition] = [
        build_outside_runs_sensor(reader=reader),
        dg.AutomationConditionSensorDefinition(
            name="refresh_downstream",
            target=dg.AssetSelection.all(),
            default_status=dg.DefaultSensorStatus.STOPPED,
            description="Runs again what is downstream of a dataset, model or partition that was made anew",
        ),
    ]
    if EVALUATION[0] in manifest.groups and synthetic_groups(manifest):
        sensors.append(build_weak_class_sensor(manifest))
    return sensors


def build_weak_class_sensor(manifest: DvcManifest) -> dg.SensorDefinition:
    """Asks for more samples of the classes that an arm does worst on, once for each new evaluation of it.

    The requested runs materialise the partitions of those classes with a higher count as DVC
    experiments: they leave params.yaml and the workspace alone, and `dvc exp apply` takes over what
    turns out to help.
    """
    translator = DvcTranslator()
    assets = {group: translator.get_asset_key(manifest, group) for group in manifest.groups}
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
        policy, report = (
            weak_class_policy,
            dvc.root / "data" / "reports" / "evaluate" / weak_class_policy.arm / "metrics.json",
        )
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
        weakest = weakest_classes(iou, count=policy.weakest, among=partitions)
        key = f"{policy.method}.samples_per_source"
        for slug, value in weakest.items():
            section = next(iter(partitions[slug].params.values()))[policy.method]
            wanted = section["samples_per_source"] * policy.factor
            context.log.info(
                f"{slug}: IoU {value:.1f}, {key} {section['samples_per_source']} -> {wanted}"
            )
            asset = assets[policy.method]
            yield dg.RunRequest(
                run_key=f"{policy.arm}-{state}-{slug}",
                asset_selection=[asset],
                partition_key=slug,
                run_config={
                    "ops": {asset.to_python_identifier(): {"config": {"params": {key: wanted}}}}
                },
                tags={"seggen/weak_class": slug, "seggen/iou": f"{value:.1f}"},
            )
        context.update_cursor(state)

    return weak_classes


def weakest_classes(
    iou: Mapping[str, float | None], *, count: int, among: Mapping[str | None, object]
) -> dict[str, float]:
    """The `count` classes with the lowest IoU (percent), weakest first; those without one or without a partition are left out."""
    known = {slug: value for slug, value in iou.items() if value is not None and slug in among}
    return dict(sorted(known.items(), key=lambda item: (item[1], item[0]))[:count])
