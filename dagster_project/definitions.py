"""What Dagster loads: the assets that dvc.yaml states, and what is defined around them. Assembly only."""

import dagster as dg

from dagster_project.defs import build_definitions
from dagster_project.defs.resources import project_root


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions, made from dvc.yaml and params.yaml as they are when Dagster loads or reloads them."""
    return build_definitions(project_root())
