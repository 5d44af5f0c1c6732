"""Runs single stages through `dvc repro --single-item`, each in a process group of its own.

DVC holds its repository lock only before and after a stage's command, so that stages run side by
side; `--wait-for-lock` makes each wait for its turn at the bookkeeping.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from selectors import EVENT_READ, DefaultSelector
from types import TracebackType
from typing import Literal

from dagster_dvc import fork_server
from dagster_dvc.errors import DvcServerError
from dagster_dvc.manifest import load_manifest

Outcome = Literal["ran", "cached", "unchanged", "failed", "stopped"]
TAIL_LINES = 30
STOP_STEPS = ((signal.SIGINT, 10.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""What ends a process group: each signal, and how many seconds it gets before the next one."""
KILL_PATIENCE = 5.0
"""Seconds that the kernel gets to end what was sent SIGKILL."""


@dataclass(frozen=True)
class StageResult:
    """How a stage ended.

    Attributes:
        outcome: "ran": its command ran; "cached": DVC restored its outputs from the run cache;
            "unchanged": nothing to do; "failed"; "stopped": `StageRun.stop` was called.
        exit_code: DVC's, or None where DVC was killed before it could say.
        seconds: wall-clock time, waiting for DVC's lock included.
        dvc_cpu_seconds: CPU time of DVC itself, or 0 where it was killed.
        command_cpu_seconds: CPU time of the stage's command, or 0 where DVC was killed.
        tail: the last lines of output.
    """

    name: str
    outcome: Outcome
    exit_code: int | None
    seconds: float
    dvc_cpu_seconds: float
    command_cpu_seconds: float
    tail: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """The stage is up to date now."""
        return self.outcome in ("ran", "cached", "unchanged")


class DvcServer:
    """Owns the process that stages are forked from. Safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair()
        # -P: the script's folder must not be searched for modules, its errors.py would shadow
        # others'.
        self._process = subprocess.Popen(
            [sys.executable, "-P", fork_server.__file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()

    def __enter__(self) -> "DvcServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the server; stages that are running go on."""
        self._socket.close()
        self._process.wait()

    def run(
        self,
        root: Path,
        name: str,
        *,
        env: Mapping[str, str] | None = None,
        argv: Sequence[str] | None = None,
    ) -> "StageRun":
        """Start the stage `name` of the project in `root`.

        Args:
            root: the folder that holds dvc.yaml.
            name: a stage, not a group.
            env: the environment of the stage's command; None takes this process's own.
            argv: arguments of `dvc`, where it is to do something else about the stage than to bring
                it up to date.

        Raises:
            DvcProjectError: DVC can't read the project, or would run what no stage of it may.
        """
        load_manifest(
            root
        )  # it refuses stages that aren't safe to run; params.yaml may have changed since it was looked at last
        environment = dict(os.environ if env is None else env)
        # The stage's command says "python": let it be this one, whether or not its environment was
        # activated.
        environment["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        )
        argv = ["--wait-for-lock", "repro", "--single-item", name] if argv is None else list(argv)
        output_r, output_w = os.pipe()
        status_r, status_w = os.pipe()
        try:
            with tempfile.TemporaryFile() as request:
                request.write(
                    json.dumps({"root": str(root), "argv": argv, "env": environment}).encode()
                )
                request.seek(0)
                with self._lock:
                    socket.send_fds(self._socket, [b"r"], [request.fileno(), output_w, status_w])
        except OSError as error:
            os.close(output_r)
            os.close(status_r)
            raise DvcServerError(
                f"stage {name} can't start: the DVC server has died ({error}); run again"
            ) from error
        finally:
            os.close(output_w)
            os.close(status_w)
        return StageRun(name, output_fd=output_r, status_fd=status_r)


class StageRun:
    """A stage in progress. Read `lines()` to the end, then take `result`; `stop()` may be called from any other thread."""

    def __init__(self, name: str, *, output_fd: int, status_fd: int) -> None:
        self.name = name
        self._output_fd = output_fd
        self._status_fd = status_fd
        self._started = time.monotonic()
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._outcome: Outcome = "failed"
        self._group: int | None = None
        self._command_started = False
        self._stopping = False
        self._ended = threading.Event()
        self._result: StageResult | None = None

    @property
    def result(self) -> StageResult:
        """How the stage ended; only after `lines()` has ended."""
        assert self._result is not None, "lines() has not been read to the end"
        return self._result

    def lines(self) -> Iterator[str]:
        """Output of DVC and of the stage's command as it comes, without line ends."""
        status = b""
        buffer = b""
        with DefaultSelector() as selector:
            selector.register(self._status_fd, EVENT_READ)
            selector.register(self._output_fd, EVENT_READ)
            while self._status_fd in selector.get_map():
                ready = [key.fd for key, _ in selector.select()]
                if self._output_fd in ready:
                    chunk = os.read(self._output_fd, 65536)
                    if not chunk:
                        selector.unregister(self._output_fd)
                    *whole, buffer = re.split(rb"[\r\n]+", buffer + chunk)
                    for line in whole:
                        yield self._note(line)
                if self._status_fd in ready:
                    chunk = os.read(self._status_fd, 64)
                    status += chunk
                    if b"\n" in status:
                        self._group = int(status.split(b"\n")[0])
                    if not chunk:
                        selector.unregister(self._status_fd)
        # DVC has ended and all it wrote is in the pipe. The pipe itself may still be open in a
        # daemon that the command left behind, so that waiting for its end could take for ever.
        os.set_blocking(self._output_fd, False)
        for line in re.split(rb"[\r\n]+", buffer + _read_available(self._output_fd)):
            if line:
                yield self._note(line)
        self._finish(status.decode().splitlines()[1:])

    def stop(self) -> None:
        """End the whole process group and return when it has ended; a later run of the stage starts where DVC left it."""
        self._stopping = True
        for number, patience in STOP_STEPS:
            self._signal(number)
            deadline = time.monotonic() + patience
            reached_command = self._command_started
            while time.monotonic() < deadline and not self._ended.wait(0.5):
                if not reached_command:
                    # DVC itself ignores the signal and goes on to start the command, a moment after
                    # it has said so.
                    reached_command = self._command_started
                    self._signal(number)
            if self._ended.is_set():
                return

    def kill(self) -> None:
        """SIGKILL the whole process group."""
        self._stopping = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._group is not None and not self._ended.is_set():
            with suppress(ProcessLookupError):  # it may have ended by itself just now
                os.killpg(self._group, number)

    def _end_group(self) -> None:
        """SIGKILL what is left of the process group and wait until it is gone: the kernel takes its members one by one."""
        deadline = time.monotonic() + KILL_PATIENCE
        self._signal(signal.SIGKILL)
        while self._group is not None and time.monotonic() < deadline:
            try:
                os.killpg(self._group, 0)
            except ProcessLookupError:
                return
            time.sleep(0.01)

    def _note(self, raw: bytes) -> str:
        line = raw.decode("utf-8", errors="replace")
        self._tail.append(line)
        if line == f"Running stage '{self.name}':":
            self._command_started = True
            self._outcome = "ran"
        elif line == f"Stage '{self.name}' is cached - skipping run, checking out outputs":
            self._outcome = "cached"
        elif line == f"Stage '{self.name}' didn't change, skipping":
            self._outcome = "unchanged"
        return line

    def _finish(self, figures: list[str]) -> None:
        os.close(self._output_fd)
        os.close(self._status_fd)
        exit_code, dvc_cpu_seconds, command_cpu_seconds = None, 0.0, 0.0
        if figures:
            exit_text, dvc_text, command_text = figures[0].split()
            exit_code, dvc_cpu_seconds, command_cpu_seconds = (
                int(exit_text),
                float(dvc_text),
                float(command_text),
            )
        if self._stopping or not figures:
            # DVC may have been killed alone, or have left a child of its command that ignores what
            # was asked of it: nobody may write on into what DVC will clear.
            self._end_group()
        self._ended.set()
        outcome = self._outcome if exit_code == 0 else "stopped" if self._stopping else "failed"
        self._result = StageResult(
            name=self.name,
            outcome=outcome,
            exit_code=exit_code,
            seconds=time.monotonic() - self._started,
            dvc_cpu_seconds=dvc_cpu_seconds,
            command_cpu_seconds=command_cpu_seconds,
            tail=tuple(self._tail),
        )


def _read_available(fd: int) -> bytes:
    """All that a non-blocking pipe holds now."""
    chunks = []
    while True:
        try:
            chunk = os.read(fd, 65536)
        except BlockingIOError:
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks)
