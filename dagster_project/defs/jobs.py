"""Jobs: the whole pipeline, one class of every synthetic method, and the ablation."""

from collections.abc import Sequence
from typing import TypeAlias

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from dagster_dvc.checks import StageCheck
from dagster_dvc.events import StageReader
from dagster_dvc.jobs import build_dvc_job
from dagster_dvc.manifest import DvcManifest
from dagster_dvc.translator import DvcTranslator
from dagster_project.defs.checks import is_synthetic

Job: TypeAlias = dg.JobDefinition | UnresolvedAssetJobDefinition
EVALUATION = ("evaluate", "judge", "memorization")
ABLATION = "ablation"


def synthetic_groups(manifest: DvcManifest) -> list[str]:
    """Groups of stages that make class partitions, in the order of dvc.yaml."""
    return [
        group for group, names in manifest.groups.items() if is_synthetic(manifest.stages[names[0]])
    ]


def build_jobs(
    manifest: DvcManifest, *, checks: Sequence[StageCheck], reader: StageReader
) -> list[Job]:
    """`demo`, `full_ablation`, `evaluation`, and `synthesize_class`, as far as dvc.yaml has the stages for them."""
    jobs: list[Job] = [
        build_dvc_job(
            "demo",
            description="Bring the whole pipeline up to date, as `make demo` does",
            checks=checks,
            reader=reader,
            tags={"seggen/scope": "everything"},
        )
    ]
    for name, groups, description in (
        ("full_ablation", (ABLATION,), "Every arm of the ablation, and all that it is made from"),
        (
            "evaluation",
            EVALUATION,
            "Score every arm on the test split, judge every method and look for copies",
        ),
    ):
        targets = [group for group in groups if group in manifest.groups]
        if targets:
            tags = {"seggen/scope": name}
            jobs.append(
                build_dvc_job(
                    name,
                    targets=targets,
                    description=description,
                    checks=checks,
                    reader=reader,
                    tags=tags,
                )
            )
    if groups_of_classes := synthetic_groups(manifest):
        translator = DvcTranslator()
        jobs.append(
            dg.define_asset_job(
                "synthesize_class",
                selection=dg.AssetSelection.assets(
                    *(translator.get_asset_key(manifest, g) for g in groups_of_classes)
                ),
                description="All synthetic samples of one class: its partition of every method",
                tags={"seggen/scope": "class"},
            )
        )
    return jobs
