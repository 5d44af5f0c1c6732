"""What definitions are made from: the stages of a project, and how Dagster is to see them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dagster as dg

from dagster_dvc.events import StageReader
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.translator import DvcTranslator


@dataclass(frozen=True)
class CheckOutcome:
    """What a check found.

    Attributes:
        passed: nothing is wrong.
        description: one sentence for people.
        metadata: numbers, and where it failed an example.
        severity: of a failure; only an error holds up what is downstream of a blocking check.
    """

    passed: bool
    description: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR

    @property
    def is_error(self) -> bool:
        """Whether it failed, and not as a mere warning."""
        return not self.passed and self.severity == dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class StageCheck:
    """A check of single stages.

    Attributes:
        name: unique among the checks of an asset.
        description: what has to hold.
        blocking: whether a failure holds up what is downstream.
        applies: whether a group of stages has this check.
        evaluate: looks at what one stage made; gets the project folder and the stage. None: the
            project keeps the result itself, and `Blueprint.book` has it.
    """

    name: str
    description: str
    blocking: bool
    applies: Callable[[str], bool]
    evaluate: Callable[[Path, StageNode], CheckOutcome] | None


class CheckBook:
    """The results of a project's own checks, for a project that also checks without Dagster."""

    def look(self, root: Path, node: StageNode) -> Mapping[str, CheckOutcome]:
        """What the checks of a stage find, by name; what isn't known yet is evaluated."""
        return self.recall(root, node)

    def recall(self, root: Path, node: StageNode) -> Mapping[str, CheckOutcome]:  # noqa: ARG002 (for subclasses)
        """What is known of a stage as it is now, by name; nothing is evaluated that takes long."""
        return {}


@dataclass(frozen=True)
class Blueprint:
    """What definitions are made from.

    Attributes:
        manifest: the project's stages.
        checks: of what stages made.
        translator: derives the properties of assets.
        reader: reads metadata and progress from the files of stages.
        book: has the results of the checks that have no `evaluate`.
    """

    manifest: DvcManifest
    checks: Sequence[StageCheck] = ()
    translator: DvcTranslator = field(default_factory=DvcTranslator)
    reader: StageReader = field(default_factory=StageReader)
    book: CheckBook = field(default_factory=CheckBook)

    def key(self, group: str) -> dg.AssetKey:
        """The asset of a group of stages."""
        return self.translator.get_asset_key(self.manifest, group)

    def checks_of(self, group: str) -> dict[str, StageCheck]:
        """The checks that a group of stages has, by name."""
        return {check.name: check for check in self.checks if check.applies(group)}

    def renewed(self, manifest: DvcManifest) -> "Blueprint":
        """The same for the stages as they are defined now."""
        return replace(self, manifest=manifest)
