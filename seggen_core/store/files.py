"""Writing files that survive a kill, and locks that don't."""

import errno
import fcntl
import os
from pathlib import Path

from seggen_core.errors import SampleStoreError


def write_at(fd: int, data: bytes, *, offset: int) -> None:
    """Write all of `data` at `offset` of an open file; OSError where that fails."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def replace_file(path: Path, data: bytes) -> None:
    """Write `path` whole or not at all, and have it on disk when this returns."""
    unfinished = path.with_name(path.name + ".tmp")
    with unfinished.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    unfinished.replace(path)


def sync_folder(folder: Path) -> None:
    """Have the names of the files in `folder` on disk when this returns."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def open_locked(path: Path, *, wait: bool = False) -> int:
    """Open a file that no other process may open this way meanwhile.

    Args:
        path: the file; it is created where it doesn't exist.
        wait: until no other process holds the lock.

    Returns:
        The file's descriptor; the lock lasts until it is closed or the process ends.

    Raises:
        SampleStoreError: another process holds the lock.
        OSError: the file can't be opened.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        # A POSIX lock, unlike flock, isn't inherited by forked workers, which may outlive a killed
        # process for some seconds.
        fcntl.lockf(fd, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            raise
        raise SampleStoreError(
            f"another process is writing {path.parent}; wait until it ends, or stop it"
        ) from error
    return fd
