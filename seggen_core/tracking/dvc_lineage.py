"""Where a run's inputs come from, for its tags and dataset digests: dvc.lock and git, read as plain files.

DVC rewrites dvc.lock in place while other stages run. A read that meets such a moment is repeated,
then given up: tags may lack a hash, they never hold half of one. Nothing here decides whether a
stage is stale; DVC does.
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
"""Seven times as fast as `yaml.safe_load` where PyYAML has its C part: a lock of hundreds of stages is read at every start."""

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class DvcLock:
    """The parts of dvc.lock that lead from a path to its content.

    Attributes:
        outputs: path (relative to the project root) to md5, of every stage's outputs.
        dependencies: stage name ("masksyn@car") to its dependencies' paths and md5s, as of its last
            run.
    """

    outputs: Mapping[str, str]
    dependencies: Mapping[str, Mapping[str, str]]

    def digest(self, path: str) -> str | None:
        """Return the md5 of the output at `path`, of the output that holds it, or over the outputs below it."""
        parts = Path(path).parts
        for length in range(len(parts), 0, -1):
            if (md5 := self.outputs.get("/".join(parts[:length]))) is not None:
                return md5
        below = sorted(
            (p, md5) for p, md5 in self.outputs.items() if Path(p).parts[: len(parts)] == parts
        )
        if not below:
            return None
        return hashlib.md5(
            "".join(f"{p} {md5}\n" for p, md5 in below).encode(), usedforsecurity=False
        ).hexdigest()

    def current_dependencies(self, stage: str) -> dict[str, str]:
        """Return what `stage` depends on, with the hashes that its inputs' own stages recorded last."""
        return {p: self.outputs.get(p, md5) for p, md5 in self.dependencies.get(stage, {}).items()}


def read_dvc_lock(path: Path, *, attempts: int = 3) -> DvcLock:
    """Read dvc.lock; an empty one where the file is missing or stays unreadable."""
    for attempt in range(attempts):
        if attempt:
            time.sleep(0.05)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            break
        except (OSError, UnicodeDecodeError):
            continue
        if not text.endswith("\n"):
            continue
        try:
            tree = yaml.load(text, Loader=_FAST_SAFE_LOADER)  # noqa: S506 (it is a safe loader)
        except yaml.YAMLError:
            continue
        if isinstance(tree, dict) and isinstance(tree.get("stages"), dict):
            stages = {
                name: stage for name, stage in tree["stages"].items() if isinstance(stage, dict)
            }
            outputs = {
                p: md5 for stage in stages.values() for p, md5 in _hashes(stage.get("outs")).items()
            }
            return DvcLock(
                outputs, {name: _hashes(stage.get("deps")) for name, stage in stages.items()}
            )
    return DvcLock({}, {})


def _hashes(entries: Any) -> dict[str, str]:
    rows = [e for e in entries if isinstance(e, dict)] if isinstance(entries, list) else []
    return {
        str(e["path"]): str(e["md5"])
        for e in rows
        if "path" in e and _MD5.fullmatch(str(e.get("md5", "")))
    }


def git_tags(root: Path) -> dict[str, str]:
    """Return the commit that `root` is at and whether tracked files differ from it (dvc.lock aside); {} outside git."""

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
    return {
        "mlflow.source.git.commit": commit,
        "git.dirty": "unknown" if changes is None else str(bool(changes)).lower(),
    }
