"""All definitions of one DVC project."""

import dagster as dg

from dagster_dvc.assets import build_dvc_assets
from dagster_dvc.blueprint import Blueprint
from dagster_dvc.checks import build_stage_checks
from dagster_dvc.jobs import build_dvc_job
from dagster_dvc.resource import DvcProject
from dagster_dvc.sensor import build_outside_runs_sensor


def build_dvc_definitions(
    project: DvcProject, *, blueprint: Blueprint | None = None, job: str = "repro"
) -> dg.Definitions:
    """Assets, checks, a job that brings all up to date, and the sensor, of one DVC project.

    Args:
        project: the project.
        blueprint: its stages and how Dagster is to see them; None asks DVC for the stages.
        job: name of the job.

    Raises:
        DvcProjectError: DVC can't read the project.
    """
    blueprint = blueprint or Blueprint(project.manifest())
    whole = build_dvc_job(blueprint, job, description="Brings the whole pipeline up to date")
    return dg.Definitions(
        assets=build_dvc_assets(blueprint),
        asset_checks=build_stage_checks(blueprint),
        jobs=[whole],
        sensors=[build_outside_runs_sensor(blueprint)],
        resources={"dvc": project.as_resource()},
    )
