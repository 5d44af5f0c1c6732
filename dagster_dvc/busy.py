"""DVC's own locks: one guards its bookkeeping, and a table says which process is at which files.

DVC gives up after three seconds where another DVC process holds the first, and at once where one
holds the second, and advises to delete files by hand. Here everybody waits, and says for whom.
"""

import json
import logging
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dagster_dvc.errors import DvcBusyError, DvcProjectError
from dagster_dvc.graph import StageNode, overlaps

logger = logging.getLogger(__name__)

SILENT_SECONDS = 10.0
"""Whoever waits longer says for whom."""


@contextmanager
def hold_dvc_lock(root: Path, *, patience: float | None = None) -> Iterator[None]:
    """Hold the lock that every DVC command takes while it reads or writes its files.

    Args:
        root: the folder that holds dvc.yaml.
        patience: seconds to wait for it, to within 3.5; None waits for ever.

    Raises:
        DvcBusyError: another process held the lock for all that time.
        DvcProjectError: `root` holds no DVC project, or DVC can't read its settings.
    """
    from dvc.config import Config, ConfigError
    from dvc.lock import LockError, make_lock

    folder = root / ".dvc"
    if not folder.is_dir():
        raise DvcProjectError(
            f"{root} has no .dvc folder; run from the folder that holds dvc.yaml, or make it with "
            "`dvc init`"
        )
    try:
        hardlink = Config(str(folder))["core"].get("hardlink_lock", False)
    except ConfigError as error:
        raise DvcProjectError(f"DVC can't read its settings in {folder}: {error}") from error
    (folder / "tmp").mkdir(exist_ok=True)
    file = folder / "tmp" / "lock"
    lock = make_lock(str(file), tmp_dir=str(folder / "tmp"), hardlink_lock=hardlink)
    started, is_said = time.monotonic(), False
    while True:
        try:
            lock.lock()
            break
        except LockError:
            holder = f"{describe(_pid_in(file))} holds DVC's lock of {root}"
            if patience is not None and time.monotonic() - started >= patience:
                raise DvcBusyError(f"{holder}; try again when it has ended") from None
            if not is_said and time.monotonic() - started > SILENT_SECONDS:
                logger.warning("%s; waiting for it", holder)
                is_said = True
    try:
        yield
    finally:
        lock.unlock()


@dataclass(frozen=True)
class Claim:
    """What DVC notes of a process that is at a file or folder.

    Attributes:
        pid: the process.
        path: of the file or folder, absolute.
        writes: it writes it; otherwise it reads it.
    """

    pid: int
    path: str
    writes: bool


def read_claims(root: Path) -> list[Claim]:
    """Return what living DVC processes are at; call it while holding DVC's lock.

    A damaged table is deleted: DVC refuses to run a stage with it, and makes a new one by itself.
    """
    import psutil

    path = root / ".dvc" / "tmp" / "rwlock"
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        noted = [(file, entry, True) for file, entry in tree.get("write", {}).items()]
        for file, entries in tree.get("read", {}).items():
            noted += [(file, entry, False) for entry in entries]
        claims = [Claim(int(entry["pid"]), file, writes) for file, entry, writes in noted if entry]
    except FileNotFoundError:
        return []
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%r) and was deleted", path, error)
        path.unlink(missing_ok=True)
        return []
    living = {claim.pid for claim in claims if psutil.pid_exists(claim.pid)}
    return [claim for claim in claims if claim.pid in living]


def find_conflict(claims: Sequence[Claim], root: Path, node: StageNode) -> Claim | None:
    """Return a claim because of which DVC would refuse to run a stage; None where there is none."""
    for claim in claims:
        outs = any(overlaps(claim.path, str(root / out)) for out in node.outs)
        if outs or (claim.writes and any(overlaps(claim.path, str(root / d)) for d in node.deps)):
            return claim
    return None


def describe(pid: int | None) -> str:
    """Name a process for people."""
    import psutil

    try:
        command = " ".join(psutil.Process(pid).cmdline()) if pid else ""
    except psutil.Error:
        command = ""
    if not command:
        return f"process {pid}" if pid else "another process"
    return f"process {pid} ({command[:120]})"


def _pid_in(file: Path) -> int | None:
    """Return the process that DVC's lock file names."""
    try:
        digits = re.search(r"\d+", file.read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None
    return int(digits[0]) if digits else None
