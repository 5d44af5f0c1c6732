"""Reads the origin of a run's inputs for its tags: the hashes in dvc.lock and the commit of git.

`dagster_dvc` reads dvc.lock, too. Neither package may import the other, so each has its reader.
This one reads only hashes and decides nothing by them. DVC rewrites dvc.lock in place while other
stages run. A read in such a moment is repeated a few times. Then tags may lack a hash, but they
never hold a part of one.
"""

import hashlib
import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_FAST_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's C parser, if it has one: seven times as fast. Every stage reads dvc.lock at its start.
"""

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class DvcLock:
    """The md5s in dvc.lock.

    Attributes:
        outputs: path (relative to the project root) to md5, of every stage's outputs.
        dependencies: stage name ("masksyn@car") to the paths and md5s that its last run read.
    """

    outputs: Mapping[str, str]
    dependencies: Mapping[str, Mapping[str, str]]

    def digest(self, path: str) -> str | None:
        """Return the md5 of the output at or above `path`, else one over the outputs below it."""
        parts = Path(path).parts
        for length in range(len(parts), 0, -1):
            if (md5 := self.outputs.get("/".join(parts[:length]))) is not None:
                return md5
        below = [f"{p} {md5}\n" for p, md5 in self.outputs.items() if p.startswith(f"{path}/")]
        text = "".join(sorted(below)).encode()
        return hashlib.md5(text, usedforsecurity=False).hexdigest() if below else None

    def current_dependencies(self, stage: str) -> dict[str, str]:
        """Return the dependencies of `stage` with the hashes that upstream stages recorded."""
        return {p: self.outputs.get(p, md5) for p, md5 in self.dependencies.get(stage, {}).items()}


def read_dvc_lock(path: Path, *, attempts: int = 3) -> DvcLock:
    """Read dvc.lock; an empty one if the file is missing or stays unreadable."""
    for attempt in range(attempts):
        try:
            text = path.read_text(encoding="utf-8")
            if not text.endswith("\n"):
                raise ValueError("dvc.lock is being written")
            tree = yaml.load(text, Loader=_FAST_SAFE_LOADER)  # noqa: S506 (it is a safe loader)
            stages = {name: dict(stage) for name, stage in tree["stages"].items()}
        except FileNotFoundError:
            break
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
            time.sleep(0.05 if attempt + 1 < attempts else 0.0)
            continue
        outputs = {k: v for stage in stages.values() for k, v in _hashes(stage.get("outs")).items()}
        return DvcLock(outputs, {name: _hashes(s.get("deps")) for name, s in stages.items()})
    return DvcLock({}, {})


def _hashes(entries: Any) -> dict[str, str]:
    rows = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return {
        str(e["path"]): str(e["md5"])
        for e in rows
        if "path" in e and _MD5.fullmatch(str(e.get("md5", "")))
    }


def git_tags(root: Path) -> dict[str, str]:
    """Return the commit of `root`, and whether tracked files other than dvc.lock differ from it.

    Outside git, it returns {}.
    """

    def git(*arguments: str) -> str | None:
        try:
            command = ["git", "-C", str(root), *arguments]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=5)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--verify", "HEAD")
    if commit is None:
        return {}
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!dvc.lock")
    is_dirty = "unknown" if changes is None else str(bool(changes)).lower()
    return {"mlflow.source.git.commit": commit, "git.dirty": is_dirty}
