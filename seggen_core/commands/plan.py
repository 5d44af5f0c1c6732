"""`seggen plan`: estimate the time and the disk of a run before it starts."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "estimate samples, hours and disk of every stage before anything runs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--profile", help="plan this profile as it is published, not the parameter file"
    )
    parser.add_argument(
        "--device",
        choices=["gpu", "cpu"],
        help="default: cpu for the embedded foundation, else gpu",
    )
    parser.add_argument(
        "--rates", type=Path, help="JSON table of your own throughputs (default: the package's)"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Print the plan.

    Raises:
        ConfigError: there is no such profile, or the dataset has no files here and no published
            size.
    """
    from seggen_core.project.paths import ProjectPaths
    from seggen_core.project.shipped import profile_file
    from seggen_core.reports.plan import load_rates, plan_project
    from seggen_core.reports.plan_inputs import foundation_family

    if arguments.profile:  # its files lie beside it, in the project or in the package
        paths = ProjectPaths(profile_file(arguments.profile, root=paths.root).parents[2])
    embedded = foundation_family(config, paths=paths) == "embedded"
    rates = load_rates(arguments.rates, device=arguments.device or ("cpu" if embedded else "gpu"))
    use_results = not arguments.profile  # those are of the parameter file
    plan = plan_project(config, paths=paths, rates=rates, use_results=use_results)
    print(json.dumps(asdict(plan), indent=1) if arguments.json else plan.render())
    return 0
