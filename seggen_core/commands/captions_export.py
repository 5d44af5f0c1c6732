"""`seggen captions-export`: write the captions to a table to read and edit."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write the captions, edits among them, to a CSV or Parquet table"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--out", type=Path, required=True, help="the table, .csv or .parquet")


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Write the captions as samples are made with them."""
    from seggen_core.captions.table import read_caption_table, write_caption_table
    from seggen_core.errors import CaptionError

    if not paths.captions.is_file():
        raise CaptionError(f"there is no {paths.captions}; run: dvc repro captions")
    captions = read_caption_table(paths.captions)
    edits = (
        {}
        if config.captions.edits is None
        else read_caption_table(paths.root / config.captions.edits)
    )
    write_caption_table(arguments.out, captions | {k: v for k, v in edits.items() if k in captions})
    print(
        f"{len(captions)} captions in {arguments.out}; change some, then run: "
        f"seggen captions-import {arguments.out}"
    )
    return 0
