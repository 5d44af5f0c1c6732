"""A process that has imported DVC once and forks a copy of itself for every stage.

Starting `dvc` costs about 0.8 s of CPU for imports alone; a fork costs nothing. (multiprocessing's
fork server would do, but it imports the caller's `__main__` again in every child, which under
Dagster costs more than DVC.)

Run as a script with the number of an inherited socket. Each request is one byte and three file
descriptors:
    request   a file that holds JSON: {"root": folder, "argv": arguments of `dvc`, "env": the whole
    environment} output    becomes stdout and stderr of DVC and of the stage's command status    a
    pipe: the child writes its process id on one line; then, on another, DVC's exit code and the CPU
    seconds of
              DVC and of the command. A pipe that closes without the second line means that the
              child was killed.
The server ends when the socket closes. Children that are running then go on.
"""

import gc
import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import NoReturn

DVC_MODULES = (
    "configobj",
    "diskcache",
    "dulwich.worktree",
    "dvc._debug",
    "dvc.cachemgr",
    "dvc.cli.parser",
    "dvc.data_cloud",
    "dvc.dirs",
    "dvc.lock",
    "dvc.repo.artifacts",
    "dvc.repo.datasets",
    "dvc.repo.metrics",
    "dvc.repo.open_repo",
    "dvc.repo.params",
    "dvc.repo.plots",
    "dvc.repo.stage",
    "dvc.rwlock",
    "dvc.scm",
    "dvc.utils.strictyaml",
    "dvc_data.hashfile._progress",
    "dvc_data.hashfile.db.local",
    "dvc_data.hashfile.status",
    "platformdirs.unix",
    "pyparsing",
    "ruamel.yaml",
)


def serve(connection: socket.socket) -> None:
    """Fork one child per request until the other end closes `connection`."""
    _import_dvc()
    gc.freeze()  # what every child inherits, its garbage collector needn't look at: a sixth of a child's own CPU time
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # the kernel reaps children; they report through their status pipe
    while True:
        message, fds, _, _ = socket.recv_fds(connection, 1, 3)
        if not message:
            return
        if os.fork() == 0:
            connection.close()
            _run_dvc(*fds)
        for fd in fds:
            os.close(fd)


def _run_dvc(request_fd: int, output_fd: int, status_fd: int) -> NoReturn:
    """In the forked child: become `dvc`, in a process group of its own."""
    exit_code = 255
    try:
        # A session of its own: a Ctrl-C in the terminal reaches it only if the caller passes it on.
        os.setsid()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        # DVC itself outlives the signals that end the stage's command, so that it can record how
        # the command ended and is never cut off while it rewrites dvc.lock. A handler, not SIG_IGN:
        # the command would inherit that.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        os.write(status_fd, f"{os.getpid()}\n".encode())
        os.dup2(output_fd, 1)
        os.dup2(output_fd, 2)
        with os.fdopen(request_fd, encoding="utf-8") as file:
            request = json.load(file)
        os.chdir(request["root"])
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = ["dvc", *request["argv"]]  # DVC notes it in its lock files

        from dvc.cli import main

        exit_code = int(main(request["argv"]) or 0)
        sys.stdout.flush()
        sys.stderr.flush()
        cpu = os.times()
        figures = f"{exit_code} {cpu.user + cpu.system:.2f} {cpu.children_user + cpu.children_system:.2f}\n"
        os.write(status_fd, figures.encode())
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(exit_code)


def _import_dvc() -> None:
    """Import all that `dvc repro` imports on its way to a stage, and let it write dvc.lock quickly."""
    for module in DVC_MODULES:
        importlib.import_module(module)
    from dagster_dvc import lock_writer

    lock_writer.install()


if __name__ == "__main__":
    # Of the caller's search path only this is missing, and only where the package isn't installed;
    # it may shadow nothing.
    sys.path.append(str(Path(__file__).parents[2]))
    with socket.socket(fileno=int(sys.argv[1])) as _connection:
        serve(_connection)
