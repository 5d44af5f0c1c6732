import multiprocessing
import os
import shutil
import socket
import warnings
from wsgiref.simple_server import WSGIRequestHandler, make_server

import pytest

from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking import track_stage
from seggen_core.tracking.follow import replay


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """No address or run of the caller's; MLflow itself stays off the network."""
    for name in (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_RUN_ID",
        "DAGSTER_RUN_ID",
        "DVC_EXP_NAME",
        "MLFLOW_HTTP_REQUEST_TIMEOUT",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture
def project(tmp_path):
    (tmp_path / "params.yaml").write_text("profile: tiny\n")
    return ProjectPaths(tmp_path)


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """A database that holds nothing, made once: each making costs seconds."""
    root = tmp_path_factory.mktemp("template")
    report = replay(ProjectPaths(root), RuntimeConfig())
    assert not report.problems
    return root / "mlflow.db"


@pytest.fixture
def prepared(project, empty_database):
    """A project whose database exists."""
    shutil.copyfile(empty_database, project.root / "mlflow.db")
    return project


@pytest.fixture
def tracked(project):
    """Runs a stage of the project."""

    def run(stage="text2mask", *, item=None, paths=project, **params):
        return track_stage(stage, item=item, params=params, runtime=RuntimeConfig(), paths=paths)

    return run


def runs_in(paths, uri=None, experiment="seggen/tiny/stages"):
    """A client of a store and the runs there, newest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(uri or f"sqlite:///{paths.root}/mlflow.db")
    known = client.get_experiment_by_name(experiment)
    return client, list(client.search_runs([known.experiment_id])) if known else []


class TrackingServer:
    """A real MLflow server on a loopback port, forked; it can be killed and started again."""

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
    with warnings.catch_warnings(action="ignore"):
        from mlflow.server import app

    server = TrackingServer(tmp_path, app)
    server.start()
    yield server
    server.kill()
