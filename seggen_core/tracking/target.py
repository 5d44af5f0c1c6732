"""Chooses the MLflow store that the follower sends to, and words its errors. Imports no mlflow."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from seggen_core.config import RuntimeConfig
from seggen_core.project.digests import json_digest
from seggen_core.project.paths import ProjectPaths

DISK_ONLY = "disk"
"""The address that sends nothing: all events stay in the log."""


@dataclass(frozen=True)
class TrackingTarget:
    """An MLflow store.

    Attributes:
        root: project folder.
        uri: MLflow's tracking URI, with absolute SQLite paths; `DISK_ONLY` sends nothing.
        sqlite_file: file of an SQLite database; None for any other store.
    """

    root: Path
    uri: str
    sqlite_file: Path | None

    @property
    def label(self) -> str:
        """The address without credentials, for messages."""
        return redact(self.uri)

    @property
    def key(self) -> str:
        """Name of the store in the follower's notes; a moved project keeps it."""
        file = self.sqlite_file
        is_inside = file is not None and file.is_relative_to(self.root)
        return json_digest(str(file.relative_to(self.root)) if file and is_inside else self.label)

    @property
    def is_own(self) -> bool:
        """Whether this is mlflow.db in the project folder, which the follower may upgrade."""
        return self.sqlite_file == self.root / "mlflow.db"

    @property
    def artifact_root(self) -> str | None:
        """Folder of the artifacts if the store is a database; None for a server, which chooses."""
        is_database = self.uri.startswith(("sqlite:", "postgresql", "mysql", "mssql"))
        return (self.root / "mlruns").as_uri() if is_database else None


def resolve_target(paths: ProjectPaths, runtime: RuntimeConfig) -> TrackingTarget:
    """Return the store: MLFLOW_TRACKING_URI, else `runtime.tracking_uri`, else mlflow.db here."""
    root = paths.root.resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or runtime.tracking_uri or "sqlite:///mlflow.db"
    sqlite_file = None
    if uri.startswith("sqlite:///"):
        path, mark, query = uri.removeprefix("sqlite:///").partition("?")
        sqlite_file = (root / path).resolve()
        uri = f"sqlite:///{sqlite_file}{mark}{query}"
    return TrackingTarget(root, uri, sqlite_file)


def redact(text: str) -> str:
    """Return `text` with user names, passwords and query strings of addresses in it masked."""
    text = re.sub(r"(?<=://)[^/\s]*@", "***@", text)
    return re.sub(r"(://[^\s?]*)\?[^\s'\"]*", r"\1?***", text)


def describe(error: BaseException) -> str:
    """Return the innermost cause of `error` on one line, without credentials."""
    while inner := error.__cause__ or (not error.__suppress_context__ and error.__context__):
        error = inner
    text = " ".join(str(error).split()) or type(error).__name__
    return redact(text if len(text) <= 240 else text[:237] + "...")
