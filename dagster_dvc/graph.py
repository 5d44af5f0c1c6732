"""The stage graph of a DVC project as plain data, without DVC."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import PurePath
from typing import Any

from dagster_dvc.errors import UnknownStageError


@dataclass(frozen=True)
class StageNode:
    """One stage, with every `${...}` resolved. Paths are relative to the project folder."""

    name: str
    """"masksyn@car"."""
    group: str
    """Its entry in dvc.yaml: "masksyn"."""
    key: str | None
    """What follows the "@"; None for a stage that stands alone."""
    dimensions: dict[str, Any]
    """The matrix values that made it ({"class": "car"}), or {"key": key} for a member of a
    `foreach`."""
    cmd: tuple[str, ...]
    """Shell commands, run one after the other."""
    template: tuple[str, ...]
    """`cmd` as dvc.yaml states it, the same for all stages of a group; `cmd` itself for a stage
    that stands alone."""
    deps: tuple[str, ...]
    """Files and folders it reads."""
    outs: tuple[str, ...]
    """Files and folders it writes, metrics and plots among them."""
    metrics: tuple[str, ...]
    """Those of `outs` that are DVC metrics."""
    plots: tuple[str, ...]
    """Those of `outs` that are DVC plots."""
    params: dict[str, dict[str, Any]]
    """{"params.yaml": {"seed": 0, "masksyn": {...}}}: the keys it depends on and their values, per
    file. A key that the file lacks isn't there."""
    desc: str | None
    """Its description in dvc.yaml."""
    meta: dict[str, Any]
    """What dvc.yaml says of it below `meta`, for other tools than DVC."""
    upstream: tuple[str, ...]
    """Names of the stages that write what it reads."""
    always_changed: bool = False
    """Whether DVC runs it each time."""

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "StageNode":
        """The inverse of `dataclasses.asdict` followed by JSON, which turns tuples into lists."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()
        }
        return cls(**fields)

    @property
    def is_hidden(self) -> bool:
        """Whether Dagster shows no asset for it: `meta: {dagster: {hidden: true}}`."""
        meta = self.meta.get("dagster")
        return isinstance(meta, dict) and meta.get("hidden") is True


@dataclass(frozen=True)
class DvcManifest:
    """All stages of a project's dvc.yaml, in the order in which it states them.

    Attributes:
        stages: by name.
        sources: DVC's hash of every file and folder that a stage reads and no stage writes, other
            than a hidden one; those that don't exist aren't there.
    """

    stages: dict[str, StageNode]
    sources: dict[str, str]

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "DvcManifest":
        """The inverse of `to_json`."""
        nodes = [StageNode.from_json(stage) for stage in tree["stages"]]
        return cls({node.name: node for node in nodes}, tree["sources"])

    def to_json(self) -> dict[str, Any]:
        """The manifest as a JSON-ready tree."""
        return {"stages": [asdict(node) for node in self.stages.values()], "sources": self.sources}

    @cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """Stage names of each entry of dvc.yaml; a stage that stands alone is a group of one."""
        groups: dict[str, list[str]] = {}
        for node in self.stages.values():
            groups.setdefault(node.group, []).append(node.name)
        return {group: tuple(names) for group, names in groups.items()}

    @cached_property
    def assets(self) -> dict[str, tuple[str, ...]]:
        """Those of `groups` that are assets in Dagster: all but the hidden ones."""
        return {
            group: names
            for group, names in self.groups.items()
            if not self.stages[names[0]].is_hidden
        }

    @cached_property
    def _order(self) -> tuple[str, ...]:
        graph = {name: node.upstream for name, node in self.stages.items()}
        return tuple(TopologicalSorter(graph).static_order())

    def topological_order(self) -> tuple[str, ...]:
        """Every stage after the ones it reads from."""
        return self._order

    def visible_upstream(self, name: str) -> tuple[str, ...]:
        """The stages that a stage reads from; a hidden one stands for those that it reads from."""
        visible: dict[str, None] = {}
        for parent in self.stages[name].upstream:
            if self.stages[parent].is_hidden:
                visible |= dict.fromkeys(self.visible_upstream(parent))
            else:
                visible[parent] = None
        return tuple(visible)

    def hidden_upstream(self, name: str) -> set[str]:
        """The hidden stages between a stage and the visible ones that it reads from."""
        hidden = {parent for parent in self.stages[name].upstream if self.stages[parent].is_hidden}
        return hidden.union(*(self.hidden_upstream(parent) for parent in hidden))

    def select(self, targets: Iterable[str]) -> set[str]:
        """Targets, which are stages and groups, and all that is upstream; everything for none.

        Raises:
            UnknownStageError: a target is neither a stage nor a group.
        """
        pending: list[str] = []
        for target in targets:
            if target in self.stages:
                pending.append(target)
            elif target in self.groups:
                pending.extend(self.groups[target])
            else:
                near = get_close_matches(target, self.stages if "@" in target else self.groups)
                hint = (
                    f"did you mean {', '.join(near)}?"
                    if near
                    else f"known groups: {', '.join(self.groups)}"
                )
                raise UnknownStageError(
                    f"{target!r} is neither a stage nor a group of dvc.yaml; {hint}"
                )
        if not pending:
            return set(self.stages)
        selected: set[str] = set()
        while pending:
            name = pending.pop()
            if name not in selected:
                selected.add(name)
                pending.extend(self.stages[name].upstream)
        return selected


def overlaps(path: str, other: str) -> bool:
    """Whether two paths are the same, or one of them lies in the other."""
    one, two = PurePath(path), PurePath(other)
    return one == two or one in two.parents or two in one.parents
