"""`seggen validate`: check the dataset and the synthetic samples."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "check the dataset and the synthetic samples"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--max-bad", type=int, help="bad samples a split may have (default: dataset.max_bad)"
    )
    parser.add_argument(
        "--headers-only", action="store_true", help="don't decode pixels: ten times as fast"
    )
    parser.add_argument(
        "--report",
        type=Path,
        help="write all findings to this file too, as JSON or text by its suffix",
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Print the findings; return 1 if there is a problem, else 0."""
    from seggen_core.config.dvc_params import lacking_keys
    from seggen_core.datasets.validate import validate_project
    from seggen_core.datasets.validation_report import Problem

    max_bad = config.dataset.max_bad if arguments.max_bad is None else arguments.max_bad
    report = validate_project(
        config, paths=paths, max_bad=max_bad, headers_only=arguments.headers_only
    )
    lacking = lacking_keys(arguments.params, pipeline=paths.root / "dvc.yaml", config=config)
    report.problems.extend(Problem("dvc.yaml", what) for what in lacking)
    print(json.dumps(report.to_json(), indent=1) if arguments.json else report.render())
    if arguments.report:
        report.write(arguments.report)
    return 1 if report.problems else 0
