"""The DVC project in this folder as Dagster assets: `dagster dev -f definitions.py`."""

from pathlib import Path

from dagster_dvc.definitions import build_dvc_definitions
from dagster_dvc.resource import DvcProject

defs = build_dvc_definitions(DvcProject(str(Path(__file__).parent)))
