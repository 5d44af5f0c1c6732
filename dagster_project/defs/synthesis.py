"""Synthetic samples: which stages make class partitions, and a job that makes one class."""

from pathlib import PurePosixPath

import dagster as dg

from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.translator import DvcTranslator

SYNTHETIC = PurePosixPath("data", "synthetic")
"""A stage that writes <method>/<class> below it makes one class partition of a method, and is
checked as one: a new method needs no word here."""


def synthetic_groups(manifest: DvcManifest) -> list[str]:
    """Groups of stages that make class partitions, in the order of dvc.yaml."""
    return [
        group for group, names in manifest.assets.items() if is_synthetic(manifest.stages[names[0]])
    ]


def is_synthetic(node: StageNode) -> bool:
    """Whether a stage makes a class partition of a synthetic method."""
    return any(
        len(out.parents) == 4 and SYNTHETIC in out.parents for out in map(PurePosixPath, node.outs)
    )


def build_definitions(manifest: DvcManifest) -> dg.Definitions:
    """The job `synthesize_class`, where there are methods for it."""
    translator = DvcTranslator()
    keys = [translator.get_asset_key(manifest, group) for group in synthetic_groups(manifest)]
    if not keys:
        return dg.Definitions()
    job = dg.define_asset_job(
        "synthesize_class",
        selection=dg.AssetSelection.assets(*keys),
        description="All synthetic samples of one class: its partition of every method",
        tags={"seggen/scope": "class"},
    )
    return dg.Definitions(jobs=[job])
