"""Follows a project that was moved or copied: corrects the places of artifacts in its mlflow.db.

MLflow writes an absolute place of artifacts into every row, and its interface can change none of
them. So the follower replaces the old folder by the present one, in the project's own database
only. It imports no MLflow.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

_COLUMNS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Columns of MLflow's tables that hold places of artifacts."""


def relocate(database: Path, *, folder: Path) -> int:
    """Let all artifacts of a database that lay in another folder `mlruns` lie in `folder`.

    Args:
        database: an SQLite database of MLflow.
        folder: the folder mlruns of the project, where it is now.

    Returns:
        The number of changed rows; 0 if nothing was moved.
    """
    present = folder.as_uri()
    num_changed = 0
    with closing(sqlite3.connect(f"{database.as_uri()}?mode=rw", uri=True, timeout=20)) as opened:
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'experiments'"
        if not opened.execute(tables).fetchall():  # an empty file, which MLflow fills
            return 0
        rows = opened.execute("SELECT DISTINCT artifact_location FROM experiments").fetchall()
        earlier = {
            place
            for (place,) in rows
            if place
            and place.startswith("file:")
            and place.endswith(f"/{folder.name}")
            and place != present
        }
        if not earlier:
            return 0
        with opened:
            for place in sorted(earlier):
                for table, column in _COLUMNS:
                    num_changed += _replace(opened, table, column, old=place, new=present)
    return num_changed


def _replace(database: sqlite3.Connection, table: str, column: str, *, old: str, new: str) -> int:
    """Replace the beginning of a column's values; return the number of changed rows."""
    known = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
    if column not in known:  # another version of MLflow
        return 0
    # The names are those of _COLUMNS; only values are a user's.
    query = (
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608
        f"WHERE {column} = ? OR substr({column}, 1, ?) = ?"
    )
    values = (new, len(old) + 1, old, len(old) + 1, f"{old}/")
    return database.execute(query, values).rowcount
