"""dvc.lock as data: what DVC recorded of the last run of each stage."""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dagster_dvc.errors import DvcBusyError, DvcProjectError

_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Seven times as fast as the loader in Python, where PyYAML has its C part."""

_STAGE = re.compile(r"^  (?P<name>[^ \n].*):$", re.MULTILINE)
"""The line that begins a stage in dvc.lock, which DVC writes in block style, two spaces a level."""


@dataclass(frozen=True)
class LockedOut:
    """One output as DVC recorded it.

    Attributes:
        md5: DVC's hash of it; that of a folder ends in ".dir".
        size: bytes.
        num_files: files in a folder, None for a file.
    """

    md5: str
    size: int
    num_files: int | None


@dataclass(frozen=True)
class LockedStage:
    """One stage as DVC recorded it when it last ran.

    Attributes:
        cmd: the commands.
        deps: hash of each file and folder it read, by path.
        params: the keys it depended on and their values, per file.
        outs: what it wrote, by path.
    """

    cmd: tuple[str, ...]
    deps: dict[str, str]
    params: dict[str, dict[str, Any]]
    outs: dict[str, LockedOut]


def read_lock(root: Path, *, only: Collection[str] | None = None) -> dict[str, LockedStage]:
    """Every stage in dvc.lock by name, or those in `only`; none where nothing ever ran.

    Reads while holding DVC's own lock: DVC rewrites the file in place, and most beginnings of it
    are YAML too.

    Raises:
        DvcBusyError: DVC's lock can't be had.
        DvcProjectError: `root` holds no DVC project, or its dvc.lock is no lock file.
    """
    path = root / "dvc.lock"
    with hold_dvc_lock(root):
        text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return parse_lock(text if only is None else _cut_out(text, only), where=str(path))


def parse_lock(text: str, *, where: str) -> dict[str, LockedStage]:
    """The stages in the text of a dvc.lock; `where` names it in errors.

    Raises:
        DvcProjectError: the text is no lock file.
    """
    try:
        tree = yaml.load(text, Loader=_SAFE_LOADER) or {}  # noqa: S506 (it is a safe loader)
        return {name: _locked_stage(stage) for name, stage in tree.get("stages", {}).items()}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError) as error:
        raise DvcProjectError(
            f"{where} is no lock file of DVC's ({error!r}); run: dvc status"
        ) from error


@contextmanager
def hold_dvc_lock(root: Path) -> Iterator[None]:
    """Hold the lock that every DVC command takes while it reads or writes dvc.lock; waits for its turn.

    Raises:
        DvcBusyError: the lock can't be had.
        DvcProjectError: `root` holds no DVC project.
    """
    from dvc.config import Config, ConfigError
    from dvc.lock import LockError, make_lock

    folder = root / ".dvc"
    if not folder.is_dir():
        raise DvcProjectError(
            f"{root} has no .dvc folder; run from the folder that holds dvc.yaml, or make it with `dvc init`"
        )
    try:
        hardlink = Config(str(folder))["core"].get("hardlink_lock", False)
    except ConfigError as error:
        raise DvcProjectError(f"DVC can't read its settings in {folder}: {error}") from error
    (folder / "tmp").mkdir(exist_ok=True)
    lock = make_lock(
        str(folder / "tmp" / "lock"), tmp_dir=str(folder / "tmp"), hardlink_lock=hardlink, wait=True
    )
    try:
        lock.lock()
    except LockError as error:
        raise DvcBusyError(f"another DVC process is at work in {root}: {error}") from error
    try:
        yield
    finally:
        lock.unlock()


def _cut_out(text: str, names: Collection[str]) -> str:
    """The parts of a dvc.lock that hold these stages: parsing all of 600 stages takes 0.3 s of CPU."""
    starts = [(match.start(), match["name"].strip("'\"")) for match in _STAGE.finditer(text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    blocks = [
        text[start:end] for (start, name), end in zip(starts, ends, strict=True) if name in names
    ]
    return "stages:\n" + "".join(blocks) if blocks else ""


def _locked_stage(stage: Mapping[str, Any]) -> LockedStage:
    cmd = stage["cmd"]
    return LockedStage(
        cmd=tuple(cmd) if isinstance(cmd, list) else (cmd,),
        deps={dep["path"]: _hash(dep) for dep in stage.get("deps", [])},
        params=stage.get("params", {}),
        outs={
            out["path"]: LockedOut(
                _hash(out), size=int(out.get("size", 0)), num_files=out.get("nfiles")
            )
            for out in stage.get("outs", [])
        },
    )


def _hash(entry: Mapping[str, Any]) -> str:
    """The hash of one path; "" for an output that DVC doesn't keep, or one that is no file (a URL)."""
    return str(entry.get(entry.get("hash", "md5"), ""))
