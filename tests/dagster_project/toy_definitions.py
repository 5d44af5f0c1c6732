"""A code location over the toy project in SEGGEN_PROJECT, with seggen's reader of previews."""

import os

import dagster as dg

from dagster_dvc.assets import build_dvc_assets
from dagster_dvc.blueprint import Blueprint
from dagster_dvc.checks import build_stage_checks
from dagster_dvc.jobs import build_dvc_job
from dagster_dvc.resource import DvcProject
from dagster_dvc.sensor import build_outside_runs_sensor
from dagster_project.reader import SegGenReader


@dg.definitions
def defs() -> dg.Definitions:
    project = DvcProject(os.environ["SEGGEN_PROJECT"])
    blueprint = Blueprint(project.manifest(), reader=SegGenReader())
    return dg.Definitions(
        assets=build_dvc_assets(blueprint),
        asset_checks=build_stage_checks(blueprint),
        jobs=[build_dvc_job(blueprint, "everything", description="All stages")],
        sensors=[build_outside_runs_sensor(blueprint, minimum_interval_seconds=5)],
        resources={"dvc": project.as_resource()},
        executor=dg.in_process_executor,
    )
