"""A server in a process group of its own, with its output in a file."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any
from urllib.error import URLError

START_SECONDS = 180.0
STOP_SECONDS = 30.0
TAIL_LINES = 15

CANCEL = """mutation Cancel($ids: [String!]!) { terminateRuns(runIds: $ids) { __typename } }"""
ACTIVE = """query Active {
    runsOrError(filter: {statuses: [STARTING, STARTED]}) { ... on Runs { results { runId } } }
}"""


class StartError(Exception):
    """A service can't be started, or has ended by itself; the message says why."""


class Service:
    """A running server.

    Attributes:
        name: for people.
        address: where its pages are; None for one without pages.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        log: Path,
        page: str | None = None,
    ) -> None:
        """Start `python -m argv` with the environment `env`.

        Args:
            name: for people.
            argv: module and arguments.
            env: the environment.
            log: gets its output.
            page: address of a page of it, to see whether it answers.
        """
        self.name = name
        self.address = page.rpartition("/")[0] if page else None
        self._page = page
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

    def check(self, *, since: float | None = None) -> None:
        """Look whether it is all right.

        Raises:
            StartError: it has ended; or it was started at `since` (monotonic), and takes too long.
        """
        if self._process.poll() is not None:
            what = "has ended"
        elif since is not None and time.monotonic() - since > START_SECONDS:
            what = "doesn't answer"
        else:
            return
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:]
        tail = "\n".join(f"    {line}" for line in lines)
        raise StartError(f"{self.name} {what}; its last lines were\n{tail}\nAll of it: {self._log}")

    def answers(self) -> bool:
        """Whether it serves pages."""
        with suppress(URLError, OSError), urllib.request.urlopen(self._page or "", timeout=5) as it:  # noqa: S310 (our own address)
            return bool(it.status == 200)
        return False

    def wait_for_socket(self, path: Path) -> None:
        """Wait until it listens on a socket.

        Raises:
            StartError: it has ended, or takes too long.
        """
        started = time.monotonic()
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                if probe.connect_ex(str(path)) == 0:
                    return
            self.check(since=started)
            time.sleep(0.2)

    def interrupt(self) -> None:
        """Ask it to end."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)

    def wait(self) -> None:
        """Wait until it has ended, `STOP_SECONDS` at most, and end what is left of its group."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._output.close()


def cancel_runs(address: str) -> None:
    """Cancel all active runs of a Dagster server; wait for their end, `STOP_SECONDS` at most."""

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
