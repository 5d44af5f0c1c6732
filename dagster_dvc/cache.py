"""Brings DVC's cache back from the project's folders where somebody has deleted it.

DVC calls a result changed that isn't in its cache, and `dvc repro` makes it again, however long
that takes, although it lies there as dvc.lock describes it.
"""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from dagster_dvc.graph import DvcManifest
from dagster_dvc.repo import open_stages
from dagster_dvc.status import changed_paths, stage_changes

NOT_IN_CACHE = "not in cache"
"""What `dvc status` says of such a result."""


def due_changes(
    manifest: DvcManifest, *, root: Path, say: Callable[[str], None]
) -> dict[str, list[Any]]:
    """`stage_changes`, once results that only the cache lacks are back in it.

    Args:
        manifest: of the project.
        root: the folder that holds dvc.yaml.
        say: gets a sentence for people where something is brought back.
    """
    changes = stage_changes(manifest, root=root)
    if not (names := stages_not_in_cache(changes)):
        return changes
    refilled = refill_cache(root, names)
    if not refilled:
        return changes
    say(
        f"DVC's cache lacked what is in the project as dvc.lock describes it, such as "
        f"{refilled[0]} ({len(refilled)} in all): it is back in the cache"
    )
    return stage_changes(manifest, root=root)


def stages_not_in_cache(changes: Mapping[str, list[Any]]) -> set[str]:
    """Return the stages with an output that DVC's cache lacks.

    Args:
        changes: as `stage_changes` returns them.
    """
    return {
        name
        for name, reasons in changes.items()
        if NOT_IN_CACHE in changed_paths(reasons, kind="changed outs").values()
    }


def refill_cache(root: Path, names: Collection[str]) -> list[str]:
    """Copy outputs of some stages to DVC's cache; return their paths.

    Only those are copied that the cache lacks and that have the hash of dvc.lock. dvc.lock stays.

    Raises:
        DvcProjectError: `root` holds no DVC project, or DVC can't read it.
        OSError: there is no room for them.
    """
    refilled = []
    with open_stages(root) as (_, stages):
        for stage in stages:
            for out in stage.outs if stage.name in names else ():
                is_recorded = out.hash_info and out.use_cache
                if is_recorded and not out.workspace_status() and out.changed_cache():
                    out.commit(relink=False)
                    refilled.append(str(out))
    return refilled
