"""`seggen params`: print the reference of params.yaml."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "print every key of params.yaml with its type, default and meaning"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("section", nargs="?", help="only this section (text2mask)")
    parser.add_argument("--json", action="store_true", help="print the keys as JSON")


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:  # noqa: ARG001 (a command's signature)
    """Print the keys; ConfigError if there is no such section."""
    import json
    import textwrap
    from dataclasses import asdict

    from seggen_core.config.describe import describe_keys

    keys = describe_keys(arguments.section)
    if arguments.json:
        print(json.dumps([asdict(key) for key in keys], indent=1))
        return 0
    for key in keys:
        default = f" (default: {key.default})" if key.default else ""
        print(f"{key.name}: {key.kind}{default}")
        print(textwrap.fill(key.text, 96, initial_indent="    ", subsequent_indent="    "))
    return 0
