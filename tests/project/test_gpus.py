"""Processes share the GPUs of a machine out among themselves."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from seggen_core.errors import StorageError
from seggen_core.project.gpus import claim_gpu

CLAIM = """
import sys
from pathlib import Path
from seggen_core.project.gpus import claim_gpu
print(claim_gpu(sys.argv[2:], folder=Path(sys.argv[1])), flush=True)
sys.stdin.read()
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a process that claims one of some GPUs, and holds it until its input ends."""
    with ExitStack() as processes:

        def start_one(*gpus: str, code: str = CLAIM) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-c", code, str(tmp_path / "locks"), *gpus],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            return processes.enter_context(process)

        yield start_one


def _gpu(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_processes_side_by_side_get_different_gpus(start: Start) -> None:
    processes = [start("0", "1", "2") for _ in range(3)]
    assert sorted(map(_gpu, processes)) == ["0", "1", "2"]
    more = [start("0", "1", "2") for _ in range(3)]
    assert sorted(map(_gpu, more)) == ["0", "1", "2"]  # shared only once all are taken


def test_a_killed_process_frees_its_gpu(start: Start) -> None:
    first = start("GPU-a", "GPU-b")
    assert _gpu(first) == "GPU-a"
    assert _gpu(start("GPU-a", "GPU-b")) == "GPU-b"
    first.kill()
    first.wait()
    assert _gpu(start("GPU-a", "GPU-b")) == "GPU-a"


def test_a_forked_worker_that_outlives_its_stage_frees_its_gpu(start: Start) -> None:
    forked = start("0", "1", code=CLAIM.replace("sys.stdin", "import os; os.fork(); sys.stdin"))
    assert _gpu(forked) == "0"
    forked.kill()
    forked.wait()
    assert _gpu(start("0", "1")) == "0"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "locks"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with pytest.raises(StorageError, match="a folder of yours"):
        claim_gpu(["0"], folder=folder)


def test_a_link_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "locks").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StorageError, match="a folder of yours"):
        claim_gpu(["0"], folder=tmp_path / "locks")
