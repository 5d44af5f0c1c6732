"""Hand `python -m seggen_core` and `python -m dvc` over to the process of `tools.warm`.

Python imports this module at its start, where PYTHONPATH names this folder.
"""

import os
import sys


def _module() -> str | None:
    arguments = [argument for argument in sys.orig_argv[1:4] if argument != "-P"]
    named = arguments[:1] == ["-m"] and arguments[1:2]
    return named[0] if named and named[0] in ("seggen_core", "dvc") else None


def _hand_over(module: str, *, address: str) -> None:
    import json
    import socket
    from pathlib import Path

    request = {
        "module": module,
        "arguments": sys.orig_argv[sys.orig_argv.index(module) + 1 :],
        "is_safe_path": sys.flags.safe_path,
        "folder": str(Path.cwd()),
        "environment": {**os.environ},
    }
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        data = json.dumps(request).encode()
        socket.send_fds(connection, [len(data).to_bytes(8)], [0, 1, 2])
        connection.sendall(data)
        answer = connection.recv(1)
    os._exit(answer[0] if answer else 1)  # the server has gone


if (module := _module()) and "SEGGEN_WARM" in os.environ:
    _hand_over(module, address=os.environ["SEGGEN_WARM"])
