"""Broken servers and databases: each failure takes bounded time and gives one message."""

import contextlib
import os
import socket
import sqlite3
import struct
import threading
import time
from contextlib import closing

import pytest

from seggen_core.config import RuntimeConfig
from seggen_core.tracking.follow import Follower, replay
from seggen_core.tracking.log import run_files
from seggen_core.tracking.target import resolve_target
from tests.tracking.conftest import runs_in

LIMIT = 2.0
"""What a call may take in these tests."""

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"


class MisbehavingServer:
    """Accepts connections, reads what comes, and hands each to `behave`."""

    def __init__(self, behave):
        self._behave = behave
        self.is_closed = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://user:s3cret@127.0.0.1:{self._socket.getsockname()[1]}"
        self.num_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while not self.is_closed.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._socket.accept()
                self.num_connections += 1
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection):
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            self._behave(self, connection)

    def close(self):
        self.is_closed.set()
        self._socket.close()


def drip(server, connection, data):
    """Send a byte every 50 ms: MLflow's own timeout, which runs from byte to byte, never ends."""
    for byte in data:
        if server.is_closed.wait(0.05):
            return
        connection.sendall(bytes([byte]))


def drip_header(server, connection):
    drip(server, connection, b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 10_000)


def drip_body(server, connection):
    connection.sendall(ANSWER)
    drip(server, connection, b" " * 100_000)


def hang(server, connection):
    server.is_closed.wait()


def fail(server, connection):
    connection.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\nConnection: close\r\n\r\nuser")


def reset(server, connection):
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def be_something_else(server, connection):
    page = b"<html>a router's page</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: "
    connection.sendall(head + b"%d\r\n\r\n" % len(page) + page)


def end_early(server, connection):
    connection.sendall(ANSWER + b"{")


@pytest.fixture(autouse=True)
def short_limit(monkeypatch, prepared):
    import mlflow  # noqa: F401 (which isn't what is timed)

    replay(prepared, RuntimeConfig())
    monkeypatch.setattr("seggen_core.tracking.mlflow_store.CALL_SECONDS", LIMIT)


@pytest.mark.parametrize(
    "behave", [drip_header, drip_body, hang, fail, reset, be_something_else, end_early]
)
def test_a_server_that_misbehaves_costs_bounded_time_and_one_message(prepared, tracked, behave):
    for item in ("car", "bus", "sky"):
        with tracked("imgsyn", item=item) as run:
            run.log_metrics({"samples": 4})
    server = MisbehavingServer(behave)
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


@pytest.mark.parametrize("behave", [drip_body, hang])
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
    server = MisbehavingServer(behave)
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


def folder(path):
    path.mkdir()


def garbage(path):
    path.write_bytes(bytes(range(256)) * 100)


def half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def fifo(path):
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [folder, garbage, half, fifo])
def test_a_database_that_is_none_costs_bounded_time_and_one_message(prepared, tracked, damage):
    with tracked() as run:
        run.log_metrics({"loss": 1})
    database = prepared.root / "mlflow.db"
    if damage is not half:
        database.unlink()
    damage(database)
    began = time.monotonic()
    report = replay(prepared, RuntimeConfig())
    assert time.monotonic() - began < 3 * LIMIT + 10
    (reason,) = report.problems.values()
    assert reason
    # The user puts it right, and everything arrives.
    database.rmdir() if damage is folder else database.unlink()
    assert len(run_files(prepared.metrics_log)) == 1


def test_an_empty_database_file_becomes_a_database(project, tracked):
    with tracked():
        pass
    (project.root / "mlflow.db").touch()
    assert replay(project, RuntimeConfig()).problems == {}
    assert len(runs_in(project)[1]) == 1


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


@pytest.mark.parametrize(
    "uri",
    ["nonsense://x", "http://", "postgresql://u:pw@127.0.0.1:1/x", "http://u:pw@host.invalid"],
)
def test_an_address_that_cannot_be_is_said(prepared, tracked, uri):
    with tracked():
        pass
    report = replay(prepared, RuntimeConfig(tracking_uri=uri))
    assert len(report.problems) == 1 and "pw@" not in str(report)
