"""`seggen doctor`: look at this machine, the installation and the project."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "look at this machine, the installation and the project"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Print the findings; return 1 if there is a problem, else 0."""
    import json

    from seggen_core.reports.machine import examine

    findings = examine(paths, params=arguments.params)
    if arguments.json:
        print(json.dumps([finding.to_json() for finding in findings], indent=1))
    else:
        print("\n".join(finding.render() for finding in findings))
    return 1 if any(finding.state == "problem" for finding in findings) else 0
