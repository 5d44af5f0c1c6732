"""Send runs to stores that misbehave: `python -m tools.tracking_servers`. About 10 minutes.

A project with recorded runs is sent by `seggen track` to servers that drip, hang, fail or answer
nonsense, and to databases that are none. Each has to cost bounded time and one message, and to lose
nothing: a sound store gets all runs afterwards. Then a real MLflow server is killed while
`seggen track --follow` sends to it, and started again, several times. In the end it has to hold
each metric once.

The same seed gives the same moments. Prints a table of counts, and what went wrong.
"""

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from tools.smoke_project import ROOT, environment, machine_line

NUM_RUNS, NUM_METRICS = 4, 150
COMMAND_SECONDS = 90.0
"""More than twice what a command may take: connecting and one call, 20 seconds each at most."""
SETTLE_SECONDS = 300.0

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n"


class MisbehavingServer:
    """Accepts connections, reads what comes, and hands each to a behaviour.

    Attributes:
        uri: its address, with credentials that no message may show.
        num_connections: how many it has accepted.
        is_closed: set by `close`.
    """

    def __init__(self, behave: Callable[["MisbehavingServer", socket.socket], None]) -> None:
        """Listen on a free port."""
        self._behave = behave
        self.is_closed = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://user:s3cret@127.0.0.1:{self._socket.getsockname()[1]}"
        self.num_connections = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while not self.is_closed.is_set():
            with contextlib.suppress(OSError):
                connection, _ = self._socket.accept()
                self.num_connections += 1
                threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection:
            connection.recv(65536)
            self._behave(self, connection)

    def close(self) -> None:
        """Let connections go and accept no more."""
        self.is_closed.set()
        self._socket.close()


def _drip(server: MisbehavingServer, connection: socket.socket, data: bytes) -> None:
    """Send a byte every 50 ms: MLflow's own timeout, which runs from byte to byte, never ends."""
    for byte in data:
        if server.is_closed.wait(0.05):
            return
        connection.sendall(bytes([byte]))


def _drip_header(server: MisbehavingServer, connection: socket.socket) -> None:
    _drip(server, connection, b"HTTP/1.1 200 OK\r\n" + b"X-Slow: yes\r\n" * 10_000)


def _drip_body(server: MisbehavingServer, connection: socket.socket) -> None:
    connection.sendall(ANSWER)
    _drip(server, connection, b" " * 100_000)


def _hang(server: MisbehavingServer, _: socket.socket) -> None:
    server.is_closed.wait()


def _fail(_: MisbehavingServer, connection: socket.socket) -> None:
    connection.sendall(b"HTTP/1.1 500 Oh\r\nContent-Length: 4\r\nConnection: close\r\n\r\nuser")


def _reset(_: MisbehavingServer, connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _be_something_else(_: MisbehavingServer, connection: socket.socket) -> None:
    page = b"<html>a router's page</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\nContent-Length: "
    connection.sendall(head + b"%d\r\n\r\n" % len(page) + page)


def _end_early(_: MisbehavingServer, connection: socket.socket) -> None:
    connection.sendall(ANSWER + b"{")


BEHAVIOURS = {
    "drips its header": _drip_header,
    "drips its body": _drip_body,
    "hangs": _hang,
    "answers 500": _fail,
    "resets": _reset,
    "is something else": _be_something_else,
    "ends early": _end_early,
}


def _be_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _be_garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 100)


def _be_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _be_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DATABASES = {
    "a folder": _be_folder,
    "garbage": _be_garbage,
    "half a database": _be_half,
    "a FIFO": _be_fifo,
}
"""What each does to a database that is there."""


class Project:
    """A project with recorded runs, and with a database of MLflow's.

    Attributes:
        root: its folder.
    """

    def __init__(self, root: Path, *, database: Path | None = None) -> None:
        """Record `NUM_RUNS` runs of `NUM_METRICS` metrics in a new folder.

        Args:
            root: is created.
            database: of MLflow's, empty; is copied.
        """
        from seggen_core.tracking import track_stage

        self.root = root
        root.mkdir()
        shutil.copy(ROOT / "params.yaml", root)
        paths = ProjectPaths(root)
        for index in range(NUM_RUNS):
            runtime = RuntimeConfig()
            item = f"class{index}"
            with track_stage("imgsyn", item=item, params={}, runtime=runtime, paths=paths) as run:
                for step in range(NUM_METRICS):
                    run.log_metrics({"loss": step / 7}, step=step)
        if database is not None:
            shutil.copy(database, root / "mlflow.db")

    def track(self, *options: str, uri: str | None = None) -> subprocess.Popen[str]:
        """Start `seggen track` with some options, and with this store's address."""
        variables = environment()
        del variables["MLFLOW_TRACKING_URI"]
        if uri is not None:
            variables["MLFLOW_TRACKING_URI"] = uri
        params = ["--params", str(self.root / "params.yaml")]
        return subprocess.Popen(
            [sys.executable, "-m", "seggen_core", *params, "track", *options],
            cwd=ROOT,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def count_rows(database: Path) -> tuple[int, int, int]:
    """Return how many runs, how many finished ones and how many metrics a store's database has."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        runs = connection.execute("select count(*) from runs").fetchone()[0]
        finished = connection.execute("select count(*) from runs where status = 'FINISHED'")
        metrics = connection.execute("select count(*) from metrics").fetchone()[0]
        return runs, finished.fetchone()[0], metrics


ALL_ROWS = (NUM_RUNS, NUM_RUNS, NUM_RUNS * NUM_METRICS)


def try_store(project: Project, *, uri: str | None) -> str:
    """Send to a store that misbehaves; return what is wrong with what comes of it, or nothing."""
    process = project.track(uri=uri)
    try:
        output, errors = process.communicate(timeout=COMMAND_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return f"no end after {COMMAND_SECONDS:.0f} s"
    lines = [line for line in errors.splitlines() if line.strip()]
    if process.returncode != 2 or len(lines) != 1:
        return f"exit {process.returncode}, {len(lines)} lines: {output}{errors}"
    return "it shows the password" if "s3cret" in errors else ""


def misbehaving_stores(work: Path, database: Path, say: Callable[[str], None]) -> Counter[str]:
    """Send to each server and each database that misbehaves; return how many did well."""
    counts: Counter[str] = Counter()
    cases = [*BEHAVIOURS, *(f"the database is {name}" for name in DATABASES), "nobody listens"]
    for index, name in enumerate(cases):
        project = Project(work / f"project-{index}", database=database)
        server, uri = None, "http://user:s3cret@127.0.0.1:9"
        if name in BEHAVIOURS:
            server = MisbehavingServer(BEHAVIOURS[name])
            uri = server.uri
        project_database = project.root / "mlflow.db"
        if (damage := DATABASES.get(name.removeprefix("the database is "))) is not None:
            damage(project_database)
            problem = try_store(project, uri=None)
            project_database.rmdir() if project_database.is_dir() else project_database.unlink()
        else:
            problem = try_store(project, uri=uri)
        if server is not None:
            server.close()
        sound = project.track()
        _, errors = sound.communicate()
        if not problem and (sound.returncode or count_rows(project_database) != ALL_ROWS):
            problem = f"a sound store gets less afterwards: {errors}"
        counts["sound" if not problem else "wrong"] += 1
        say(f"| {name} | {problem or 'one message, nothing lost'} |")
    return counts


class MlflowServer:
    """A real MLflow server over a database, which can be killed and started again."""

    def __init__(self, folder: Path, database: Path) -> None:
        """Keep all in `folder`; nothing is started yet."""
        folder.mkdir()
        self.database = folder / "server.db"
        shutil.copy(database, self.database)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._folder = folder
        self.uri = f"http://127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and return when it listens."""
        store = ["--backend-store-uri", f"sqlite:///{self.database}"]
        artifacts = ["--artifacts-destination", str(self._folder / "artifacts")]
        where = ["--host", "127.0.0.1", "--port", str(self._port), "--workers", "1"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *store, *artifacts, *where],
            env=environment(MLFLOW_TRACKING_URI=""),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while self._process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port)):
                return
            time.sleep(0.1)
        raise RuntimeError(f"the MLflow server ended with {self._process.returncode}")

    def kill(self) -> None:
        """Kill the server and its workers at once."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def dying_server(
    work: Path, database: Path, *, num_kills: int, seed: int, say: Callable[[str], None]
) -> Counter[str]:
    """Kill an MLflow server while a follower sends to it; return how many kills did no harm."""
    rng, counts = random.Random(seed), Counter[str]()
    for index in range(num_kills):
        project = Project(work / f"dying-{index}")
        server = MlflowServer(work / f"server-{index}", database)
        server.start()
        follower = project.track("--follow", uri=server.uri)
        moment = rng.randint(0, ALL_ROWS[2] - 1)
        try:
            _wait(lambda s=server, m=moment: count_rows(s.database)[2] >= m)  # type: ignore[misc]
            server.kill()
            before = count_rows(server.database)[2]
            server.start()
            _wait(lambda s=server: count_rows(s.database) == ALL_ROWS)  # type: ignore[misc]
            follower.send_signal(signal.SIGTERM)
            follower.communicate()
            rows = count_rows(server.database)
        except TimeoutError:
            rows = count_rows(server.database)
            follower.kill()
            follower.communicate()
        finally:
            server.kill()
        is_sound = rows == ALL_ROWS
        counts["sound" if is_sound else "wrong"] += 1
        if before < ALL_ROWS[2]:
            counts["midway"] += 1
        if not is_sound:
            say(f"WRONG: runs, finished, metrics are {rows}, expected {ALL_ROWS}")
    return counts


def _wait(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)


def main() -> int:
    """The command line; exit code 1 where something went wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the kills' moments (default: 0)")
    parser.add_argument("--kills", type=int, default=6, help="of a real server (default: 6)")
    args = parser.parse_args()

    def say(line: str) -> None:
        print(line, flush=True)

    with tempfile.TemporaryDirectory(prefix="seggen-tracking-") as folder:
        work = Path(folder)
        empty = Project(work / "empty")
        empty.track().communicate()
        shutil.rmtree(empty.root / ".seggen")
        database = empty.root / "mlflow.db"
        with contextlib.closing(sqlite3.connect(database)) as connection, connection:
            for table in ("metrics", "latest_metrics", "tags", "params", "runs"):
                connection.execute(f"delete from {table}")  # noqa: S608 (names from above)
        say(f"Stores that misbehave, seed {args.seed}. {machine_line()}\n")
        say("| store | outcome |\n|---|---|")
        counts = misbehaving_stores(work, database, say)
        killed = dying_server(work, database, num_kills=args.kills, seed=args.seed, say=say)
        say(
            f"| all | {counts['sound']} of {counts.total()} sound |\n\nA real server killed "
            f"{args.kills} times, {killed['midway']} of them midway: {killed['sound']} times each "
            "metric is there once."
        )
    return 1 if counts["wrong"] or killed["wrong"] else 0


if __name__ == "__main__":
    sys.exit(main())
