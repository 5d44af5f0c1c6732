"""The pipeline as a whole: its assets and checks, the job `demo`, and what watches it."""

import dagster as dg

from dagster_dvc.blueprint import Blueprint
from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.resource import DvcProject


def build_definitions(project: DvcProject, blueprint: Blueprint) -> dg.Definitions:
    """All that is made of dvc.yaml alone; of the sensors only `outside_runs` is on at first."""
    refresh = dg.AutomationConditionSensorDefinition(
        name="refresh_downstream",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.STOPPED,
        description="Runs again the stages whose inputs are new",
    )
    return dg.Definitions.merge(
        build_dvc_definitions(project, blueprint=blueprint, job="demo"),
        dg.Definitions(sensors=[refresh]),
    )
