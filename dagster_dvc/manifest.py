"""The stage graph of a DVC project as plain data, and which of its stages have changed.

DVC has no public API for its graph: this is the only module that touches `dvc.repo.Repo` and what
hangs on it. The manifest is kept as JSON, so that reading it again neither imports DVC nor parses
dvc.yaml.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import cached_property
from graphlib import TopologicalSorter
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_dvc.errors import DvcBusyError, DvcProjectError, UnknownStageError

if TYPE_CHECKING:
    from dvc.dependency import ParamsDependency
    from dvc.parsing import DataResolver
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

CACHE_FILE = Path(".dvc", "tmp", "dvc_assets_manifest.json")
SCHEMA_VERSION = 3
ITEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What an item of a `matrix` or `foreach` may be called: it keys partitions, and becomes part of commands and paths."""
INTERPOLATION = re.compile(r"(?<!\\)\$\{.*?\}")
UNQUOTED = r"[A-Za-z0-9_./:,=+%@-]*"
"""Text that a shell takes as it is."""
_QUOTED = r"""(?:[A-Za-z0-9_./:,=+%@-]|'[^'\x00-\x1f\x7f\x85\u2028\u2029]*'|"'")+"""
OPTIONS = f"--{_QUOTED}(?: {_QUOTED})*"
"""What DVC makes of a mapping: options whose values it quotes. It splits commands at line ends, those in quotes too."""


@dataclass(frozen=True)
class StageNode:
    """One stage, with every `${...}` resolved. Paths are relative to the project folder.

    Attributes:
        name: "masksyn@car".
        group: its entry in dvc.yaml: "masksyn".
        key: what follows the "@"; None for a stage that stands alone.
        dimensions: the matrix values that made it ({"class": "car"}), or {"key": key} for a member
            of a `foreach`.
        cmd: shell commands, run one after the other.
        template: `cmd` as dvc.yaml states it, the same for all stages of a group; `cmd` itself for
            a stage that stands alone.
        deps: files and folders it reads.
        outs: files and folders it writes, metrics and plots among them.
        metrics: those of `outs` that are DVC metrics.
        plots: those of `outs` that are DVC plots.
        params: {"params.yaml": {"seed": 0, "masksyn": {...}}}: the keys it depends on and their
            values, per file. A key that the file lacks isn't there.
        desc: its description in dvc.yaml.
        meta: what dvc.yaml says of it below `meta`, for other tools than DVC.
        upstream: names of the stages that write what it reads.
    """

    name: str
    group: str
    key: str | None
    dimensions: dict[str, Any]
    cmd: tuple[str, ...]
    template: tuple[str, ...]
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    metrics: tuple[str, ...]
    plots: tuple[str, ...]
    params: dict[str, dict[str, Any]]
    desc: str | None
    meta: dict[str, Any]
    upstream: tuple[str, ...]

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "StageNode":
        """The inverse of `dataclasses.asdict` followed by JSON, which turns tuples into lists."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in tree.items()
        }
        return cls(**fields)


@dataclass(frozen=True)
class DvcManifest:
    """All stages of a project's dvc.yaml, in the order in which it states them.

    Attributes:
        stages: by name.
        sources: DVC's hash of every file and folder that a stage reads and no stage writes, where
            it is there.
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

    def topological_order(self) -> tuple[str, ...]:
        """Every stage after the ones it reads from."""
        return tuple(
            TopologicalSorter(
                {name: node.upstream for name, node in self.stages.items()}
            ).static_order()
        )

    def select(self, targets: Iterable[str]) -> set[str]:
        """The stages and groups in `targets` and everything upstream of them; all stages for no target.

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


def load_manifest(root: Path) -> DvcManifest:
    """The manifest of the DVC project in `root`: from the cached JSON while all it was made from is unchanged.

    Raises:
        DvcProjectError: `root` holds no DVC project, or DVC can't read it.
    """
    cache = root / CACHE_FILE
    try:
        tree = json.loads(cache.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        tree = None
    if tree is not None and tree["fingerprint"] == _fingerprint(
        root, tree["made_from"], tree["manifest"]["sources"]
    ):
        return DvcManifest.from_json(tree["manifest"])
    manifest, made_from = _build(root)
    fingerprint = _fingerprint(root, made_from, manifest.sources)
    write_json(
        cache, {"fingerprint": fingerprint, "made_from": made_from, "manifest": manifest.to_json()}
    )
    return manifest


def changed_stages(root: Path) -> dict[str, list[Any]]:
    """What `dvc status` says: the changed stages, each with the reasons.

    A stage that isn't named is up to date as long as everything upstream of it is.

    Raises:
        DvcProjectError: `root` holds no DVC project, or DVC can't read it.
        DvcBusyError: a stage is being run by another DVC process.
    """
    from dvc.repo import lock_repo

    with _open_repo(root) as repo, lock_repo(repo):
        return {
            stage.name: reasons for stage in _stages(repo) for reasons in stage.status().values()
        }


def _build(root: Path) -> tuple[DvcManifest, list[str]]:
    """The manifest, and the files that its stages were made from."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import lock_repo

    # The index takes in dvc.lock, which may be read only under DVC's lock: it is rewritten in
    # place.
    with _open_repo(root) as repo, lock_repo(repo):
        stages = _stages(repo)
        graph = repo.index.graph
        names = {stage.name for stage in stages}
        params = _ParamsFiles()
        # Each stage has a dvcfile of its own, which parses dvc.yaml anew: one has to do for all.
        resolver = stages[0].dvcfile.resolver if stages else None
        nodes = []
        for stage in stages:
            upstream = sorted(names.intersection(s.name for s in graph.successors(stage)))
            nodes.append(_node(stage, upstream=upstream, params=params, resolver=resolver))
        outs = [Path(out) for node in nodes for out in node.outs]
        made = {folder for out in outs for folder in (out, *out.parents)} - {Path()}
        sources: dict[str, str] = {}
        for dep in (
            dep for stage in stages for dep in stage.deps if not isinstance(dep, ParamsDependency)
        ):
            path = dep.def_path
            # A path is made by a stage if it is an out, holds one, or lies in one.
            if (
                path not in sources
                and not made.intersection((Path(path), *Path(path).parents))
                and dep.exists
            ):
                sources[path] = dep.get_hash().value
        imports = resolver.context.imports if resolver else {}
        local_vars = {file for stage in stages for file in stage.tracked_vars}
        param_files = {file for node in nodes for file in node.params}
    made_from = {
        "dvc.yaml",
        "params.yaml",
        ".dvc/config",
        ".dvc/config.local",
        ".dvcignore",
        *imports,
        *local_vars,
        *param_files,
    }
    return DvcManifest({node.name: node for node in nodes}, sources), sorted(made_from)


def _stages(repo: "Repo") -> "list[PipelineStage]":
    """The stages of the project's own dvc.yaml: neither `.dvc` files nor pipelines in folders below."""
    from dvc.stage import PipelineStage

    dvc_yaml = str(Path(repo.root_dir, "dvc.yaml"))
    return [
        stage
        for stage in repo.index.stages
        if isinstance(stage, PipelineStage) and stage.path == dvc_yaml
    ]


class _ParamsFiles:
    """Values in parameter files. DVC parses the file anew for every stage: 5 s for 600 stages."""

    def __init__(self) -> None:
        self._trees: dict[str, Any] = {}

    def read(self, dep: "ParamsDependency") -> dict[str, Any]:
        """The keys that `dep` names, and their values; keys that the file lacks are left out."""
        from dvc.utils.serialize import load_path

        if dep.def_path not in self._trees:
            self._trees[dep.def_path] = dep.repo.fs.exists(dep.fs_path) and load_path(
                dep.fs_path, dep.repo.fs
            )
        tree = self._trees[dep.def_path] or {}
        if not dep.params:
            return dict(tree)
        return {key: value for key in sorted(dep.params) for value in _at(tree, key.split("."))}


def _at(tree: Any, path: list[str]) -> list[Any]:
    """What is at a path in nested mappings and lists, in a list of one; none where there is nothing."""
    for part in path:
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return []
    return [tree]


def _node(
    stage: "PipelineStage",
    *,
    upstream: list[str],
    params: _ParamsFiles,
    resolver: "DataResolver | None",
) -> StageNode:
    from dvc.dependency import ParamsDependency
    from dvc.parsing import MatrixDefinition
    from dvc.parsing.context import Node

    group = stage.raw_data.generated_from or stage.name
    _check_safety(stage, group=group, resolver=resolver)
    key = stage.name.removeprefix(f"{group}@") if stage.raw_data.generated_from else None
    dimensions: dict[str, Any] = {}
    cmd = template = stage.cmd
    if key is not None:
        assert resolver is not None
        definition = resolver.definitions[group]
        template = definition.template["cmd"]
        if isinstance(definition, MatrixDefinition):
            values = definition.normalized_iterable[key]
            dimensions = {
                name: value.value if isinstance(value, Node) else value
                for name, value in values.items()
            }
        else:
            dimensions = {"key": key}
    return StageNode(
        name=stage.name,
        group=group,
        key=key,
        dimensions=dimensions,
        cmd=tuple(cmd) if isinstance(cmd, list) else (cmd,),
        template=tuple(template) if isinstance(template, list) else (template,),
        deps=tuple(dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)),
        outs=tuple(out.def_path for out in stage.outs),
        metrics=tuple(out.def_path for out in stage.outs if out.metric),
        plots=tuple(out.def_path for out in stage.outs if out.plot),
        params={
            dep.def_path: params.read(dep)
            for dep in stage.deps
            if isinstance(dep, ParamsDependency)
        },
        desc=stage.desc,
        meta=stage.meta or {},
        upstream=tuple(upstream),
    )


def _check_safety(stage: "PipelineStage", *, group: str, resolver: "DataResolver | None") -> None:
    """Refuse a stage whose item, or a value in whose commands, would mean something to a shell or lead to another path.

    Raises:
        DvcProjectError: it says which value.
    """
    item = stage.name.removeprefix(group).removeprefix("@")
    if (item and not ITEM.fullmatch(item)) or not ITEM.fullmatch(group):
        raise DvcProjectError(
            f"{stage.name!r} can't be the name of a stage: items of a matrix or foreach hold letters, digits, '_', '.' and '-',"
            " the first of them a letter or digit (look at the lists and sections of params.yaml that dvc.yaml names)"
        )
    assert resolver is not None
    definition = resolver.definitions[group]
    template = getattr(definition, "template", None) or definition.definition
    lines, templates = (
        cmd if isinstance(cmd, list) else [cmd] for cmd in (stage.cmd, template["cmd"])
    )
    for line, text in zip_longest(lines, templates, fillvalue=""):
        literals = [re.escape(part.replace("\\${", "${")) for part in INTERPOLATION.split(text)]
        if not re.fullmatch(f"(?:{UNQUOTED}|{OPTIONS})".join(literals), line):
            raise DvcProjectError(
                f"a command of {stage.name} in dvc.yaml is {text!r}, and params.yaml makes {line!r} of it, which a shell would"
                " read as more than values"
            )


@contextmanager
def _open_repo(root: Path) -> "Iterator[Repo]":
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    if not (root / ".dvc").is_dir():
        raise DvcProjectError(
            f"{root} has no .dvc folder; run from the folder that holds dvc.yaml, or make it with `dvc init`"
        )
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            yield repo
    except LockError as error:
        raise DvcBusyError(f"another DVC process is at work in {root}: {error}") from error
    except DvcException as error:
        raise DvcProjectError(
            f"DVC can't read the project in {root}: {_causes(error)} (run: dvc status)"
        ) from error


def _causes(error: BaseException | None) -> str:
    """The messages of `error` and of what caused it; DVC often has the reason only in the cause."""
    messages = []
    while error is not None:
        messages.append(str(error))
        error = error.__cause__
    return ": ".join(message for message in messages if message)


def _fingerprint(root: Path, made_from: Iterable[str], sources: Iterable[str]) -> str:
    """Hash of the contents of `made_from`, of the state of `sources`, of DVC's version and of the layout of the JSON.

    Sources may be large: like DVC itself, this takes a file for unchanged while its size and time
    of change are.
    """
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {version('dvc')}".encode())
    for file in made_from:
        path = root / file
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
        digest.update(f"\n{file} {content}".encode())
    for source in sources:
        top = root / source
        for path in (top, *sorted(top.rglob("*"))) if top.is_dir() else (top,):
            if path.is_file():
                state = path.stat()
                digest.update(
                    f"\n{path.relative_to(root)} {state.st_size} {state.st_mtime_ns}".encode()
                )
    return digest.hexdigest()


def write_json(path: Path, tree: Any) -> None:
    """Replace `path` in one step, so that a reader never sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f"{path.name}.{os.getpid()}")
    scratch.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
    scratch.replace(path)
