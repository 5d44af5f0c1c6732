"""Chooses the next stage to run, and skips stages whose inputs did not change."""

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from graphlib import TopologicalSorter

from dagster_dvc.graph import DvcManifest, overlaps
from dagster_dvc.result import StageResult


@dataclass
class Schedule:
    """Chooses the next stage to run and skips stages whose inputs did not change.

    A stage is due when DVC calls it changed, or when a stage upstream wrote something else than
    before into what it reads. Of the stages that are ready, the one with the longest path still
    ahead of it goes first.

    Args:
        manifest: the whole graph.
        selected: the stages to bring up to date.
        changed: the stages that DVC calls changed.
        durations: seconds that stages took before; a stage without one is taken to be like the
            others of its group.
    """

    manifest: DvcManifest
    selected: Set[str]
    changed: Set[str]
    durations: Mapping[str, float] = field(default_factory=dict)
    results: dict[str, StageResult] = field(default_factory=dict, init=False)
    up_to_date: set[str] = field(default_factory=set, init=False)

    def __post_init__(self) -> None:
        """Find the longest path ahead of each stage."""
        self._ready: list[str] = []
        self._renewed: set[str] = set()
        self._sorter = TopologicalSorter({name: self._upstream(name) for name in self.selected})
        self._sorter.prepare()
        self._path: dict[str, float] = {}
        for name in reversed(self.manifest.topological_order()):
            self._path[name] = self._path.get(name, 0.0) + self.expected_seconds(name)
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
        self._ready.sort(key=lambda name: (self._path[name], name), reverse=True)
        chosen = next(filter(may_start, self._ready), None)
        if chosen is not None:
            self._ready.remove(chosen)
        return chosen

    def put_back(self, name: str) -> None:
        """Let a stage that was popped be popped again."""
        self._ready.append(name)

    def finish(self, result: StageResult) -> None:
        """Note how a stage has ended."""
        self.results[result.name] = result
        if result.ok:
            self._renewed.update(result.changed_outs)
            self._sorter.done(result.name)

    def expected_seconds(self, name: str) -> float:
        """What the stage will take, going by it or its group; 1 where nothing is known."""
        if name in self.durations:
            return self.durations[name]
        members = self.manifest.groups[self.manifest.stages[name].group]
        known = [self.durations[member] for member in members if member in self.durations]
        return sum(known) / len(known) if known else 1.0

    def due(self) -> list[str]:
        """The stages that would run if every stage wrote something new, in a possible order."""
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
        return name in self.changed or any(
            overlaps(dep, out) for dep in self.manifest.stages[name].deps for out in self._renewed
        )
