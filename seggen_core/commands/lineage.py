"""`seggen lineage`: print what an arm was made from, or where the files of an md5 are."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "print what an arm was made from, or where the files of an md5 are"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "target",
        help="an arm (masksyn), a stage of dvc.lock (masksyn@car), an md5 that MLflow or dvc.lock "
        "shows (with or without .dir), or a path below data/",
    )


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Print the sources of an arm or stage, or the places of a hash or path."""
    from seggen_core.tracking.lineage import Lineage

    lineage = Lineage.read(paths.root)
    target: str = arguments.target
    if target in config.variants and target not in lineage.stages:
        target = f"evaluate@{target}"
    print(lineage.sources(target) if target in lineage.stages else lineage.places(target))
    return 0
