"""Where runs are tracked: the address and experiment, found without importing mlflow."""

import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from seggen_core.config import RuntimeConfig
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths

if TYPE_CHECKING:
    from seggen_core.tracking.mlflow_store import MlflowStore

DISK_ONLY = "disk"
"""The address that sends nothing: everything stays in the metrics log until `replay`."""


def redact(text: str) -> str:
    """Return `text` with user names, passwords and query strings of addresses in it masked."""
    text = re.sub(r"(?<=://)[^/\s]*@", "***@", text)
    return re.sub(r"(://[^\s?]*)\?[^\s'\"]*", r"\1?***", text)


@dataclass(frozen=True)
class TrackingTarget:
    """An MLflow store and the experiment in it.

    Attributes:
        root: project folder.
        uri: as MLflow takes it; SQLite paths are absolute. `DISK_ONLY` for none.
        experiment: name of the experiment.
        sqlite_file: file of an SQLite database, None for anything else.
    """

    root: Path
    uri: str
    experiment: str
    sqlite_file: Path | None

    @property
    def label(self) -> str:
        """The address without credentials, for people and for the metrics log."""
        return redact(self.uri)

    @property
    def is_database(self) -> bool:
        """Whether this process writes to the store itself; a server does it for its clients."""
        return self.uri.startswith(("sqlite:", "postgresql", "mysql", "mssql"))

    @property
    def is_own(self) -> bool:
        """Whether it is the project's own database, whose schema is upgraded when MLflow asks for it."""
        return self.sqlite_file == self.root / "mlflow.db"

    @property
    def artifact_root(self) -> Path:
        """Where artifacts go when the store is a database; a server has its own place."""
        return self.root / "mlruns"


def resolve_target(paths: ProjectPaths, runtime: RuntimeConfig) -> TrackingTarget:
    """Return where runs go: MLFLOW_TRACKING_URI, else `runtime.tracking_uri`, else mlflow.db in the project folder."""
    root = paths.root.resolve()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or runtime.tracking_uri or "sqlite:///mlflow.db"
    sqlite_file = None
    if uri.startswith("sqlite:///"):
        path, mark, query = uri.removeprefix("sqlite:///").partition("?")
        sqlite_file = (root / path).resolve()
        uri = f"sqlite:///{sqlite_file}{mark}{query}"
    experiment = os.environ.get("MLFLOW_EXPERIMENT_NAME") or _default_experiment(
        root / "params.yaml"
    )
    return TrackingTarget(root, uri, experiment, sqlite_file)


def import_mlflow_store() -> "type[MlflowStore]":
    """Import MLflow with its telemetry off (2.5 s of CPU, 4 s where a database is opened)."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ["DO_NOT_TRACK"] = "true"
    with warnings.catch_warnings(
        action="ignore"
    ):  # MLflow's own use of what SQLAlchemy deprecates is not ours to tell
        from seggen_core.tracking.mlflow_store import MlflowStore

    return MlflowStore


def prepare_tracking(paths: ProjectPaths, runtime: RuntimeConfig) -> None:
    """Create or upgrade the project's tracking database and its experiment; a server is left as it is.

    Call it once in set-up, before stages run side by side; several processes may call it at the
    same time.

    Raises:
        ConfigError: the database can't be opened; the message says why.
    """
    target = resolve_target(paths, runtime)
    if not target.is_database:
        return
    try:
        import_mlflow_store()(target)
    except Exception as error:
        raise ConfigError(
            f"tracking database {target.label} can't be used: {describe(error)}"
        ) from error


def describe(error: BaseException) -> str:
    """Return the innermost reason of `error` on one line, without credentials."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    text = " ".join(str(error).split()) or type(error).__name__
    return redact(text if len(text) <= 240 else text[:237] + "...")


def _default_experiment(params: Path) -> str:
    try:
        tree = yaml.safe_load(params.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        tree = None
    profile = tree.get("profile") if isinstance(tree, dict) else None
    return f"seggen/{profile}" if profile else "seggen"
