"""Broken servers and databases: each failure takes bounded time and gives one message."""

import shutil
import sqlite3
import time
from contextlib import closing
from pathlib import Path

import pytest

from seggen_core.cli import main
from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.follow import Follower, replay
from seggen_core.tracking.log import run_files
from seggen_core.tracking.target import resolve_target
from tests.project.test_storage import file_limit
from tests.tracking.conftest import runs_in
from tools.tracking_servers import BEHAVIOURS, DATABASES, MisbehavingServer

ROOT = Path(__file__).parents[2]
LIMIT = 2.0
"""What a call may take in these tests."""


def make_project(folder):
    """A project that has no database yet, unless the folder has one."""
    folder.mkdir(exist_ok=True)
    (folder / "params.yaml").write_text("profile: tiny\n")
    return ProjectPaths(folder)


@pytest.fixture(autouse=True)
def short_limit(monkeypatch, prepared):
    import mlflow  # noqa: F401 (which isn't what is timed)

    replay(prepared, RuntimeConfig())
    monkeypatch.setattr("seggen_core.tracking.mlflow_store.CALL_SECONDS", LIMIT)


@pytest.mark.parametrize("behave", list(BEHAVIOURS))
def test_a_server_that_misbehaves_costs_bounded_time_and_one_message(prepared, tracked, behave):
    for item in ("car", "bus", "sky"):
        with tracked("imgsyn", item=item) as run:
            run.log_metrics({"samples": 4})
    server = MisbehavingServer(BEHAVIOURS[behave])
    try:
        began = time.monotonic()
        report = replay(prepared, RuntimeConfig(tracking_uri=server.uri))
        assert time.monotonic() - began < LIMIT + 10, "one call is tried, not one for each run"
    finally:
        server.close()
    assert server.num_connections >= 1
    (reason,) = report.problems.values()
    assert reason and "s3cret" not in str(report) and "//***@127.0.0.1" in str(report)
    # Nothing is lost by it.
    assert replay(prepared, RuntimeConfig()).num_runs == 3


@pytest.mark.parametrize("behave", ["drips its body", "hangs"])
def test_a_server_that_stops_answering_midway_is_left_after_one_run(
    prepared, tracked, tracking_server, behave
):
    from mlflow.tracking import MlflowClient

    target = resolve_target(prepared, RuntimeConfig(tracking_uri=tracking_server.uri))
    follower = Follower(prepared, target)
    assert follower.send().problems == {}
    for item in ("car", "bus", "sky"):
        with tracked("imgsyn", item=item):
            pass
    server = MisbehavingServer(BEHAVIOURS[behave])
    client, follower._store._client = follower._store._client, MlflowClient(server.uri)
    try:
        began = time.monotonic()
        report = follower.send()
        assert time.monotonic() - began < LIMIT + 10
    finally:
        server.close()
    assert len(report.problems) == 1 and "no answer within 2 s" in str(report)
    follower._store._client = client
    assert follower.send().num_runs == 2, "the third one waits a little"


@pytest.mark.parametrize("damage", list(DATABASES))
def test_a_database_that_is_none_costs_bounded_time_and_one_message(prepared, tracked, damage):
    with tracked() as run:
        run.log_metrics({"loss": 1})
    database = prepared.root / "mlflow.db"
    DATABASES[damage](database)
    began = time.monotonic()
    report = replay(prepared, RuntimeConfig())
    assert time.monotonic() - began < 3 * LIMIT + 10
    (reason,) = report.problems.values()
    assert reason
    # The user puts it right, and everything arrives.
    database.rmdir() if database.is_dir() else database.unlink()
    assert len(run_files(prepared.metrics_log)) == 1


def test_an_empty_database_file_becomes_a_database(project, tracked, monkeypatch):
    monkeypatch.setattr("seggen_core.tracking.mlflow_store.CALL_SECONDS", 120)  # it makes tables
    paths = make_project(project.root / "fresh")
    with tracked(paths=paths):
        pass
    (paths.root / "mlflow.db").touch()
    assert replay(paths, RuntimeConfig()).problems == {}
    assert len(runs_in(paths)[1]) == 1


def test_a_locked_database_costs_bounded_time_and_is_used_once_it_is_free(prepared, tracked):
    with tracked():
        pass
    with closing(sqlite3.connect(prepared.root / "mlflow.db")) as database:
        database.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        report = replay(prepared, RuntimeConfig())
        assert time.monotonic() - began < 40
        assert "locked" in str(report) or "no answer within" in str(report)
        database.rollback()
    assert replay(prepared, RuntimeConfig()).problems == {}


@pytest.mark.parametrize("folder", [".", "fresh"])
def test_a_full_disk_is_one_message_and_exit_code_3(project, tracked, capsys, folder):
    """The fresh project has no database yet."""
    paths = make_project(project.root / folder)
    with tracked(paths=paths):
        pass
    shutil.copyfile(ROOT / "params.yaml", paths.root / "params.yaml")
    command = ["--params", str(paths.root / "params.yaml"), "track"]
    with file_limit(100_000):
        assert main(command) == 3
    message = capsys.readouterr().err
    assert message.count("could not send") == 1 and "disk" in message.partition("could not")[2]
    assert not list(paths.root.glob("mlflow.db.new*"))
    assert main(command) == 0
    assert len(runs_in(paths)[1]) == 1


@pytest.mark.parametrize(
    "uri",
    ["nonsense://x", "http://", "postgresql://u:pw@127.0.0.1:1/x", "http://u:pw@host.invalid"],
)
def test_an_address_that_cannot_be_is_said(prepared, tracked, uri):
    with tracked():
        pass
    report = replay(prepared, RuntimeConfig(tracking_uri=uri))
    assert len(report.problems) == 1 and "pw@" not in str(report)
