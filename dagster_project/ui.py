"""`make ui`: Dagster and MLflow side by side on this machine, both ended by Ctrl-C.

What they print goes to .seggen/ui/; only their addresses, or why one of them can't run, are shown.
Dagster keeps its event log and settings in .seggen/dagster, telemetry off. Both listen on a
loopback address and answer their own pages alone (`dagster_project.own_origin`); Dagster's code
server listens on a socket that only this user may open.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NoReturn
from urllib.error import URLError

from dagster_project.resources import MLFLOW_UI_VARIABLE, PROJECT_VARIABLE, project_root

HOST = "127.0.0.1"
START_SECONDS = 180.0
STOP_SECONDS = 30.0
EXIT_FAILED, EXIT_USAGE = 1, 2

SETTINGS = """\
# Settings of the Dagster instance that `make ui` starts; made once, then yours.
telemetry:
  enabled: false
# No invitation to sign up for anything.
nux:
  enabled: false
concurrency:
  runs:
    max_concurrent_runs: {runs}
  pools:
    # Stages that name the same pool in dvc.yaml (meta.dagster.pool) share this many slots.
    default_limit: {slots}
run_monitoring:
  enabled: true
  # Starting a run is seconds of CPU: eight at once on a busy laptop take minutes.
  start_timeout_seconds: 900
"""

CANCEL = """mutation Cancel($ids: [String!]!) { terminateRuns(runIds: $ids) { __typename } }"""
ACTIVE = "query Active { runsOrError(filter: {statuses: [STARTING, STARTED]}) { ... on Runs { results { runId } } } }"


class StartError(Exception):
    """A service can't be started; the message says why."""


class Service:
    """A server in a process group of its own, with its output in a file.

    Args:
        name: for people.
        argv: the command, without the Python that runs it.
        page: a page of it, to see whether it answers; None for one without pages.
        env: its environment.
        log: gets its output.
    """

    def __init__(
        self,
        name: str,
        *,
        argv: list[str],
        page: str | None = None,
        env: Mapping[str, str],
        log: Path,
    ) -> None:
        """Start it."""
        self.name = name
        self.page = page
        self._log = log
        self._output: IO[bytes] = log.open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-m", *argv],
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            start_new_session=True,
        )

    @property
    def address(self) -> str:
        """Where its pages are."""
        return (self.page or "").rpartition("/")[0]

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process.poll() is None

    def answers(self) -> bool:
        """Whether it serves pages."""
        try:
            with urllib.request.urlopen(self.page or "", timeout=5) as response:  # noqa: S310 (our own address)
                return bool(response.status == 200)
        except (URLError, OSError):
            return False

    def interrupt(self) -> None:
        """Ask it to end."""
        if self.is_alive:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait until it has ended, `STOP_SECONDS` at most, then end what is left of its process group."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()

    def tail(self) -> str:
        """The last lines of its output, and where the rest is."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        return "\n".join(f"    {line}" for line in lines) + f"\nAll of it: {self._log}"


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m dagster_project.ui", description=__doc__)
    parser.add_argument("--dagster-port", type=int, default=3000, help="default: %(default)s")
    parser.add_argument("--mlflow-port", type=int, default=5000, help="default: %(default)s")
    parser.add_argument(
        "--runs",
        type=int,
        default=8,
        help="Dagster runs at a time, when the settings are made (default: 8)",
    )
    parser.add_argument(
        "--gpu-slots",
        type=int,
        default=1,
        help="stages of one pool at a time, likewise (default: 1)",
    )
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        help="another address that browsers find one of them at, such as http://localhost:8080 through a tunnel; once for each",
    )
    args = parser.parse_args(argv)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Also where a script's background job would ignore SIGINT: the services would inherit that.
        signal.signal(number, _interrupt)
    root = project_root()
    for name, port in (("Dagster", args.dagster_port), ("MLflow", args.mlflow_port)):
        if not is_free(port):
            option = f"{name.upper()}_PORT"
            print(
                f"error: port {port} of {HOST} is taken; choose another for {name}: make ui {option}=...",
                file=sys.stderr,
            )
            return EXIT_USAGE
    services: list[Service] = []
    # Only this user may enter it; not in the project, since the paths of sockets have to be short.
    sockets = tempfile.TemporaryDirectory(prefix="seggen-ui-")
    try:
        start(
            services,
            root,
            sockets=Path(sockets.name),
            dagster_port=args.dagster_port,
            mlflow_port=args.mlflow_port,
            runs=args.runs,
            slots=args.gpu_slots,
            origins=args.origin,
        )
        return watch(services)
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nStopping.", flush=True)
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)  # it ends by itself now
        stop(services)
        sockets.cleanup()


def start(
    services: list[Service],
    root: Path,
    *,
    sockets: Path,
    dagster_port: int,
    mlflow_port: int,
    runs: int,
    slots: int,
    origins: Sequence[str],
) -> None:
    """Start Dagster, and MLflow unless MLFLOW_TRACKING_URI names a server that runs already.

    Args:
        services: gets each as it is started, so that all that run can be ended whatever happens.
        root: the project folder.
        sockets: folder for what Dagster's processes talk through.
        dagster_port, mlflow_port: where their pages are.
        runs, slots: for Dagster's settings, where there are none yet.
        origins: other addresses that browsers find them at.

    Raises:
        StartError: the tracking database can't be made, or the code server doesn't start.
    """
    logs, home = root / ".seggen" / "ui", root / ".seggen" / "dagster"
    for folder in (logs, home):
        folder.mkdir(parents=True, exist_ok=True)
    if not (home / "dagster.yaml").exists():
        (home / "dagster.yaml").write_text(
            SETTINGS.format(runs=runs, slots=slots), encoding="utf-8"
        )
    env = os.environ | {
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "DAGSTER_HOME": str(home),
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        PROJECT_VARIABLE: str(root),
        "PYTHONUNBUFFERED": "1",
    }
    also = [argument for origin in origins for argument in ("--origin", origin)]
    server = os.environ.get("MLFLOW_TRACKING_URI", "")
    if server.startswith("http"):
        env[MLFLOW_UI_VARIABLE] = server
        print(f"MLflow   {server}", flush=True)
    else:
        env[MLFLOW_UI_VARIABLE] = f"http://{HOST}:{mlflow_port}"
        # The database is made once: servers and stages that meet a fresh one side by side fail.
        command = [sys.executable, "-m", "seggen_core", "track"]
        done = subprocess.run(
            command, cwd=root, env=env, check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise StartError(f"MLflow's database can't be made:\n{done.stderr.strip()}")
        store = [
            "--backend-store-uri",
            f"sqlite:///{root / 'mlflow.db'}",
            "--default-artifact-root",
            (root / "mlruns").as_uri(),
        ]
        argv = ["dagster_project.serve", "mlflow", *store, "--port", str(mlflow_port), *also]
        page = f"http://{HOST}:{mlflow_port}/health"
        services.append(Service("MLflow", argv=argv, page=page, env=env, log=logs / "mlflow.log"))
    # Stages only write to the disk; this sends it. It ends after Dagster, whose runs it sends.
    argv = ["seggen_core", "--params", str(root / "params.yaml"), "track", "--follow"]
    services.append(Service("Follower", argv=argv, env=env, log=logs / "follower.log"))
    socket_path, workspace = sockets / "code.sock", sockets / "workspace.yaml"
    grpc_server = {
        "host": "localhost",
        "socket": str(socket_path),
        "location_name": "dagster_project.definitions",
    }
    workspace.write_text(
        json.dumps({"load_from": [{"grpc_server": grpc_server}]}), encoding="utf-8"
    )
    argv = [
        "dagster",
        "code-server",
        "start",
        "--socket",
        str(socket_path),
        "--use-python-environment-entry-point",
    ]
    argv += ["--module-name", "dagster_project.definitions", "--working-directory", str(root)]
    code = Service("Dagster's code server", argv=argv, env=env, log=logs / "dagster_code.log")
    services.append(code)
    wait_for_socket(code, socket_path)
    argv = [
        "dagster_project.serve",
        "dagster",
        "--workspace",
        str(workspace),
        "--port",
        str(dagster_port),
        *also,
    ]
    page = f"http://{HOST}:{dagster_port}/server_info"
    services.append(Service("Dagster", argv=argv, page=page, env=env, log=logs / "dagster.log"))
    argv = ["dagster._daemon", "run", "--workspace", str(workspace)]
    services.append(
        Service("Dagster's daemon", argv=argv, env=env, log=logs / "dagster_daemon.log")
    )


def wait_for_socket(service: Service, path: Path) -> None:
    """Wait until a service listens on a socket.

    Raises:
        StartError: it has ended, or takes too long.
    """
    deadline = time.monotonic() + START_SECONDS
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                return
        if not service.is_alive or time.monotonic() > deadline:
            raise StartError(f"{service.name} doesn't start; its last lines were\n{service.tail()}")
        time.sleep(0.2)


def watch(services: list[Service]) -> int:
    """Say where each service is as soon as it answers; return when one has ended by itself."""
    waiting, deadline = (
        [service for service in services if service.page],
        time.monotonic() + START_SECONDS,
    )
    while True:
        for service in services:
            if not service.is_alive:
                print(
                    f"error: {service.name} has ended; its last lines were\n{service.tail()}",
                    file=sys.stderr,
                )
                return EXIT_FAILED
        for service in [service for service in waiting if service.answers()]:
            waiting.remove(service)
            print(f"{service.name:<8} {service.address}", flush=True)
            if not waiting:
                print("Ctrl-C stops both.", flush=True)
        if waiting and time.monotonic() > deadline:
            print(
                f"error: {waiting[0].name} doesn't answer; its last lines were\n{waiting[0].tail()}",
                file=sys.stderr,
            )
            return EXIT_FAILED
        time.sleep(0.5 if waiting else 2.0)


def stop(services: list[Service]) -> None:
    """End all services; Dagster's runs are cancelled first, so that no stage goes on unseen."""
    for service in services:
        if service.name == "Dagster" and service.is_alive:
            with suppress(URLError, OSError, KeyError, ValueError):
                cancel_runs(service.address)
    for service in services:
        service.interrupt()
    for service in services:
        service.wait()


def cancel_runs(address: str) -> None:
    """Cancel all active runs of a Dagster server and wait until they have ended, `STOP_SECONDS` at most."""

    def active() -> list[str]:
        return [run["runId"] for run in ask(address, ACTIVE)["runsOrError"]["results"]]

    if not (ids := active()):
        return
    print(f"cancelling {len(ids)} run(s)", flush=True)
    ask(address, CANCEL, ids=ids)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline and active():
        time.sleep(0.5)


def ask(address: str, query: str, **variables: Any) -> Any:
    """Put a GraphQL query to a Dagster server and return the data of its answer."""
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(  # noqa: S310 (our own address)
        f"{address}/graphql", data=body, headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as response:  # noqa: S310 (our own address)
        return json.load(response)["data"]


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
