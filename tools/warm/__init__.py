"""Commands of a smoke project in forks of one process that has imported the heavy libraries.

A stage is a process of DVC's and one of seggen's. To import torch, diffusers and transformers takes
5 to 10 CPU-seconds; what a stage does at smoke size takes one. `warm_commands` imports them once,
and while it lasts, `python -m seggen_core` and `python -m dvc` with `warm_variables` are forks of
that process. seggen_core itself is imported by the fork, from where the command finds it, so that a
changed copy of the code counts.

What is about processes (signals, process groups, memory, what is imported) can't be tried so.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ADDRESS = "SEGGEN_WARM"


def warm_variables() -> dict[str, str]:
    """Return the variables of a command that may be a fork; none outside `warm_commands`."""
    if _ADDRESS not in os.environ:
        return {}
    client = Path(__file__).parent / "client"
    return {_ADDRESS: os.environ[_ADDRESS], "PYTHONPATH": os.fspath(client)}


@contextmanager
def warm_commands(environment: dict[str, str]) -> Iterator[None]:
    """Run the process that is forked, unless one runs already, or the system is not Linux.

    Args:
        environment: its own; what libraries read of it when they are imported holds for all
            commands.

    Raises:
        RuntimeError: it did not start.
    """
    if _ADDRESS in os.environ or not hasattr(os, "pidfd_open"):
        yield
        return
    root = Path(__file__).parent.parent.parent
    with tempfile.TemporaryDirectory(prefix="seggen-warm-") as folder:
        address = os.fspath(Path(folder) / "socket")
        command = [sys.executable, "-P", "-m", f"{__name__}.server", address]
        # Its standard input is closed at the end of the block, which ends it.
        with subprocess.Popen(
            command,
            env=environment | {"PYTHONPATH": os.fspath(root)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"{' '.join(command)} did not start")
            os.environ[_ADDRESS] = address
            try:
                yield
            finally:
                del os.environ[_ADDRESS]
