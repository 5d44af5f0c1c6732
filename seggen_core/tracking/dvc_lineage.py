"""Reads the origin of a run's inputs for its tags: the hashes in dvc.lock and the commit of git.

`dagster_dvc` reads dvc.lock, too. Neither package may import the other, so each has its reader.
This one reads only hashes and decides nothing by them. DVC rewrites dvc.lock in place while other
stages run. A read in such a moment is repeated a few times. Then tags may lack a hash, but they
never hold a part of one.
"""

import re
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from seggen_core.project.artefacts import MAX_JSON_BYTES, read_regular

_FAST_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""PyYAML's C parser, if it has one: seven times as fast. Every stage reads dvc.lock at its start.
"""

_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")


@dataclass(frozen=True)
class DvcLock:
    """The md5s and parameters in dvc.lock.

    Attributes:
        stages: stage name ("masksyn@car") to path (relative to the project root) and md5 of its
            outputs.
        dependencies: stage name to the paths and md5s that its last run read.
        params: stage name to the keys of params.yaml ("train_seg.common") that it depends on, and
            their values in its last run.
    """

    stages: Mapping[str, Mapping[str, str]]
    dependencies: Mapping[str, Mapping[str, str]]
    params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Path to md5, of the outputs of all stages."""
        return {path: md5 for outs in self.stages.values() for path, md5 in outs.items()}

    def find(self, path: str) -> dict[str, str]:
        """Return the outputs with md5s that make up `path`.

        That is the output at or above `path`, else all outputs below it: data/synthetic/masksyn
        has one for each class.
        """
        parts = Path(path).parts
        for length in range(len(parts), 0, -1):
            if (md5 := self.outputs.get(place := "/".join(parts[:length]))) is not None:
                return {place: md5}
        return {p: md5 for p, md5 in sorted(self.outputs.items()) if p.startswith(f"{path}/")}

    def current_dependencies(self, stage: str) -> dict[str, str]:
        """Return the dependencies of `stage` with the hashes that upstream stages recorded."""
        return {p: self.outputs.get(p, md5) for p, md5 in self.dependencies.get(stage, {}).items()}


def read_dvc_lock(path: Path, *, attempts: int = 3) -> DvcLock:
    """Read dvc.lock; an empty one if the file is missing or stays unreadable."""
    for attempt in range(attempts):
        try:
            text = read_regular(path, max_bytes=MAX_JSON_BYTES).decode("utf-8")
            if not text.endswith("\n"):
                raise ValueError("dvc.lock is being written")
            tree = yaml.load(text, Loader=_FAST_SAFE_LOADER)  # noqa: S506 (it is a safe loader)
            stages = {name: dict(stage) for name, stage in tree["stages"].items()}
        except FileNotFoundError:
            break
        except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError):
            time.sleep(0.05 if attempt + 1 < attempts else 0.0)
            continue
        return DvcLock(
            {name: _hashes(stage.get("outs")) for name, stage in stages.items()},
            {name: _hashes(stage.get("deps")) for name, stage in stages.items()},
            {name: _params(stage.get("params")) for name, stage in stages.items()},
        )
    return DvcLock({}, {})


def _params(files: Any) -> dict[str, Any]:
    """Return the parameters of one stage, of all parameter files."""
    sections = files.values() if isinstance(files, dict) else ()
    return {str(k): v for part in sections if isinstance(part, dict) for k, v in part.items()}


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
