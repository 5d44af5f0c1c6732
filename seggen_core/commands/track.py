"""`seggen track`: set up the tracking database, or send it what it missed."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "set up the tracking database, or send it what it missed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--replay",
        action="store_true",
        help="send metrics that were kept on disk while the server was down",
    )


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Prepare the store, or replay."""
    from seggen_core.tracking import prepare_tracking, replay

    if arguments.replay:
        print(replay(paths, config.runtime))
    else:
        prepare_tracking(paths, config.runtime)
    return 0
