"""What is defined around the assets: checks, jobs, sensors, schedules and resources, each in its module."""

from pathlib import Path

import dagster as dg

from dagster_dvc.assets import build_dvc_assets
from dagster_dvc.checks import build_stage_checks
from dagster_dvc.manifest import load_manifest
from dagster_project.defs.checks import stage_checks
from dagster_project.defs.jobs import build_jobs
from dagster_project.defs.reader import SegGenReader
from dagster_project.defs.resources import build_resources
from dagster_project.defs.schedules import build_schedules
from dagster_project.defs.sensors import build_sensors


def build_definitions(root: Path) -> dg.Definitions:
    """All definitions of the project in `root`, from its dvc.yaml and params.yaml as they are now.

    Raises:
        DvcAssetsError: the project can't be read.
    """
    manifest, reader = load_manifest(root), SegGenReader()
    checks = stage_checks(manifest)
    jobs = build_jobs(manifest, checks=checks, reader=reader)
    return dg.Definitions(
        assets=build_dvc_assets(manifest, checks=checks, reader=reader),
        asset_checks=build_stage_checks(manifest, checks),
        jobs=jobs,
        schedules=build_schedules(jobs),
        sensors=build_sensors(manifest, reader=reader),
        resources=build_resources(root),
        # A run is one stage in most cases: a process for each step would cost more than the step.
        executor=dg.in_process_executor,
    )
