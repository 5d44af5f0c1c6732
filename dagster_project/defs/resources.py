"""Resources: the DVC project and MLflow."""

import os
from pathlib import Path
from typing import Any

import dagster as dg
from pydantic import Field

from dagster_dvc.resource import DvcProject

PROJECT_VARIABLE = "SEGGEN_PROJECT"
MLFLOW_UI_VARIABLE = "SEGGEN_MLFLOW_UI"
DEFAULT_MLFLOW_UI = "http://127.0.0.1:5000"


class MlflowClient(dg.ConfigurableResource):
    """Where the runs of stages are shown, and where stages send them.

    Attributes:
        ui: address of the MLflow server's pages.
        tracking_uri: what stages get as MLFLOW_TRACKING_URI; "" leaves it to params.yaml (a
            database in the project folder).
    """

    ui: str = Field(default=DEFAULT_MLFLOW_UI, description="Address of the MLflow server's pages.")
    tracking_uri: str = Field(
        default="", description='MLFLOW_TRACKING_URI of stages; "" leaves it to params.yaml.'
    )

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for stages."""
        return {"MLFLOW_TRACKING_URI": self.tracking_uri} if self.tracking_uri else {}

    def run_page(self, run_id: str) -> str:
        """Address of the page of a run."""
        return f"{self.ui.rstrip('/')}/#/runs/{run_id}"


def project_root() -> Path:
    """The folder that holds dvc.yaml: SEGGEN_PROJECT, else the one that this package is in.

    A function, so that another project can be shown by the same code without touching it.
    """
    return Path(os.environ.get(PROJECT_VARIABLE) or Path(__file__).parent.parent.parent).resolve()


def build_resources(root: Path) -> dict[str, Any]:
    """The resources of the project in `root`, settings taken from the environment when the definitions are loaded."""
    mlflow = MlflowClient(ui=os.environ.get(MLFLOW_UI_VARIABLE, DEFAULT_MLFLOW_UI))
    return {"dvc": DvcProject(project_dir=str(root), env=mlflow.environment), "mlflow": mlflow}
