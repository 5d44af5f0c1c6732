"""seggen's checks in Dagster: `seggen_core.checks` evaluates and stores them, for every door."""

import io
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_dvc.blueprint import CheckBook, CheckOutcome, StageCheck
from dagster_dvc.events import markdown_picture, shown_number
from dagster_dvc.graph import DvcManifest, StageNode
from seggen_core.checks.registry import PARTITION_CHECKS, STAGE_CHECKS, Check

if TYPE_CHECKING:
    from seggen_core.checks.finding import Finding
    from seggen_core.checks.results import Checked
    from seggen_core.config import ChecksConfig


def build_checks(manifest: DvcManifest, *, methods: Collection[str]) -> list[StageCheck]:
    """The checks of all assets; `FindingBook` has their results.

    Args:
        manifest: the project's stages.
        methods: groups of stages that make class partitions.
    """
    groups: dict[str, set[str]] = {}
    checks: dict[str, Check] = {}
    for group in manifest.assets:
        for check in PARTITION_CHECKS if group in methods else STAGE_CHECKS.get(group, ()):
            checks.setdefault(check.name, check)
            groups.setdefault(check.name, set()).add(group)
    return [
        StageCheck(
            name,
            check.description,
            blocking=check.blocking,
            applies=groups[name].__contains__,
            evaluate=None,
        )
        for name, check in checks.items()
    ]


class FindingBook(CheckBook):
    """What `seggen_core.checks` found, in a shell or here; see `CheckBook`.

    Args:
        has_checks: whether a group of stages has checks.
    """

    def __init__(self, has_checks: Callable[[str], bool]) -> None:
        """Know nothing yet."""
        self._has_checks = has_checks

    def look(self, root: Path, node: StageNode) -> Mapping[str, CheckOutcome]:
        """See `CheckBook.look`."""
        from seggen_core.checks.results import look

        checked = self._checked(root, node)
        return {} if checked is None else _outcomes(look(checked))

    def recall(self, root: Path, node: StageNode) -> Mapping[str, CheckOutcome]:
        """See `CheckBook.recall`."""
        from seggen_core.checks.results import recall

        checked = self._checked(root, node)
        return {} if checked is None else _outcomes(recall(checked))

    def _checked(self, root: Path, node: StageNode) -> "Checked | None":
        from seggen_core.checks.results import Checked
        from seggen_core.project.paths import ProjectPaths

        if not self._has_checks(node.group):
            return None
        file = root / "params.yaml"
        state = file.stat()
        limits = _read_limits(str(file), state.st_mtime_ns, state.st_size)
        return Checked(node.group, node.key, ProjectPaths(root), limits)


def outcome_of(finding: "Finding") -> CheckOutcome:
    """What a finding says, as Dagster shows it: numbers, and the failing example's picture."""
    metadata: dict[str, Any] = {n: shown_number(value) for n, value in finding.numbers.items()}
    if finding.example is not None:
        metadata["example"] = finding.example
    if finding.picture is not None and not finding.passed:
        metadata["example_picture"] = sample_picture(*finding.picture)
    severity = dg.AssetCheckSeverity.ERROR if finding.blocks else dg.AssetCheckSeverity.WARN
    return CheckOutcome(
        passed=finding.passed, description=finding.summary, metadata=metadata, severity=severity
    )


def sample_picture(folder: Path, key: str) -> dg.MetadataValue:
    """A sample of a store as a Markdown picture: image, mask and overlay."""
    from seggen_core.colors.palette import class_palette
    from seggen_core.errors import SegGenError
    from seggen_core.reports.grids import pair_grid
    from seggen_core.store.reader import SampleStore

    try:
        store = SampleStore(folder)
        palette = class_palette(store.manifest["store"]["num_classes"])
        grid = pair_grid([store[key]], palette=palette, num_columns=1, scale=3)
    except SegGenError as error:  # the sample is what the check found damaged
        return dg.MetadataValue.text(str(error))
    buffer = io.BytesIO()
    grid.save(buffer, format="PNG")
    return markdown_picture(key, buffer.getvalue(), kind="image/png")


def _outcomes(findings: "Mapping[str, Finding]") -> dict[str, CheckOutcome]:
    return {name: outcome_of(finding) for name, finding in findings.items()}


@lru_cache(maxsize=8)
def _read_limits(file: str, modified: int, size: int) -> "ChecksConfig":  # noqa: ARG001 (they name the content)
    """Read the limits in params.yaml; the sensor asks for them for every stage."""
    from seggen_core.config import load_config

    return load_config(Path(file)).checks
