"""Moves finished results to their places, and writes JSON."""

import json
import shutil
from pathlib import Path
from typing import Any


def publish(finished: Path, out: Path) -> Path:
    """Move a finished file or folder to `out`, replace an older one, and return `out`."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    finished.replace(out)
    return out


def write_json(path: Path, value: Any) -> None:
    """Write a JSON-ready value, readable by people; ValueError for NaN or an infinity."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
