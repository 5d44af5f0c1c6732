"""The pipeline as a whole: its assets and checks, the job `demo`, and what watches it."""

from collections.abc import Sequence

import dagster as dg

from dagster_dvc.assets import build_dvc_assets
from dagster_dvc.checks import StageCheck, build_stage_checks
from dagster_dvc.events import StageReader
from dagster_dvc.graph import DvcManifest
from dagster_dvc.jobs import build_dvc_job
from dagster_dvc.sensor import build_outside_runs_sensor


def build_definitions(
    manifest: DvcManifest, *, checks: Sequence[StageCheck], reader: StageReader
) -> dg.Definitions:
    """All that is made of dvc.yaml alone; of the sensors only `outside_runs` is on at first."""
    demo = build_dvc_job(
        "demo",
        description="Bring the whole pipeline up to date, as `make demo` does",
        checks=checks,
        reader=reader,
        tags={"seggen/scope": "everything"},
    )
    refresh = dg.AutomationConditionSensorDefinition(
        name="refresh_downstream",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Runs again what is downstream of what was made anew",
    )
    return dg.Definitions(
        assets=build_dvc_assets(manifest, checks=checks, reader=reader),
        asset_checks=build_stage_checks(manifest, checks),
        jobs=[demo],
        sensors=[build_outside_runs_sensor(reader=reader), refresh],
    )
