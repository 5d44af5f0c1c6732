"""`seggen report`: print the ablation table."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "print the ablation table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:  # noqa: ARG001 (a command's signature)
    """Print the table; ConfigError if there is none yet."""
    from seggen_core.errors import ConfigError

    table = paths.ablation / "ablation.md"
    if not table.is_file():
        raise ConfigError(f"there is no {table}; run the pipeline first (make demo, or: dvc repro)")
    print(table.read_text(encoding="utf-8"))
    return 0
