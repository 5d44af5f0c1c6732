"""All definitions of one DVC project."""

from collections.abc import Sequence

import dagster as dg

from dagster_dvc.assets import build_dvc_assets
from dagster_dvc.checks import StageCheck, build_stage_checks
from dagster_dvc.events import StageReader
from dagster_dvc.graph import DvcManifest
from dagster_dvc.jobs import build_dvc_job
from dagster_dvc.resource import DvcProject
from dagster_dvc.sensor import build_outside_runs_sensor
from dagster_dvc.translator import DvcTranslator


def build_dvc_definitions(
    project: DvcProject,
    *,
    manifest: DvcManifest | None = None,
    checks: Sequence[StageCheck] = (),
    translator: DvcTranslator | None = None,
    reader: StageReader | None = None,
    job: str = "repro",
) -> dg.Definitions:
    """Assets, checks, a job that brings all up to date, and the sensor, of one DVC project.

    Args:
        project: the project.
        manifest: its stages; None asks DVC for them.
        checks: of what stages made.
        translator: derives the properties of assets.
        reader: reads metadata and progress from the files of stages.
        job: name of the job.

    Raises:
        DvcProjectError: DVC can't read the project.
    """
    manifest = manifest or project.manifest()
    description = "Brings the whole pipeline up to date"
    whole = build_dvc_job(
        job, description=description, checks=checks, translator=translator, reader=reader
    )
    return dg.Definitions(
        assets=build_dvc_assets(manifest, checks=checks, translator=translator, reader=reader),
        asset_checks=build_stage_checks(manifest, checks, translator=translator),
        jobs=[whole],
        sensors=[build_outside_runs_sensor(translator=translator, reader=reader)],
        resources={"dvc": project.as_resource()},
    )
