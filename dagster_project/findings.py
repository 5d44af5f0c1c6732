"""seggen's findings as checks of stages: `seggen_core.checks` looks, params.yaml has the floors."""

import io
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from dagster_dvc.blueprint import CheckOutcome, StageCheck
from dagster_dvc.events import markdown_picture
from dagster_dvc.graph import StageNode

if TYPE_CHECKING:
    from seggen_core.checks import Finding


def finding_check(
    name: str, function: str, description: str, *, groups: Collection[str]
) -> StageCheck:
    """A blocking check; it fails as an error unless its finding is a mere warning.

    Args:
        name: of the check in Dagster.
        function: of `seggen_core.checks`; it looks at the first output of a stage.
        description: what has to hold.
        groups: groups of stages that have the check.
    """

    def evaluate(root: Path, node: StageNode) -> CheckOutcome:
        from seggen_core import checks
        from seggen_core.config import load_config
        from seggen_core.project.paths import ProjectPaths

        floors = load_config(root / "params.yaml").checks
        look = getattr(checks, function)
        return outcome_of(look(root / node.outs[0], paths=ProjectPaths(root), checks=floors))

    return StageCheck(
        name, description, blocking=True, applies=groups.__contains__, evaluate=evaluate
    )


def outcome_of(finding: "Finding") -> CheckOutcome:
    """What a finding says, as Dagster shows it: numbers, and the failing example's picture."""
    metadata: dict[str, Any] = dict(finding.numbers)
    if finding.example is not None:
        metadata["example"] = finding.example
    if finding.picture is not None:
        metadata["example_picture"] = sample_picture(*finding.picture)
    severity = dg.AssetCheckSeverity.ERROR if finding.blocks else dg.AssetCheckSeverity.WARN
    return CheckOutcome(
        passed=finding.passed, description=finding.summary, metadata=metadata, severity=severity
    )


def sample_picture(folder: Path, key: str) -> dg.MetadataValue:
    """A sample of a store as a Markdown picture: image, mask and overlay."""
    from seggen_core.colors.palette import class_palette
    from seggen_core.reports.grids import pair_grid
    from seggen_core.store.reader import SampleStore

    store = SampleStore(folder)
    palette = class_palette(store.manifest["store"]["num_classes"])
    buffer = io.BytesIO()
    pair_grid([store[key]], palette=palette, num_columns=1, scale=3).save(buffer, format="PNG")
    return markdown_picture(key, buffer.getvalue(), kind="image/png")
