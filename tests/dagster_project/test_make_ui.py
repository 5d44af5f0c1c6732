"""`make ui` as a user sees it: two addresses, nothing else, and Ctrl-C ends both."""

import http.client
import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dagster_project.ui import is_free, main
from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking import track_stage
from tests.dagster_project.live import ROOT, free_port, wait_until


def statuses(port: int) -> list[str]:
    """The statuses of the runs that an MLflow server shows."""
    url = f"http://127.0.0.1:{port}/api/2.0/mlflow"
    with urllib.request.urlopen(f"{url}/experiments/search?max_results=10", timeout=30) as answer:
        ids = [e["experiment_id"] for e in json.load(answer)["experiments"]]
    request = urllib.request.Request(
        f"{url}/runs/search",
        data=json.dumps({"experiment_ids": ids}).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [run["info"]["status"] for run in json.load(answer).get("runs", [])]


def test_both_start_say_where_and_stop(project: Path) -> None:
    ports = {"Dagster": free_port(), "MLflow": free_port()}
    env = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    env |= {"SEGGEN_PROJECT": str(project), "PYTHONPATH": str(ROOT)}
    argv = ["--dagster-port", str(ports["Dagster"]), "--mlflow-port", str(ports["MLflow"])]
    argv += ["--origin", "http://tunnel:8080"]
    out, err = project / "out", project / "err"
    with out.open("wb") as stdout, err.open("wb") as stderr:
        command = [sys.executable, "-m", "dagster_project.ui", *argv]
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=stdout, stderr=stderr)
    try:
        wait_until(
            lambda: "Ctrl-C stops both." in out.read_text() or process.poll() is not None,
            seconds=400,
            what="both to start",
        )
        assert process.poll() is None, err.read_text()
        with urllib.request.urlopen(
            f"http://127.0.0.1:{ports['Dagster']}/server_info", timeout=30
        ) as answer:
            assert answer.status == 200
        for port in ports.values():
            assert status(port, host="tunnel:8080") == 200
            assert status(port, host="evil.example") == 403
        # What a stage writes is in MLflow's pages while it runs.
        paths = ProjectPaths(project)
        with track_stage(
            "captions", item=None, params={}, runtime=RuntimeConfig(), paths=paths
        ) as run:
            run.log_metrics({"coverage": 1.0})
            wait_until(
                lambda: statuses(ports["MLflow"]) == ["RUNNING"], seconds=120, what="the run"
            )
        wait_until(lambda: statuses(ports["MLflow"]) == ["FINISHED"], seconds=120, what="its end")
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
    said = out.read_text().splitlines()
    assert sorted(said[:2]) == [
        f"{name:<8} http://127.0.0.1:{port}" for name, port in ports.items()
    ]
    assert said[2:] == ["Ctrl-C stops both.", "", "Stopping."]
    assert err.read_text() == ""
    assert process.returncode == 0
    assert all(is_free(port) for port in ports.values())
    assert "enabled: false" in (project / ".seggen" / "dagster" / "dagster.yaml").read_text()


def status(port: int, *, host: str) -> int:
    """HTTP status of the first page, asked for under the name `host`."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/", headers={"Host": host})
    with connection.getresponse() as answer:
        return answer.status


def test_a_taken_port_is_said(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import socket

    monkeypatch.setenv("SEGGEN_PROJECT", str(project))
    handlers = {
        signum: signal.getsignal(signum)
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        try:
            assert main(["--dagster-port", str(port)]) == 2
        finally:
            for signum, handler in handlers.items():
                signal.signal(signum, handler)
    assert f"port {port} of 127.0.0.1 is taken" in capsys.readouterr().err
