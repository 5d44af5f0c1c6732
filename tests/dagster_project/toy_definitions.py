"""A code location over the toy project in SEGGEN_PROJECT, with seggen's reader of previews."""

import os
from pathlib import Path

import dagster as dg

from dagster_dvc.assets import build_dvc_assets
from dagster_dvc.checks import build_stage_checks
from dagster_dvc.jobs import build_dvc_job
from dagster_dvc.manifest import load_manifest
from dagster_dvc.resource import DvcProject
from dagster_dvc.sensor import build_outside_runs_sensor
from dagster_project.reader import SegGenReader


@dg.definitions
def defs() -> dg.Definitions:
    root = Path(os.environ["SEGGEN_PROJECT"])
    manifest, reader = load_manifest(root), SegGenReader()
    return dg.Definitions(
        assets=build_dvc_assets(manifest, reader=reader),
        asset_checks=build_stage_checks(manifest, []),
        jobs=[build_dvc_job("everything", description="All stages", reader=reader)],
        sensors=[build_outside_runs_sensor(reader=reader, minimum_interval_seconds=5)],
        resources={"dvc": DvcProject(project_dir=str(root)).as_resource()},
        executor=dg.in_process_executor,
    )
