import multiprocessing
import shutil
import sqlite3
import warnings
from contextlib import closing

from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.follow import replay
from seggen_core.tracking.target import describe, redact, resolve_target


def test_where_runs_go(project, monkeypatch):
    local = resolve_target(project, RuntimeConfig())
    assert local.uri == f"sqlite:///{project.root}/mlflow.db" and local.is_own
    assert local.artifact_root == (project.root / "mlruns").as_uri()
    relative = resolve_target(project, RuntimeConfig(tracking_uri="sqlite:///runs/a.db"))
    assert relative.uri == f"sqlite:///{project.root}/runs/a.db" and not relative.is_own
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:pw@host/x?token=1")
    server = resolve_target(project, RuntimeConfig(tracking_uri="sqlite:///a.db"))
    assert server.uri == "https://me:pw@host/x?token=1" and server.label == "https://***@host/x?***"
    assert server.artifact_root is None and server.sqlite_file is None
    assert len({local.key, relative.key, server.key}) == 3


def test_a_database_in_the_project_keeps_its_key_when_the_project_moves(tmp_path):
    here, there = (ProjectPaths(tmp_path / name) for name in ("here", "there"))
    runtime = RuntimeConfig()
    assert resolve_target(here, runtime).key == resolve_target(there, runtime).key
    elsewhere = RuntimeConfig(tracking_uri=f"sqlite:///{tmp_path}/x.db")
    assert resolve_target(here, elsewhere).key == resolve_target(there, elsewhere).key
    assert resolve_target(here, runtime).key != resolve_target(here, elsewhere).key


def test_credentials_never_get_into_a_message():
    text = redact("API request to http://u:p@h:1/api?key=k failed; postgresql://a:b@db/x")
    assert text == "API request to http://***@h:1/api?*** failed; postgresql://***@db/x"
    outer = RuntimeError("outer")
    outer.__cause__ = ConnectionError("refused by http://u:p@h")
    assert describe(outer) == "refused by http://***@h"
    hidden = TimeoutError("no answer")
    hidden.__context__, hidden.__suppress_context__ = KeyError("inner"), True
    assert describe(hidden) == "no answer"


def _replay(root, barrier):
    barrier.wait()
    report = replay(ProjectPaths(root), RuntimeConfig())
    assert not report.problems, report


def test_eight_processes_may_meet_a_fresh_database_at_once(tmp_path):
    import mlflow  # noqa: F401 (the children inherit it: 2 s of CPU each)

    root = tmp_path / "a folder, 100%"
    root.mkdir()
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(8)
    processes = [context.Process(target=_replay, args=(root, barrier)) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [p.exitcode for p in processes] == [0] * 8
    assert not (root / "mlflow.db.new").exists()
    with closing(sqlite3.connect(root / "mlflow.db")) as database:
        assert database.execute("select name from experiments").fetchall() == [("Default",)]


def test_a_database_that_was_left_half_made_is_made_again(project):
    (project.root / "mlflow.db.new").write_bytes(b"half of a database")
    assert replay(project, RuntimeConfig()).problems == {}
    assert (project.root / "mlflow.db").is_file()


def test_the_projects_own_outdated_database_is_migrated_and_a_foreign_one_is_not(
    prepared, monkeypatch
):
    from alembic import command
    from mlflow.store.db import utils as db

    # As with a version that changed columns only: where tables are missing, MLflow migrates by
    # itself.
    monkeypatch.setattr(db, "_all_tables_exist", lambda engine: True)
    inside, foreign = prepared.root / "mlflow.db", prepared.root / "foreign.db"
    config = db._get_alembic_config(f"sqlite:///{inside}")
    with warnings.catch_warnings(action="ignore"):
        command.downgrade(config, "-1")
    shutil.copyfile(inside, foreign)
    old = _schema_version(inside)
    assert replay(prepared, RuntimeConfig()).problems == {}
    assert _schema_version(inside) == db._get_latest_schema_revision() != old
    report = replay(prepared, RuntimeConfig(tracking_uri="sqlite:///foreign.db"))
    assert "mlflow db upgrade" in str(report)
    assert _schema_version(foreign) == old


def _schema_version(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("select version_num from alembic_version").fetchone()[0]
