"""Dagster's versions from DVC's records, so that both call the same things stale.

A **data version** is the hash of what a stage wrote. A **code version** is a hash of what would
make DVC run it again while its inputs from other stages stay the same: its command, its parameters,
and the sources it reads. Dagster has one code version per asset; what differs between the items of
a group (a parameter of one ablation arm) is therefore left out, and the check `dvc_status` speaks
for it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dagster_dvc.lock import LockedStage
from dagster_dvc.manifest import DvcManifest, StageNode

INPUTS_TAG = "dvc/inputs"
"""Tag of a materialization: a hash of everything that the stage read."""


def data_version(locked: LockedStage) -> str:
    """The md5 of the stage's output as DVC gives it; of several outputs, a hash over theirs."""
    hashes = [out.md5 for _, out in sorted(locked.outs.items())]
    return hashes[0] if len(hashes) == 1 else _digest(hashes)


def inputs_version(locked: LockedStage) -> str:
    """A hash over everything that the stage read."""
    return _digest(locked.deps)


def code_version(manifest: DvcManifest, group: str) -> str:
    """The code version of a group of stages as dvc.yaml, the parameter files and the sources define it now."""
    nodes = [manifest.stages[name] for name in manifest.groups[group]]
    first = nodes[0]
    params = {
        file: {
            key: value
            for key, value in values.items()
            if all(n.params.get(file, {}).get(key) == value for n in nodes)
        }
        for file, values in first.params.items()
    }
    sources = {
        path: md5 for path, md5 in manifest.sources.items() if all(path in n.deps for n in nodes)
    }
    return _digest([first.template, params, sources])


def recorded_code_version(manifest: DvcManifest, node: StageNode, *, locked: LockedStage) -> str:
    """The code version with which the stage was last run: the present one if nothing that defines it has changed."""
    if definition_changes(manifest, node, locked=locked):
        return _digest(
            [
                locked.cmd,
                locked.params,
                {path: md5 for path, md5 in locked.deps.items() if path in manifest.sources},
            ]
        )
    return code_version(manifest, node.group)


def definition_changes(manifest: DvcManifest, node: StageNode, *, locked: LockedStage) -> list[Any]:
    """What differs between a stage as it is defined now and as it was last run, inputs from other stages left aside.

    In the words of `dvc status`: "changed command", {"changed deps": {path or file of parameters:
    ...}}.
    """
    changed: dict[str, Any] = {}
    for file in {**node.params, **locked.params}:
        now, then = node.params.get(file, {}), locked.params.get(file, {})
        keys = {
            key: "modified"
            for key in {**now, **then}
            if _digest(now.get(key)) != _digest(then.get(key))
        }
        if keys:
            changed[file] = keys
    for path in node.deps:
        current = manifest.sources.get(path)
        if (current is not None and locked.deps.get(path) != current) or path not in locked.deps:
            changed[path] = "modified"
    command: list[Any] = [] if locked.cmd == node.cmd else ["changed command"]
    return command + ([{"changed deps": changed}] if changed else [])


def upstream_of_path(manifest: DvcManifest, node: StageNode, path: str) -> set[str]:
    """Groups of the stages that write the dependency `path` of `node`: the out itself, a folder around it, or parts of it."""
    wanted = Path(path)
    groups = set()
    for name in node.upstream:
        for out in map(Path, manifest.stages[name].outs):
            if out == wanted or out in wanted.parents or wanted in out.parents:
                groups.add(manifest.stages[name].group)
    return groups


def changed_paths(reasons: Iterable[Any], *, kind: str) -> dict[str, str]:
    """The paths in what `changed_stages` gives for one stage: kind is "changed deps" or "changed outs"."""
    return {
        path: state
        for reason in reasons
        if isinstance(reason, Mapping)
        for path, state in (reason.get(kind) or {}).items()
    }


def _digest(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree, sort_keys=True, default=str).encode()).hexdigest()[:32]
