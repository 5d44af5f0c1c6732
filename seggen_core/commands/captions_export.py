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
    """Write the captions as samples are made with them, by the dataset's own names.

    Raises:
        CaptionError: there are no captions yet, or the table of edits can't be used.
    """
    from seggen_core.captions.table import read_caption_table, sample_names, write_caption_table
    from seggen_core.captions.tables import read_edits
    from seggen_core.errors import CaptionError
    from seggen_core.store.reader import SampleStore

    if not paths.captions.is_file():
        raise CaptionError(f"there is no {paths.captions}; run: dvc repro captions")
    store = SampleStore(paths.real("train"))
    edits = read_edits(config.captions, base=paths.root, store=store)
    captions = read_caption_table(paths.captions) | edits
    names = sample_names(store)
    write_caption_table(arguments.out, {names[key]: text for key, text in captions.items()})
    print(
        f"{len(captions)} captions in {arguments.out}; change some, then run: "
        f"seggen captions-import {arguments.out}"
    )
    return 0
