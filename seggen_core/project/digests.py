"""Digests by which results and their inputs are recognised."""

import hashlib
import json
from pathlib import Path
from typing import Any


def json_digest(value: Any, *, length: int = 16) -> str:
    """Return the first `length` hexadecimal digits of the SHA-256 of a JSON-ready value."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:length]


def content_digest(path: Path) -> str:
    """Return an md5 of a file's bytes, a sample store's manifest and index, or a folder's files.

    For a file it equals DVC's md5. Raises FileNotFoundError where there is nothing.
    """
    if path.is_file():
        with path.open("rb") as handle:
            return hashlib.file_digest(
                handle, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
    manifest = path / "manifest.json"
    members = [manifest, path / "index.parquet"] if manifest.is_file() else sorted(path.iterdir())
    lines = [f"{m.name} {content_digest(m)}\n" for m in members if m.exists()]
    return hashlib.md5("".join(lines).encode(), usedforsecurity=False).hexdigest()
