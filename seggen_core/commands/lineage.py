"""`seggen lineage`: print what an arm was made from, or where the files of an md5 are."""

import argparse
import json
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
    parser.add_argument(
        "--json", action="store_true", help="print the sources of an arm or stage as JSON"
    )


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Print the sources of an arm or stage, or the places of a hash or path."""
    from seggen_core.errors import ConfigError
    from seggen_core.tracking.lineage import Lineage

    lineage = Lineage.read(paths.root)
    target: str = arguments.target
    if target in config.variants and target not in lineage.stages:
        target = f"evaluate@{target}"
    if arguments.json:
        if target not in lineage.stages:
            raise ConfigError(
                f"--json prints the sources of an arm or stage, but {target!r} is none of dvc.lock"
            )
        keys = ("stage", "path", "md5")
        rows = [dict(zip(keys, row, strict=True)) for row in lineage.source_rows(target)]
        print(json.dumps(rows, indent=1))
        return 0
    print(lineage.sources(target) if target in lineage.stages else lineage.places(target))
    return 0
