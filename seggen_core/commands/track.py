"""`seggen track`: send the log of the stages to MLflow."""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "send the log of the stages to MLflow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--replay", action="store_true", help="send all missing events, then end (the default)"
    )
    mode.add_argument(
        "--follow",
        action="store_true",
        help="send new events within seconds, until Ctrl-C or SIGTERM",
    )


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Send once, or until the process is stopped.

    Returns:
        2 if something could not be sent, 3 if a full or failing disk is why.
    """
    from seggen_core.errors import SegGenError, StorageError
    from seggen_core.project.storage import find_disk_error
    from seggen_core.tracking.follow import follow, replay

    report = (follow if arguments.follow else replay)(paths, config.runtime)
    if report.problems:
        print(
            f"{report}. Nothing on disk is lost; solve the problem, then run `seggen track`",
            file=sys.stderr,
        )
        is_disk = any(find_disk_error(RuntimeError(r)) for r in report.problems.values())
        return StorageError.exit_code if is_disk else SegGenError.exit_code
    if not arguments.follow:
        print(report)
    return 0
