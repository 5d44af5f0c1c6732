"""Makes the manifest of a DVC project: its stage graph as plain data.

It is cached as JSON, so that reading it again neither imports DVC nor parses dvc.yaml.
"""

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dagster_dvc.errors import DvcProjectError
from dagster_dvc.files import STATE_FOLDER, read_object, write_json
from dagster_dvc.graph import DvcManifest, StageNode
from dagster_dvc.repo import open_stages

if TYPE_CHECKING:
    from dvc.dependency import ParamsDependency
    from dvc.parsing import DataResolver
    from dvc.stage import PipelineStage

CACHE_FILE = STATE_FOLDER / "manifest.json"
SCHEMA_VERSION = 4
ITEM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What an item of a `matrix` or `foreach` may be called: it becomes part of commands and paths."""
INTERPOLATION = re.compile(r"(?<!\\)\$\{.*?\}")
UNQUOTED = r"[A-Za-z0-9_./:,=+%@-]*"
"""Text that a shell takes as it is."""
_QUOTED = r"""(?:[A-Za-z0-9_./:,=+%@-]|'[^'\x00-\x1f\x7f\x85\u2028\u2029]*'|"'")+"""
OPTIONS = f"--{_QUOTED}(?: {_QUOTED})*"
"""What DVC makes of a mapping: options with quoted values. It splits commands at line ends."""


def load_manifest(root: Path, *, patience: float | None = None) -> DvcManifest:
    """Return the manifest of the project in `root`, the cached one if its sources are unchanged.

    Args:
        root: the folder that holds dvc.yaml.
        patience: seconds to wait for a DVC command that holds DVC's lock; None waits for ever.

    Raises:
        DvcBusyError: another process held the lock for all that time.
        DvcProjectError: `root` holds no DVC project, DVC can't read it, or it has no stages.
    """
    cached = read_object(root / CACHE_FILE)
    try:
        if cached["fingerprint"] == _fingerprint(root, cached["made_from"], cached["watched"]):
            return DvcManifest.from_json(cached["manifest"])
    except (AttributeError, KeyError, TypeError, ValueError):
        pass  # none, or a damaged one
    manifest, made_from, watched = _build(root, patience=patience)
    cached = {
        "fingerprint": _fingerprint(root, made_from, watched),
        "made_from": made_from,
        "watched": watched,
        "manifest": manifest.to_json(),
    }
    write_json(root / CACHE_FILE, cached)
    return manifest


def _build(root: Path, *, patience: float | None) -> tuple[DvcManifest, list[str], list[str]]:
    """Return the manifest, the files that define its stages, and the sources that they read."""
    with open_stages(root, patience=patience) as (repo, stages):
        graph = repo.index.graph
        names = {stage.name for stage in stages}
        params = _ParamsFiles()
        # Each stage has its own dvcfile, which parses dvc.yaml again: take one for all.
        resolver = stages[0].dvcfile.resolver
        nodes = []
        for stage in stages:
            upstream = sorted(names.intersection(s.name for s in graph.successors(stage)))
            nodes.append(_node(stage, upstream=upstream, params=params, resolver=resolver))
        sources = _sources(stages, nodes)
        made_from = {
            "dvc.yaml",
            "params.yaml",
            ".dvc/config",
            ".dvc/config.local",
            ".dvcignore",
            *resolver.context.imports,
            *(file for stage in stages for file in stage.tracked_vars),
            *(file for node in nodes for file in node.params),
        }
    known = {path: md5 for path, md5 in sources.items() if md5 is not None}
    manifest = DvcManifest({node.name: node for node in nodes}, known)
    return manifest, sorted(made_from), sorted(sources)


def _sources(stages: "list[PipelineStage]", nodes: Collection[StageNode]) -> dict[str, str | None]:
    """Return DVC's hash of what stages read and no visible one writes; None where it is missing."""
    from dvc.dependency import ParamsDependency

    outs = {Path(out) for node in nodes if not node.is_hidden for out in node.outs}
    around_outs = {folder for out in outs for folder in out.parents} - {Path()}
    sources: dict[str, str | None] = {}
    for stage in stages:
        for dep in stage.deps:
            path = dep.def_path
            if isinstance(dep, ParamsDependency) or path in sources:
                continue
            # A stage makes a path that holds an out, is one, or lies in one.
            if Path(path) not in around_outs and outs.isdisjoint((Path(path), *Path(path).parents)):
                sources[path] = dep.get_hash().value if dep.exists else None
    return sources


class _ParamsFiles:
    """Values in parameter files. DVC parses the file once a stage: 5 s for 600 stages."""

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
    """Return what is at a path in nested mappings and lists, as a list of one or none."""
    for part in path:
        if isinstance(tree, dict) and part in tree:
            tree = tree[part]
        elif isinstance(tree, list) and part.isdigit() and int(part) < len(tree):
            tree = tree[int(part)]
        else:
            return []
    return [tree]


def _node(
    stage: "PipelineStage", *, upstream: list[str], params: _ParamsFiles, resolver: "DataResolver"
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
        always_changed=stage.always_changed,
    )


def _check_safety(stage: "PipelineStage", *, group: str, resolver: "DataResolver") -> None:
    """Refuse a stage whose item or command would mean more than itself, to a shell or as a path.

    Raises:
        DvcProjectError: it says which value.
    """
    item = stage.name.removeprefix(group).removeprefix("@")
    if (item and not ITEM.fullmatch(item)) or not ITEM.fullmatch(group):
        raise DvcProjectError(
            f"{stage.name!r} can't be the name of a stage: items of a matrix or foreach hold "
            "letters, digits, '_', '.' and '-', the first of them a letter or digit (look at the "
            "lists and sections of params.yaml that dvc.yaml names)"
        )
    definition = resolver.definitions[group]
    template = getattr(definition, "template", None) or definition.definition
    lines, templates = (
        cmd if isinstance(cmd, list) else [cmd] for cmd in (stage.cmd, template["cmd"])
    )
    for line, text in zip_longest(lines, templates, fillvalue=""):
        literals = [re.escape(part.replace("\\${", "${")) for part in INTERPOLATION.split(text)]
        if not re.fullmatch(f"(?:{UNQUOTED}|{OPTIONS})".join(literals), line):
            raise DvcProjectError(
                f"a command of {stage.name} in dvc.yaml is {text!r}, and params.yaml makes "
                f"{line!r} of it, which a shell would read as more than values"
            )


def _fingerprint(root: Path, made_from: Iterable[str], watched: Iterable[str]) -> str:
    """Return a hash of the contents of `made_from`, the state of `watched`, and DVC's version.

    What is watched may be large: like DVC itself, this takes a file for unchanged while its size
    and time of change are.
    """
    digest = hashlib.sha256(f"{SCHEMA_VERSION} {version('dvc')}".encode())
    for file in made_from:
        path = root / file
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "absent"
        digest.update(f"\n{file} {content}".encode())
    for source in watched:
        for file, state in _files(str(root / source)):
            line = f"\n{source} {file} {state.st_size} {state.st_mtime_ns}"
            digest.update(line.encode(errors="surrogateescape"))
    return digest.hexdigest()


def _files(top: str, *, below: str = "") -> Iterator[tuple[str, os.stat_result]]:
    """Yield a file, or the files below a folder with their paths in it, but none Python compiled.

    A dataset may have hundreds of thousands of files, so nothing is made of them but their states.
    """
    if not below and os.path.isfile(top):  # noqa: PTH113 (a tenth of the time)
        yield "", os.stat(top)  # noqa: PTH116 (thousands of files)
        return
    try:
        with os.scandir(top) as listing:
            entries = sorted(listing, key=lambda entry: entry.name)
    except OSError:  # gone, or not readable: DVC says so
        return
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            if entry.name != "__pycache__":
                yield from _files(entry.path, below=f"{below}{entry.name}/")
        elif entry.is_file():
            yield f"{below}{entry.name}", entry.stat()
