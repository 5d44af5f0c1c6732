"""Gives each process a GPU of its own, if the machine has several.

DVC, Dagster and shells start stages side by side and know nothing of each other's. So the processes
agree by themselves: each holds a lock on a file that stands for one place on one GPU. The operating
system releases the lock when the process ends, however it ends.
"""

import fcntl
import logging
import os
import stat
import tempfile
from itertools import count
from pathlib import Path

from seggen_core.errors import StorageError

logger = logging.getLogger(__name__)

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_held: list[int] = []
"""File descriptors of this process's locks. They stay open until the process ends."""


def lock_folder() -> Path:
    """The folder of the lock files: one for each user of the machine."""
    return Path(tempfile.gettempdir()) / f"seggen-gpus-{os.getuid()}"


def claim_gpu(gpus: list[str], *, folder: Path) -> str:
    """Take the GPU that the fewest living processes have taken; of several, the first.

    The GPU stays taken until this process ends. A GPU is shared only when every GPU is taken.

    Args:
        gpus: their names for `CUDA_VISIBLE_DEVICES`, at least one.
        folder: the lock files are made here.

    Returns:
        The name of the GPU.

    Raises:
        StorageError: the folder belongs to another user, or no file can be made in it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        state = folder.lstat()
        if not stat.S_ISDIR(state.st_mode) or state.st_uid != os.getuid():
            raise StorageError(
                f"{folder} has to be a folder of yours, since GPUs are shared out by lock files in "
                "it; remove it, or set TMPDIR to another folder"
            )
        for place in count():
            for gpu in gpus:
                if _take(folder / f"{gpu.replace('/', '_')}.{place}"):
                    return gpu
    except OSError as error:
        raise StorageError(f"no GPU can be taken by a lock file in {folder}: {error}") from error
    raise AssertionError("unreachable: places are endless")


def use_one_gpu() -> None:
    """Let this process see one GPU, if there are several: the one that `claim_gpu` takes.

    Does nothing on a machine with at most one GPU, in a process that has taken one before, and in
    processes of `torchrun` or `accelerate launch`, which share the GPUs out themselves.

    Raises:
        StorageError: no lock file can be made.
    """
    import torch

    num_gpus = torch.cuda.device_count()
    if num_gpus < 2 or _held or "LOCAL_RANK" in os.environ:
        return
    names = [name.strip() for name in os.environ.get(_VISIBLE, "").split(",") if name.strip()]
    gpus = names[:num_gpus] if names else [str(index) for index in range(num_gpus)]
    gpu = claim_gpu(gpus, folder=lock_folder())
    logger.info("this process computes on GPU %s of %s", gpu, ", ".join(gpus))
    os.environ[_VISIBLE] = gpu
    if torch.cuda.device_count() > 1:  # CUDA has read the variable before: there is no NVML
        torch.cuda.set_device(gpus.index(gpu))


def _take(file: Path) -> bool:
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        # A POSIX lock, unlike flock, isn't inherited by forked workers, which may outlive a killed
        # stage.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # POSIX allows either where another process holds it
        os.close(descriptor)
        return False
    except BaseException:
        os.close(descriptor)
        raise
    _held.append(descriptor)
    return True
