"""What Dagster loads: the assets that dvc.yaml states, and what is defined around them."""

from pathlib import Path

import dagster as dg

from dagster_dvc.blueprint import Blueprint
from dagster_dvc.manifest import load_manifest
from dagster_project.defs import evaluation, pipeline, synthesis
from dagster_project.findings import FindingBook, build_checks
from dagster_project.reader import SegGenReader
from dagster_project.resources import build_resources, dvc_project, project_root


@dg.definitions
def defs() -> dg.Definitions:
    """All definitions, from dvc.yaml and params.yaml as they are when Dagster loads them."""
    return build_definitions(project_root())


def build_definitions(root: Path) -> dg.Definitions:
    """All definitions of the project in `root`, from its dvc.yaml and params.yaml as they are now.

    Raises:
        DagsterDvcError: the project can't be read.
    """
    manifest = load_manifest(root)
    checks = build_checks(manifest, methods=synthesis.synthetic_groups(manifest))
    book = FindingBook(lambda group: any(check.applies(group) for check in checks))
    blueprint = Blueprint(manifest, checks=checks, reader=SegGenReader(), book=book)
    return dg.Definitions.merge(
        pipeline.build_definitions(dvc_project(root), blueprint),
        synthesis.build_definitions(manifest),
        evaluation.build_definitions(blueprint),
        dg.Definitions(
            resources=build_resources(),
            # A run is one stage in most cases: a process a step would cost more than the step.
            executor=dg.in_process_executor,
        ),
    )
