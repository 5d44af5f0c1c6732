"""Moves finished results to their places, writes and reads JSON."""

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable


def publish(finished: Path, out: Path) -> Path:
    """Move a finished file or folder to `out`, replace an older one, and return `out`."""
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    finished.replace(out)
    return out


def write_json(path: Path, value: Any) -> None:
    """Write a JSON-ready value, readable by people; ValueError for NaN or an infinity."""
    path.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: "Path | Traversable") -> Any:
    """Read a JSON file in UTF-8; ValueError for a file that is no JSON."""
    return json.loads(path.read_text(encoding="utf-8"))
