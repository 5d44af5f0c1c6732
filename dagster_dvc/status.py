"""Which stages have changed: as `dvc status` says, or as dvc.lock alone tells."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from dagster_dvc.errors import DvcBusyError
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.lock import LockedStage, digest_of, read_lock
from dagster_dvc.repo import stage_reasons


def changed_stages(root: Path, *, patience: float | None = None) -> dict[str, list[Any]]:
    """What `dvc status` says: the changed stages, each with the reasons.

    A stage that isn't named is up to date as long as everything upstream of it is.

    Args:
        root: the folder that holds dvc.yaml.
        patience: seconds to wait for a DVC command that holds DVC's lock; None waits for ever.

    Raises:
        DvcBusyError: a stage is being run by another DVC process, or the lock was held for too
            long.
        DvcProjectError: `root` holds no DVC project, or DVC can't read it.
    """
    return stage_reasons(root, patience=patience)


def stage_changes(
    manifest: DvcManifest, *, root: Path, patience: float | None = None
) -> dict[str, list[Any]]:
    """`changed_stages`; while a running stage keeps DVC from answering, `lock_status`."""
    try:
        return changed_stages(root, patience=patience)
    except DvcBusyError:
        return lock_status(manifest, read_lock(root, patience=patience), root=root)


def lock_status(
    manifest: DvcManifest,
    lock: Mapping[str, LockedStage],
    *,
    root: Path,
    only: Collection[str] | None = None,
) -> dict[str, list[Any]]:
    """What dvc.lock tells of changed stages, in the words of `changed_stages`, without any data.

    It looks at the stages in `only`, or at all. It misses what only a look at the data shows:
    outputs that were altered by hand, and whether a folder of several stages' outputs has changed
    since it was read.
    """
    changed: dict[str, list[Any]] = {}
    outs = {path: out.md5 for stage in lock.values() for path, out in stage.outs.items()}
    for name in manifest.stages if only is None else only:
        node = manifest.stages[name]
        if name not in lock:
            changed[name] = [{"changed outs": dict.fromkeys(node.outs, "never made")}]
            continue
        reasons = definition_changes(manifest, node, locked=lock[name])
        inputs = {
            path: "modified" for path, md5 in lock[name].deps.items() if outs.get(path, md5) != md5
        }
        missing = {path: "deleted" for path in node.outs if not (root / path).exists()}
        reasons += [
            {kind: paths}
            for kind, paths in (("changed deps", inputs), ("changed outs", missing))
            if paths
        ]
        reasons += ["always changed"] if node.always_changed else []
        if reasons:
            changed[name] = reasons
    return changed


def definition_changes(manifest: DvcManifest, node: StageNode, *, locked: LockedStage) -> list[Any]:
    """What differs between a stage as it is defined now and as it was last run.

    Inputs that other stages write are left aside. The words are those of `dvc status`: "changed
    command", {"changed deps": {path or file of parameters: ...}}.
    """
    changed: dict[str, Any] = {}
    for file in {**node.params, **locked.params}:
        now, then = node.params.get(file, {}), locked.params.get(file, {})
        keys = {
            key: "modified"
            for key in {**now, **then}
            if digest_of(now.get(key)) != digest_of(then.get(key))
        }
        if keys:
            changed[file] = keys
    for path in node.deps:
        current = manifest.sources.get(path)
        if (current is not None and locked.deps.get(path) != current) or path not in locked.deps:
            changed[path] = "modified"
    command: list[Any] = [] if locked.cmd == node.cmd else ["changed command"]
    return command + ([{"changed deps": changed}] if changed else [])


def changed_paths(reasons: Iterable[Any], *, kind: str) -> dict[str, str]:
    """The paths in the reasons for one stage; kind is "changed deps" or "changed outs"."""
    return {
        path: state
        for reason in reasons
        if isinstance(reason, Mapping)
        for path, state in (reason.get(kind) or {}).items()
    }


_MAX_REASONS = 4
_STATES = {"modified": "changed", "new": "is new"}
_SINGLE_REASONS = {
    "changed command": "its command changed",
    "changed checksum": "it changed",
    "always changed": "it runs each time",
}


def in_words(reasons: Iterable[Any]) -> str:
    """Say in one line why a stage is changed, from the reasons of `changed_stages`.

    "data/synthetic/masksyn/car deleted; train_seg.p_aug changed"
    """
    parts: list[str] = []
    for reason in reasons:
        if not isinstance(reason, Mapping):
            parts.append(_SINGLE_REASONS.get(str(reason), str(reason)))
            continue
        for paths in reason.values():
            for path, state in (paths or {}).items():
                # Of a file of parameters DVC lists the keys.
                states = state.items() if isinstance(state, Mapping) else [(path, state)]
                parts += [f"{name} {_STATES.get(str(what), str(what))}" for name, what in states]
    shown = "; ".join(parts[:_MAX_REASONS])
    return shown + (f"; and {len(parts) - _MAX_REASONS} more" if len(parts) > _MAX_REASONS else "")
