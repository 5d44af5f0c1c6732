"""`dvc` as a child process in a process group of its own.

DVC holds its repository lock only before and after a stage's command, so that stages run side by
side; `--wait-for-lock` makes each wait for its turn at the bookkeeping.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from dagster_dvc.busy import hold_dvc_lock
from dagster_dvc.errors import DagsterDvcError

TAIL_LINES = 30
READ_BYTES = 1 << 16
READS_AT_ONCE = 32
"""How often `poll` reads at most: a process may print without an end."""
STOP_STEPS = ((signal.SIGINT, 15.0), (signal.SIGTERM, 5.0), (signal.SIGKILL, 5.0))
"""What ends a process group: each signal, and how many seconds it gets before the next one."""
STOP_LOCK_SECONDS = 5.0
POLL_SECONDS = 0.1


class DvcProcess:
    """`dvc` with some arguments. Call `poll` often: it reads what the process prints.

    Attributes:
        started: `time.monotonic()` when it started.
        exit_code: None while it runs; negative where a signal ended DVC itself.
        seconds: wall-clock time, waiting for DVC's lock included; only once it has ended.
        dvc_cpu_seconds: CPU time of DVC itself, once it has ended.
        command_cpu_seconds: CPU time of the commands that DVC started, once it has ended. The
            kernel counts in hundredths of a second. None on systems other than Linux, which don't
            tell it.
        tail: the last lines of output.
    """

    def __init__(
        self, root: Path, argv: Sequence[str], *, env: Mapping[str, str] | None = None
    ) -> None:
        """Start it.

        Args:
            root: the folder that it runs in.
            argv: arguments of `dvc`.
            env: the environment of DVC and of its commands; None takes this process's own.
        """
        environment = dict(os.environ if env is None else env)
        # The command of a stage says "python": let it be this one, whether or not its environment
        # was activated.
        environment["PATH"] = os.pathsep.join(
            [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
        )
        self.exit_code: int | None = None
        self.seconds = 0.0
        self.dvc_cpu_seconds = 0.0
        self.command_cpu_seconds: float | None = None
        self.tail: deque[str] = deque(maxlen=TAIL_LINES)
        self.started = time.monotonic()
        self._unfinished = b""
        self._lines: list[str] = []
        # -P: a file of the project must not stand for a module of DVC's.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "dvc", *argv],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._output = self._process.stdout
        os.set_blocking(self._output.fileno(), False)

    @property
    def pid(self) -> int:
        """DVC's process id, which is that of its process group too."""
        return self._process.pid

    def take_lines(self) -> list[str]:
        """Return the lines that DVC and its commands have printed since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def poll(self) -> bool:
        """Read what was printed, and return whether DVC has ended.

        A daemon that a command left behind may hold the output open for ever; nobody waits for it.
        """
        if self.exit_code is not None:
            return True
        has_ended = self._has_ended()
        self._read()
        if not has_ended:
            return False
        self.exit_code = self._process.wait()
        self.seconds = time.monotonic() - self.started
        if self._unfinished:
            self._add(b"\n")
        self._output.close()
        return True

    def signal(self, signum: signal.Signals) -> None:
        """Send a signal to the whole process group."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signum)

    def is_gone(self) -> bool:
        """Whether DVC and all others of its process group have ended."""
        return self.poll() and not _has_living_members(self.pid)

    def _has_ended(self) -> bool:
        """Whether DVC has ended; its CPU time is read before the kernel forgets it."""
        if not sys.platform.startswith("linux"):
            return self._process.poll() is not None
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is None:
            return False
        import psutil

        times = psutil.Process(self.pid).cpu_times()
        self.dvc_cpu_seconds = times.user + times.system
        self.command_cpu_seconds = times.children_user + times.children_system
        return True

    def _read(self) -> None:
        with suppress(BlockingIOError):
            for _ in range(READS_AT_ONCE):
                self._add(os.read(self._output.fileno(), READ_BYTES))

    def _add(self, chunk: bytes) -> None:
        *whole, self._unfinished = re.split(rb"[\r\n]+", self._unfinished + chunk)
        if len(self._unfinished) > READ_BYTES:  # no line that is worth waiting for
            whole, self._unfinished = [*whole, self._unfinished], b""
        lines = [line.decode("utf-8", errors="replace") for line in whole]
        self._lines += lines
        self.tail.extend(lines)


def run_dvc(
    root: Path,
    argv: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None],
) -> DvcProcess:
    """Run `dvc` to its end; whatever is raised meanwhile ends its whole process group first."""
    process = DvcProcess(root, argv, env=env)
    try:
        while True:
            has_ended = process.poll()
            for line in process.take_lines():
                on_line(line)
            if has_ended:
                return process
            time.sleep(POLL_SECONDS)
    except BaseException:
        stop([process], root=root)
        raise


def stop(processes: Collection[DvcProcess], *, root: Path) -> None:
    """End whole process groups and return when they are gone; an interruption kills them.

    What a stage leaves is as after a failure: a later run of it starts where DVC left it.
    """
    try:
        for signum, patience in STOP_STEPS:
            with ExitStack() as lock:
                if signum == signal.SIGINT:
                    # DVC itself obeys too, unless it is running a command. Who holds its lock knows
                    # that it isn't in the middle of writing dvc.lock, which it does in place.
                    with suppress(DagsterDvcError):
                        lock.enter_context(hold_dvc_lock(root, patience=STOP_LOCK_SECONDS))
                _signal(processes, signum)
            if _wait_for_end(processes, patience):
                return
    except BaseException:
        kill(processes)
        raise


def kill(processes: Collection[DvcProcess]) -> None:
    """Kill whole process groups, and wait a little: the kernel takes their members one by one."""
    _signal(processes, signal.SIGKILL)
    _wait_for_end(processes, STOP_STEPS[-1][1])


def _signal(processes: Collection[DvcProcess], signum: signal.Signals) -> None:
    for process in processes:
        if not process.is_gone():  # another may have its number by now
            process.signal(signum)


def _wait_for_end(processes: Collection[DvcProcess], seconds: float) -> bool:
    """Whether all process groups end within some seconds."""
    deadline = time.monotonic() + seconds
    while living := [process for process in processes if not process.is_gone()]:
        if time.monotonic() > deadline:
            break
        time.sleep(POLL_SECONDS)
    return not living


def _has_living_members(group: int) -> bool:
    """Whether a process group has a member that isn't dead; nobody may have noticed its death."""
    import psutil

    with suppress(ProcessLookupError):
        os.killpg(group, 0)
        for process in psutil.process_iter():
            with suppress(ProcessLookupError, psutil.NoSuchProcess):
                is_member = os.getpgid(process.pid) == group
                if is_member and process.status() != psutil.STATUS_ZOMBIE:
                    return True
    return False
