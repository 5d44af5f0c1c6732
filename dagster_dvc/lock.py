"""dvc.lock as data: what DVC recorded of the last run of each stage."""

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from dagster_dvc.busy import hold_dvc_lock
from dagster_dvc.errors import DvcProjectError

_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Seven times as fast as the loader in Python, where PyYAML has its C part."""

_HEAD = "schema: '2.0'\nstages:\n"
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

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that name this record."""
        return digest_of(asdict(self))


def digest_of(tree: Any) -> str:
    """32 hexadecimal digits that name a JSON-ready tree."""
    text = json.dumps(tree, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def read_lock(
    root: Path, *, only: Collection[str] | None = None, patience: float | None = None
) -> dict[str, LockedStage]:
    """Return every stage in dvc.lock by name, or those in `only`; none where nothing ever ran.

    DVC rewrites the file in place, and most beginnings of it are YAML too. So the bytes are copied
    while DVC's own lock is held, which takes milliseconds, and parsed after that.

    Args:
        root: the folder that holds dvc.yaml.
        only: names of stages; None takes all.
        patience: seconds to wait for a DVC command that holds the lock; None waits for ever.

    Raises:
        DvcBusyError: another process held the lock for all that time.
        DvcProjectError: `root` holds no DVC project, or its dvc.lock is damaged or no file.
    """
    path = root / "dvc.lock"
    if path.exists() and not path.is_file():  # to read from a FIFO would wait for a writer
        raise DvcProjectError(f"{path} is no regular file; delete it, and run again")
    with hold_dvc_lock(root, patience=patience):
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return {}
    text = content.decode("utf-8", errors="replace")
    if text.strip() and only is not None:
        text = _cut_out(text, only)
    return parse_lock(text, where=str(path))


def parse_lock(text: str, *, where: str) -> dict[str, LockedStage]:
    """Return the stages in the text of a dvc.lock; `where` names it in errors.

    Raises:
        DvcProjectError: the text is empty, cut off or no lock file at all.
    """
    try:
        tree = yaml.load(text, Loader=_SAFE_LOADER)  # noqa: S506 (it is a safe loader)
        tree["schema"]  # DVC refuses a file without it
        return {name: _locked_stage(stage) for name, stage in tree.get("stages", {}).items()}
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        what = "damaged or cut off" if text.strip() else "empty"
        raise DvcProjectError(
            f"{where} is {what}; DVC writes it in place, and was killed or met a full disk "
            "while it did. Where git has the file, bring it back with `git checkout dvc.lock`; "
            "else delete it. Then run again: DVC takes finished results from its run cache"
        ) from error


def _cut_out(text: str, names: Collection[str]) -> str:
    """Return the parts of a dvc.lock that hold these stages: to parse all of 600 takes 0.3 s."""
    starts = [(match.start(), match["name"].strip("'\"")) for match in _STAGE.finditer(text)]
    ends = [start for start, _ in starts[1:]] + [len(text)]
    blocks = [
        text[start:end] for (start, name), end in zip(starts, ends, strict=True) if name in names
    ]
    return _HEAD + ("".join(blocks) or "  {}\n")


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
    """Return the hash of one path; "" for one that is no file (a URL), which DVC tells otherwise.

    Raises:
        ValueError: nothing but the path is there: the file was cut off behind it.
    """
    if entry.keys() <= {"path", "hash"}:
        raise ValueError(f"{entry['path']} has no hash")
    return str(entry.get(entry.get("hash", "md5"), ""))
