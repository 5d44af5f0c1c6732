"""Resources: the DVC project and MLflow."""

import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.resource import DvcProject, fixed_resource

PROJECT_VARIABLE = "SEGGEN_PROJECT"
MLFLOW_UI_VARIABLE = "SEGGEN_MLFLOW_UI"
STATE_FOLDER = ".seggen"
"""Where seggen keeps what its tools know of a project; durations are read by `seggen plan`."""
DEFAULT_MLFLOW_UI = "http://127.0.0.1:5000"


@dataclass(frozen=True)
class MlflowClient:
    """Where the runs of stages are shown, and where stages send them.

    Attributes:
        ui: address of the MLflow server's pages.
        tracking_uri: what stages get as MLFLOW_TRACKING_URI; "" leaves it to params.yaml (a
            database in the project folder).
    """

    ui: str = DEFAULT_MLFLOW_UI
    tracking_uri: str = ""

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for stages."""
        return {"MLFLOW_TRACKING_URI": self.tracking_uri} if self.tracking_uri else {}

    def run_page(self, run_id: str) -> str:
        """Address of the page of a run."""
        return f"{self.ui.rstrip('/')}/#/runs/{run_id}"


@dataclass(frozen=True)
class WeakClassPolicy:
    """What the weak-class sensor asks for.

    Attributes:
        arm: the ablation arm whose per-class IoU is read.
        method: the synthetic method that is asked for more.
        weakest: k, how many classes.
        factor: how many times as many samples per source as params.yaml says.
    """

    arm: str = "masksyn_imgsyn"
    method: str = "masksyn"
    weakest: int = 2
    factor: int = 2


def project_root() -> Path:
    """The folder that holds dvc.yaml: SEGGEN_PROJECT, else the checkout that this package is in.

    An installed package is in no checkout: there it is the working directory.
    A function, so that another project can be shown by the same code without touching it.
    """
    if project := os.environ.get(PROJECT_VARIABLE):
        return Path(project).resolve()
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "dvc.yaml").is_file() else Path.cwd()


@dg.io_manager(config_schema={})
def in_memory() -> dg.IOManager:
    """Keeps what ops hand to each other, which is nothing."""
    return dg.InMemoryIOManager()


def mlflow_client() -> MlflowClient:
    """MLflow, as the environment names it."""
    return MlflowClient(ui=os.environ.get(MLFLOW_UI_VARIABLE, DEFAULT_MLFLOW_UI))


def dvc_project(root: Path) -> DvcProject:
    """The project in `root`."""
    return DvcProject(
        project_dir=str(root),
        env=mlflow_client().environment,
        validate_params=check_params,
        state_folder=STATE_FOLDER,
        checks=f"{STATE_FOLDER}/checks",
    )


def build_resources() -> dict[str, Any]:
    """The resources beside the DVC project.

    None takes configuration: whoever launches a run may write its configuration.
    """
    mlflow = mlflow_client()
    # No op hands anything to another; Dagster's default would let a run choose the folder that
    # outputs are kept in.
    return {
        "io_manager": in_memory,
        "mlflow": fixed_resource(lambda: nullcontext(mlflow), description="The MLflow server"),
        "weak_class_policy": fixed_resource(
            lambda: nullcontext(WeakClassPolicy()), description="What weak classes get"
        ),
    }


def check_params(path: Path) -> None:
    """Check a params.yaml as every stage does; raises ConfigError."""
    from seggen_core.config import load_config

    load_config(path)
