import multiprocessing
import os
import shutil
import socket
import sqlite3
import warnings
from contextlib import closing
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking.target import import_mlflow_store, prepare_tracking


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No address or run of the caller's; MLflow itself stays off the network."""
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_RUN_ID",
        "DAGSTER_RUN_ID",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def project(tmp_path):
    (tmp_path / "params.yaml").write_text("profile: tiny\n")
    return ProjectPaths(tmp_path)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A migrated database without experiments of ours, made once: each making costs a second and some forty fsyncs."""
    root = tmp_path_factory.mktemp("template")
    prepare_tracking(ProjectPaths(root), RuntimeConfig())
    with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
        database.execute("delete from experiments where name != 'Default'")
    return root / "mlflow.db"


@pytest.fixture
def prepared(project, empty_database):
    """A project whose database exists."""
    shutil.copyfile(empty_database, project.root / "mlflow.db")
    return project


class TrackingServer:
    """A real MLflow server on a loopback port, forked, that can be killed and started again on the same port."""

    def __init__(self, folder, app):
        self._folder, self._app = folder, app
        self._process = None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.uri = f"http://127.0.0.1:{free.getsockname()[1]}"

    def start(self):
        context = multiprocessing.get_context("fork")
        listening = context.Event()
        self._process = context.Process(target=self._serve, args=(listening,), daemon=True)
        self._process.start()
        assert listening.wait(30)

    def kill(self):
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None

    def _serve(self, listening):
        os.environ |= {
            "_MLFLOW_SERVER_FILE_STORE": f"sqlite:///{self._folder}/server.db",
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(self._folder / "server_artifacts"),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        }
        warnings.simplefilter("ignore")
        WSGIRequestHandler.log_message = lambda *_: None
        with make_server("127.0.0.1", int(self.uri.rpartition(":")[2]), self._app) as server:
            listening.set()
            server.serve_forever()


@pytest.fixture
def tracking_server(tmp_path, empty_database):
    shutil.copyfile(empty_database, tmp_path / "server.db")
    import_mlflow_store()
    with warnings.catch_warnings(action="ignore"):
        from mlflow.server import app

    server = TrackingServer(tmp_path, app)
    server.start()
    yield server
    server.kill()
