"""Sends what is known of a run after its end: its description, with links, and an arm's model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from seggen_core.tracking import describe
from seggen_core.tracking.log import Artifact, End, Event, Model, Start

if TYPE_CHECKING:
    from seggen_core.tracking.mlflow_store import MlflowStore

STAGES = "/stages"
"""What the name of an experiment of stages ends with; without it, it is that of the arms."""


@dataclass(frozen=True)
class RunDescription:
    """A run that ended.

    Attributes:
        events: all of the run.
        folder: that of the log.
    """

    events: Sequence[Event]
    folder: Path

    def send(self, store: "MlflowStore", *, run_id: str) -> None:
        """Send everything to a store. Sending it again changes nothing."""
        start = next((event for event in self.events if isinstance(event, Start)), None)
        ends = [event.status for event in self.events if isinstance(event, End)]
        if start is None or ends[-1:] != ["FINISHED"] or start.kind == "seed":
            return
        experiment = start.tags.get("dvc.exp")
        arms = start.experiment.removesuffix(STAGES)
        made_from = [
            replace(
                source,
                link=store.find_output(arms + STAGES, path=source.path, digest=source.digest),
            )
            for source in describe.sources(self.events)
        ]
        if start.kind == "arm":
            store.describe_run(run_id, describe.arm_text(self.events, made_from=made_from))
            for model in [event for event in self.events if isinstance(event, Model)]:
                files = self.folder / "artifacts"
                if all((files / file).is_file() for file in model.files.values()):
                    store.register(run_id, model, folder=files, experiment=experiment)
            return
        store.describe_run(run_id, describe.stage_text(self.events, made_from=made_from))
        if start.stage == "ablation" and experiment is None:
            self._describe_experiments(store, arms=arms)

    def _describe_experiments(self, store: "MlflowStore", *, arms: str) -> None:
        """Put the table of an ablation above its arms."""
        for event in self.events:
            if isinstance(event, Artifact) and event.path.endswith("ablation.md"):
                table = self.folder / "artifacts" / event.file
                if table.is_file():
                    list_page, comparisons = store.arm_pages(arms)
                    text = describe.experiment_text(
                        table.read_text(encoding="utf-8"), arms=list_page, comparisons=comparisons
                    )
                    store.describe_experiment(arms, text)
                    store.describe_experiment(arms + STAGES, describe.stages_text(arms))
