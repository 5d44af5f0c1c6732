"""`seggen captions-import`: take edited captions back."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "take the captions that were changed in a table, for sampling"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "table", type=Path, help="what captions-export wrote, with some captions changed"
    )


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Write the rows that differ from the captions to `captions.edits`, replacing what was there.

    Raises:
        ConfigError: `captions.edits` names no file.
        CaptionError: the table can't be read, or names no training sample.
    """
    from seggen_core.captions.table import (
        match_captions,
        read_caption_table,
        refuse,
        sample_names,
        write_caption_table,
    )
    from seggen_core.errors import CaptionError, ConfigError
    from seggen_core.store.reader import SampleStore

    if config.captions.edits is None:
        raise ConfigError(
            "captions.edits is not set; name the table for edits, such as the profile's "
            "caption_edits.csv"
        )
    if not paths.captions.is_file():
        raise CaptionError(f"there is no {paths.captions}; run: dvc repro captions")
    captions = read_caption_table(paths.captions)
    names = sample_names(SampleStore(paths.real("train")))
    table, unused = match_captions(arguments.table, names=names)
    refuse(arguments.table, "names what is no training sample:", unused, remedy="remove the rows")
    edits = {names[key]: text for key, text in table.items() if text != captions[key]}
    write_caption_table(paths.root / config.captions.edits, edits)
    print(
        f"{len(edits)} of {len(captions)} captions edited, in "
        f"{paths.root / config.captions.edits}; now run: dvc repro"
    )
    return 0
