"""The process that is forked: it imports libraries, listens, and ends with its standard input.

A fork is what a command is: a process that runs a module and ends by itself.
"""

import importlib
import json
import os
import runpy
import selectors
import socket
import sys
from contextlib import suppress
from pathlib import Path

LIBRARIES = (
    "torch",
    "torch._dynamo",
    "accelerate",
    "diffusers.models.controlnets.controlnet",
    "diffusers.pipelines.controlnet.pipeline_controlnet",
    "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion",
    "dvc.cli",
    "dvc.commands.repro",
    "dvc.commands.status",
    "dvc.repo",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "pandas",
    "peft",
    "pyarrow.parquet",
    "pydantic",
    "safetensors.torch",
    "scipy.ndimage",
    "timm",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
    "transformers.models.mask2former.modeling_mask2former",
)


def serve(address: Path) -> socket.socket | None:
    """Fork for every connection, and answer it with the exit code of the fork.

    Returns:
        In a fork its connection; None when standard input has ended.
    """
    with socket.socket(socket.AF_UNIX) as listener, selectors.DefaultSelector() as selector:
        listener.bind(os.fspath(address))
        listener.listen()
        selector.register(listener, selectors.EVENT_READ)
        selector.register(sys.stdin, selectors.EVENT_READ)
        print("ready", flush=True)
        while True:
            for key, _ in selector.select():
                if key.fileobj is sys.stdin:
                    return None
                if key.fileobj is listener:
                    connection, _ = listener.accept()
                    fork = os.fork()
                    if not fork:
                        return connection
                    ended = os.pidfd_open(fork)
                    selector.register(ended, selectors.EVENT_READ, (fork, connection))
                else:
                    selector.unregister(key.fileobj)
                    os.close(key.fd)
                    _answer(*key.data)


def _answer(fork: int, connection: socket.socket) -> None:
    code = os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])
    with connection, suppress(BrokenPipeError):  # a client that was killed reads nothing
        connection.sendall(bytes([code if code >= 0 else 128 - code]))


def run_command(connection: socket.socket) -> None:
    """Run the command of a connection in this process."""
    head, streams, _, _ = socket.recv_fds(connection, 8, 3)
    request = json.loads(_read(connection, int.from_bytes(head)))
    connection.close()
    for descriptor, stream in enumerate(streams):
        os.dup2(stream, descriptor)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = [request["module"], *request["arguments"]]
    if not request["is_safe_path"]:
        sys.path.insert(0, request["folder"])
    importlib.invalidate_caches()
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = connection.recv(size - len(data))
        if not part:
            raise ConnectionError("the client has gone")
        data += part
    return data


def main() -> None:
    """Import the libraries, listen, and run a command in each fork."""
    for library in LIBRARIES:
        importlib.import_module(library)
    connection = serve(Path(sys.argv[1]))
    if connection is not None:
        run_command(connection)


if __name__ == "__main__":
    main()
