"""Results of blocking checks, stored with the content that they belong to.

Dagster keeps one result of a check for all of an asset, and has no public way to read the result of
one partition. Within a run it stops what is downstream of a failed blocking check; its backfill and
its automation go on. So an asset looks here before it runs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from dagster_dvc.files import read_object, write_json
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.lock import LockedStage, read_lock


@dataclass(frozen=True)
class Verdicts:
    """Failures of blocking checks, one file a stage.

    A failure belongs to one record in dvc.lock. It doesn't count for another content.

    Attributes:
        folder: `verdicts` in the project's state folder.
    """

    folder: Path

    def note(
        self, node: StageNode, *, locked: LockedStage, check: str, problem: str | None
    ) -> None:
        """Store the result of a blocking check: why it failed, or None where it passed."""
        failed = self.failed(node.name, locked=locked)
        if failed.get(check) == problem:
            return
        failed = {name: text for name, text in failed.items() if name != check}
        if problem is not None:
            failed[check] = problem
        write_json(self._file(node.name), {"record": locked.digest, "failed": failed})

    def failed(self, name: str, *, locked: LockedStage) -> dict[str, str]:
        """Return the blocking checks that failed on what a stage made last, and why."""
        stored = read_object(self._file(name))
        failed = stored.get("failed")
        if stored.get("record") != locked.digest or not isinstance(failed, dict):
            return {}
        return {str(check): str(problem) for check, problem in failed.items()}

    def failed_inputs(
        self, manifest: DvcManifest, node: StageNode, *, root: Path, checks: Collection[str]
    ) -> list[str]:
        """Return what holds a stage up: a line for each of `checks` that failed on its inputs."""
        inputs = [n for n in manifest.visible_upstream(node.name) if self._file(n).is_file()]
        lock: Mapping[str, LockedStage] = read_lock(root, only=inputs) if inputs else {}
        return [
            f"check {check} of {name} failed: {problem}"
            for name in inputs
            if name in lock
            for check, problem in self.failed(name, locked=lock[name]).items()
            if check in checks
        ]

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.json"
