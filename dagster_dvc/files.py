"""Small JSON files of this package. They are worth nothing: a damaged one counts as missing."""

import json
import os
from pathlib import Path
from typing import Any

STATE_FOLDER = Path(".dvc", "tmp", "dagster_dvc")
"""The default folder of logs, durations and results of checks."""


def write_json(path: Path, tree: Any) -> None:
    """Replace `path` in one step, so that no reader sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)


def read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`; an empty one where the file is missing or damaged."""
    if not path.is_file():  # to read from a FIFO would wait for a writer
        return {}
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}
