"""The order in which stages run, and which needn't be looked at."""

from collections.abc import Callable
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from dagster_dvc.execution import StageResult
from dagster_dvc.manifest import DvcManifest


@dataclass
class Schedule:
    """Decides which stage comes next, and which needn't be looked at.

    A stage is due when it has changed itself or when something upstream of it was made anew. Of the
    stages that are ready, the one with the longest path still ahead of it goes first.

    Args:
        manifest: the whole graph.
        selected: the stages to bring up to date.
        changed: the stages that DVC calls changed.
        durations: seconds that stages took before; a stage without one is taken to be like the
            others of its group.
    """

    manifest: DvcManifest
    selected: set[str]
    changed: set[str]
    durations: dict[str, float]
    results: dict[str, StageResult] = field(default_factory=dict)
    up_to_date: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._ready: list[str] = []
        self._sorter = TopologicalSorter({name: self._upstream(name) for name in self.selected})
        self._sorter.prepare()
        self._path: dict[str, float] = {}
        for name in reversed(self.manifest.topological_order()):
            own = self.expected_seconds(name)
            self._path[name] = self._path.get(name, 0.0) + own
            for upstream in self.manifest.stages[name].upstream:
                self._path[upstream] = max(self._path.get(upstream, 0.0), self._path[name])

    def pop(self, may_start: Callable[[str], bool] = lambda _: True) -> str | None:
        """The next stage to run; None while there is nothing to do before a running one has ended.

        Stages for which `may_start` says no wait, and others go before them.
        """
        while new := self._sorter.get_ready():
            for name in new:
                if self._is_due(name):
                    self._ready.append(name)
                else:
                    self.up_to_date.add(name)
                    self._sorter.done(name)
        candidates = [name for name in self._ready if may_start(name)]
        if not candidates:
            return None
        name = max(candidates, key=lambda candidate: (self._path[candidate], candidate))
        self._ready.remove(name)
        return name

    def finish(self, result: StageResult) -> None:
        """Note how a stage has ended."""
        self.results[result.name] = result
        if result.ok:
            self._sorter.done(result.name)

    def expected_seconds(self, name: str) -> float:
        """What the stage will take, going by what it or its group took before; 1 where nothing is known."""
        if name in self.durations:
            return self.durations[name]
        members = self.manifest.groups[self.manifest.stages[name].group]
        known = [self.durations[member] for member in members if member in self.durations]
        return sum(known) / len(known) if known else 1.0

    def due(self) -> list[str]:
        """The stages that would run if everything downstream of a change were made anew, in a possible order."""
        due: set[str] = set()
        for name in self.manifest.topological_order():
            if name in self.selected and (
                name in self.changed or due.intersection(self._upstream(name))
            ):
                due.add(name)
        return [name for name in self.manifest.topological_order() if name in due]

    def _upstream(self, name: str) -> tuple[str, ...]:
        return tuple(
            upstream
            for upstream in self.manifest.stages[name].upstream
            if upstream in self.selected
        )

    def _is_due(self, name: str) -> bool:
        renewed = {
            done for done, result in self.results.items() if result.outcome in ("ran", "cached")
        }
        return name in self.changed or not renewed.isdisjoint(self._upstream(name))
