import multiprocessing
import shutil
import sqlite3
import warnings
from contextlib import closing

import pytest

from seggen_core.config import RuntimeConfig
from seggen_core.errors import ConfigError
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.target import (
    describe,
    import_mlflow_store,
    prepare_tracking,
    redact,
    resolve_target,
)


def test_where_runs_go(project, monkeypatch):
    own = resolve_target(project, RuntimeConfig())
    assert (
        own.uri == f"sqlite:///{project.root}/mlflow.db"
        and own.is_own
        and own.experiment == "seggen/tiny"
    )
    relative = resolve_target(project, RuntimeConfig(tracking_uri="sqlite:///runs/a.db"))
    assert (
        relative.uri == f"sqlite:///{project.root}/runs/a.db"
        and relative.is_database
        and not relative.is_own
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:pw@host/x?token=1")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    server = resolve_target(project, RuntimeConfig(tracking_uri="sqlite:///a.db"))
    assert server.uri == "https://me:pw@host/x?token=1" and server.label == "https://***@host/x?***"
    assert not server.is_database and server.experiment == "mine"


def test_credentials_never_get_into_a_message():
    text = redact("API request to http://u:p@h:1/api?key=k failed; postgresql://a:b@db/x")
    assert text == "API request to http://***@h:1/api?*** failed; postgresql://***@db/x"
    outer = RuntimeError("outer")
    outer.__cause__ = ConnectionError("refused by http://u:p@h")
    assert describe(outer) == "refused by http://***@h"


def _prepare(root, barrier):
    barrier.wait()
    prepare_tracking(ProjectPaths(root), RuntimeConfig())


def test_four_processes_may_prepare_a_fresh_database_at_once(tmp_path):
    import_mlflow_store()  # the children inherit it: 4 s of CPU each
    root = tmp_path / "a folder, 100%"
    root.mkdir()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    processes = [context.Process(target=_prepare, args=(root, barrier)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [p.exitcode for p in processes] == [0] * 4
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        names = sorted(name for (name,) in database.execute("select name from experiments"))
    assert names == ["Default", "seggen"]


def test_the_projects_own_outdated_database_is_migrated_and_a_foreign_one_is_not(
    prepared, monkeypatch
):
    from alembic import command
    from mlflow.store.db import utils as db

    # As with a version that changed columns only: where tables are missing, MLflow migrates by
    # itself.
    monkeypatch.setattr(db, "_all_tables_exist", lambda engine: True)
    own, foreign = prepared.root / "mlflow.db", prepared.root / "foreign.db"
    config = db._get_alembic_config(f"sqlite:///{own}")
    with warnings.catch_warnings(action="ignore"):
        command.downgrade(config, "-1")
    shutil.copyfile(own, foreign)
    old = _schema_version(own)
    prepare_tracking(prepared, RuntimeConfig())
    assert _schema_version(own) == db._get_latest_schema_revision() != old
    with pytest.raises(ConfigError, match="mlflow db upgrade"):
        prepare_tracking(prepared, RuntimeConfig(tracking_uri="sqlite:///foreign.db"))
    assert _schema_version(foreign) == old


def _schema_version(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("select version_num from alembic_version").fetchone()[0]
