"""`make ui`: Dagster and MLflow side by side on this machine, both ended by Ctrl-C.

What they print goes to .seggen/ui/; only their addresses, or why one of them can't run, are shown.
Dagster keeps its event log and settings in .seggen/dagster, telemetry off. Both listen on a
loopback address and answer their own pages alone (`dagster_project.own_origin`); Dagster's code
server listens on a socket that only this user may open. Stages only write to the disk what they
track; a follower sends it to MLflow.
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn
from urllib.error import URLError

from dagster_project.home import RUNS, SLOTS, make_home
from dagster_project.resources import (
    MLFLOW_UI_VARIABLE,
    PROJECT_VARIABLE,
    STATE_FOLDER,
    project_root,
)
from dagster_project.service import Service, StartError, cancel_runs

HOST = "127.0.0.1"
EXIT_FAILED, EXIT_USAGE = 1, 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass
class Ui:
    """Starts and ends all servers."""

    root: Path
    """The project folder."""
    dagster_port: int
    """Where Dagster's page is."""
    mlflow_port: int
    """Where MLflow's page is."""
    origins: list[str]
    """Other addresses that browsers find them at."""
    services: list[Service] = field(default_factory=list)
    """Those that run."""

    def __post_init__(self) -> None:
        """Make the environment of all servers, and a folder for their sockets."""
        self._env = os.environ | {
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "DO_NOT_TRACK": "true",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            PROJECT_VARIABLE: str(self.root),
            "PYTHONUNBUFFERED": "1",
        }
        # Only this user may enter it; not in the project, since paths of sockets have to be short.
        self._sockets = tempfile.TemporaryDirectory(prefix="seggen-ui-")

    def start(self) -> None:
        """Start all servers; MLflow's unless MLFLOW_TRACKING_URI names one that runs already.

        Raises:
            StartError: the tracking database can't be made, or the code server doesn't start.
        """
        params = str(self.root / "params.yaml")
        track = ["seggen_core", "--params", params, "track"]
        server = os.environ.get("MLFLOW_TRACKING_URI", "")
        if server.startswith("http"):
            self._env[MLFLOW_UI_VARIABLE] = server
            print(f"MLflow   {server}", flush=True)
        else:
            self._env[MLFLOW_UI_VARIABLE] = f"http://{HOST}:{self.mlflow_port}"
            self._start_mlflow(track)
        self._add("Follower", *track, "--follow")
        self._start_dagster()

    def watch(self) -> NoReturn:
        """Say where each server is as soon as it answers, until Ctrl-C.

        Raises:
            StartError: one has ended by itself, or doesn't answer.
        """
        started = time.monotonic()
        waiting = [service for service in self.services if service.address]
        while True:
            for service in self.services:
                service.check(since=started if service in waiting else None)
            for service in [service for service in waiting if service.answers()]:
                waiting.remove(service)
                print(f"{service.name:<8} {service.address}", flush=True)
                if not waiting:
                    print("Ctrl-C stops both.", flush=True)
            time.sleep(0.5 if waiting else 2.0)

    def stop(self) -> None:
        """End all servers; Dagster's runs are cancelled first, so that no stage goes on unseen."""
        for service in self.services:
            if service.name == "Dagster" and service.address:
                with suppress(URLError, OSError, KeyError, ValueError):
                    cancel_runs(service.address)
        for service in self.services:
            service.interrupt()
        for service in self.services:
            service.wait()
        self._sockets.cleanup()

    def _start_mlflow(self, track: list[str]) -> None:
        # The database is made once: servers and followers that meet a fresh one side by side fail.
        command = [sys.executable, "-m", *track]
        done = subprocess.run(
            command, cwd=self.root, env=self._env, check=False, capture_output=True, text=True
        )
        if done.returncode and not (self.root / "mlflow.db").exists():
            raise StartError(f"MLflow's database can't be made:\n{done.stderr.strip()}")
        argv = ["dagster_project.serve", "mlflow", "--port", str(self.mlflow_port)]
        argv += ["--backend-store-uri", f"sqlite:///{self.root / 'mlflow.db'}"]
        argv += ["--default-artifact-root", (self.root / "mlruns").as_uri(), *self._also()]
        self._add("MLflow", *argv, page=f"http://{HOST}:{self.mlflow_port}/health")

    def _start_dagster(self) -> None:
        code_socket = Path(self._sockets.name, "code.sock")
        workspace = Path(self._sockets.name, "workspace.yaml")
        module = "dagster_project.definitions"
        where = {"host": "localhost", "socket": str(code_socket), "location_name": module}
        workspace.write_text(json.dumps({"load_from": [{"grpc_server": where}]}), encoding="utf-8")
        argv = ["dagster", "code-server", "start", "--socket", str(code_socket)]
        argv += ["--use-python-environment-entry-point", "--module-name", module]
        code = self._add("Dagster code server", *argv, "--working-directory", str(self.root))
        code.wait_for_socket(code_socket)
        argv = ["dagster_project.serve", "dagster", "--workspace", str(workspace)]
        argv += ["--port", str(self.dagster_port), *self._also()]
        self._add("Dagster", *argv, page=f"http://{HOST}:{self.dagster_port}/server_info")
        self._add("Dagster daemon", "dagster._daemon", "run", "--workspace", str(workspace))

    def _add(self, name: str, *argv: str, page: str | None = None) -> Service:
        log = self.root / STATE_FOLDER / "ui" / f"{name.lower().replace(' ', '_')}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        service = Service(name, argv, env=self._env, log=log, page=page)
        self.services.append(service)
        return service

    def _also(self) -> list[str]:
        return [argument for origin in self.origins for argument in ("--origin", origin)]


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    args = parse(argv)
    for signum in SIGNALS:
        # Also where a script's background job would ignore SIGINT: the services would inherit that.
        signal.signal(signum, _interrupt)
    for name, port in (("Dagster", args.dagster_port), ("MLflow", args.mlflow_port)):
        if not is_free(port):
            print(
                f"error: port {port} of {HOST} is taken; choose another for {name}: "
                f"make ui {name.upper()}_PORT=...",
                file=sys.stderr,
            )
            return EXIT_USAGE
    root = project_root()
    make_home(root / STATE_FOLDER / "dagster", runs=args.runs, slots=args.gpu_slots)
    ui = Ui(root, args.dagster_port, args.mlflow_port, args.origin)
    try:
        ui.start()
        ui.watch()
    except StartError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("\nStopping.", flush=True)
        return 0
    finally:
        for signum in SIGNALS:
            signal.signal(signum, signal.SIG_IGN)  # it ends by itself now
        ui.stop()


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line's arguments."""
    parser = argparse.ArgumentParser(prog="python -m dagster_project.ui", description=__doc__)
    parser.add_argument("--dagster-port", type=int, default=3000, help="default: %(default)s")
    parser.add_argument("--mlflow-port", type=int, default=5000, help="default: %(default)s")
    parser.add_argument(
        "--runs",
        type=int,
        default=RUNS,
        help="Dagster runs at a time, when the settings are made (default: %(default)s)",
    )
    parser.add_argument(
        "--gpu-slots",
        type=int,
        default=SLOTS,
        help="stages of one pool at a time, likewise (default: %(default)s)",
    )
    parser.add_argument(
        "--origin",
        action="append",
        default=[],
        help="another address that browsers find one of them at, such as http://localhost:8080 "
        "through a tunnel; once for each",
    )
    return parser.parse_args(argv)


def is_free(port: int) -> bool:
    """Whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        return probe.connect_ex((HOST, port)) != 0


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
