"""Digests of the code that a stage's result depends on, for DVC, scratch folders and caches.

A stage depends on every module that its module imports, directly or through others, also inside
functions. The digest of a module is that of its syntax tree. So comments, docstrings and the texts
of error messages change no digest. Of `seggen_core.config`, a stage depends only on the classes of
the sections that dvc.yaml lists among its params, with their fields, defaults and validators, and
on the constants and functions that these name.

This module reads the sources as text and imports none of them.
"""

import ast
import hashlib
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parent.parent
"""The folder of seggen_core."""

NEUTRAL = (
    "seggen_core.tracking",
    "seggen_core.errors",
    "seggen_core.generators.previews",
    "seggen_core.project.code",
)
"""Modules that no result depends on. They log a run, define errors, draw pictures that are in no
result, or compute digests of code (this module, which names the modules of all stages).
"""

_CONFIG = "seggen_core.config"
_MODULE_NAME = re.compile(r"seggen_core(\.\w+)+\.?")
"""A string that `importlib.import_module` may get: the name of a module, or, with a dot at the end,
the beginning of the names of all modules of a package.
"""

_NAMING = (ast.Import, ast.ImportFrom, ast.Constant)
"""Nodes that may name a module or a file."""

_BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Fields of nodes that hold statements, or parts with statements."""

_LONGEST_NAME = 256
"""Names of files are shorter: 255 bytes on the usual file systems."""


@dataclass(frozen=True)
class _Source:
    """One module.

    Attributes:
        digest: digest of its syntax tree.
        imports: modules of seggen_core that it imports at run time.
        files: data files beside the module whose names are strings in it.
    """

    digest: str
    imports: tuple[str, ...]
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Parsed:
    """What is taken from the text of one module, wherever it lies.

    Attributes:
        digest: digest of its syntax tree.
        names: what it imports from seggen_core at run time; some may not be modules.
        texts: its strings, apart from long ones.
    """

    digest: str
    names: tuple[str, ...]
    texts: frozenset[str]


class SourceTree:
    """The sources of seggen_core, each read once."""

    def __init__(self, package: Path = PACKAGE) -> None:
        """`package` is the folder of seggen_core."""
        self._package = package
        self._sources: dict[str, _Source] = {}
        self._files: dict[str, Path | None] = {}
        self._section_digests: dict[str, str] = {}

    def stage_code(self, stage: str, *, params: Collection[str] = ()) -> dict[str, str]:
        """Return the modules, files and sections that a stage's result depends on, with digests.

        Args:
            stage: name of a module in `seggen_core.stages`.
            params: keys of params.yaml that the stage reads, as dvc.yaml lists them.

        Returns:
            The digest (16 hexadecimal digits) of each module ("seggen_core.colors.palette"), of
            each data file that a module names ("seggen_core/colors/class_palettes.npy"), and of
            each section of the configuration ("seggen_core.config: SeeDiffConfig"), sorted by name.

        Raises:
            ModuleNotFoundError: there is no such stage.
        """
        digests = {f"{_CONFIG}.base": self._read(f"{_CONFIG}.base").digest}
        pending = ["seggen_core", "seggen_core.stages", f"seggen_core.stages.{stage}"]
        while pending:
            name = pending.pop()
            if name in digests or _is_left_out(name):
                continue
            source = self._read(name)
            digests[name] = source.digest
            pending += source.imports
            for file in source.files:
                place = file.relative_to(self._package.parent).as_posix()
                digests[place] = _digest(file.read_bytes())
        for section in self._sections(params):
            if section not in self._section_digests:
                self._section_digests[section] = _digest_tree(self._definitions[section])
            digests[f"{_CONFIG}: {section}"] = self._section_digests[section]
        return dict(sorted(digests.items()))

    def _find(self, module: str) -> Path | None:
        if module not in self._files:
            path = self._package.parent.joinpath(*module.split("."))
            candidates = (path.with_suffix(".py"), path / "__init__.py")
            self._files[module] = next((file for file in candidates if file.is_file()), None)
        return self._files[module]

    def _read(self, module: str) -> _Source:
        if module not in self._sources:
            file = self._find(module)
            if file is None:
                raise ModuleNotFoundError(f"{module} has no source below {self._package}")
            parsed = _parse(file.read_text(encoding="utf-8"))
            beside = sorted(path for path in file.parent.iterdir() if path.name in parsed.texts)
            self._sources[module] = _Source(
                digest=parsed.digest,
                imports=tuple(dict.fromkeys(self._imports(parsed.names))),
                files=tuple(f for path in beside for f in _data_files(path)),
            )
        return self._sources[module]

    def _imports(self, names: Iterable[str]) -> Iterator[str]:
        for name in names:
            if name.endswith("."):
                folder = self._package.parent.joinpath(*name.split("."))
                yield from (f"{name}{file.stem}" for file in sorted(folder.glob("[!_]*.py")))
            parts = name.rstrip(".").split(".")
            packages = (".".join(parts[:k]) for k in range(1, len(parts) + 1))
            yield from (package for package in packages if self._find(package) is not None)

    @cached_property
    def _definitions(self) -> dict[str, ast.stmt]:
        """Everything that a module of the configuration defines at its top, by name."""
        files = sorted((self._package / "config").glob("*.py"))
        trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files]
        return {name: n for tree in trees for n in tree.body for name in _defined_names(n)}

    def _sections(self, params: Collection[str]) -> list[str]:
        """Return the classes of the sections of `params`, and whatever these classes name."""
        if not params:
            return []
        definitions = self._definitions
        top = definitions["SegGenConfig"]
        assert isinstance(top, ast.ClassDef)
        fields = {
            statement.target.id: statement.annotation
            for statement in top.body
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)
        }
        sections = [fields[s] for key in params if (s := key.partition(".")[0]) in fields]
        pending = [name for annotation in sections for name in _class_names(annotation)]
        reached: set[str] = set()
        while pending:
            name = pending.pop()
            if name in definitions and name not in reached:
                reached.add(name)
                pending += _class_names(definitions[name])
        return sorted(reached)


def code_digest(stage: str) -> str:
    """Return one digest (16 hexadecimal digits) of the code behind a stage.

    It is a part of the names of scratch folders and cache records. Values of params are another.
    """
    lines = [f"{name} {digest}\n" for name, digest in SourceTree().stage_code(stage).items()]
    return _digest("".join(lines).encode())


def declared_params(dvc_yaml: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the keys of params.yaml that each stage of a parsed dvc.yaml lists, by stage."""
    bodies = {name: stage.get("do", stage) for name, stage in dvc_yaml["stages"].items()}
    return {
        name: [key for key in body.get("params", []) if isinstance(key, str)]
        for name, body in bodies.items()
    }


def _is_left_out(module: str) -> bool:
    return any(module == top or module.startswith(f"{top}.") for top in (*NEUTRAL, _CONFIG))


def _data_files(path: Path) -> list[Path]:
    files = [path] if path.is_file() else sorted(path.rglob("*"))
    return [file for file in files if file.is_file() and file.suffix not in (".py", ".pyc")]


# A process runs many stages in tests and in Dagster; most of their modules are the same.
@lru_cache(maxsize=4096)
def _parse(text: str) -> _Parsed:
    tree = ast.parse(text)
    digest = _digest_tree(tree)  # takes docstrings and texts of errors out of the tree
    nodes = [node for node in _run_time_nodes(tree) if isinstance(node, _NAMING)]
    strings = (n.value for n in nodes if isinstance(n, ast.Constant) and isinstance(n.value, str))
    return _Parsed(
        digest=digest,
        names=tuple(dict.fromkeys(name for node in nodes for name in _imported_names(node))),
        texts=frozenset(text for text in strings if len(text) < _LONGEST_NAME),
    )


def _run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes except those below `if TYPE_CHECKING`."""
    pending = [tree]
    while pending:
        node = pending.pop()
        yield node
        for value in vars(node).values():
            if isinstance(value, ast.AST):
                pending.append(value)
            elif isinstance(value, list):
                pending += [c for c in value if isinstance(c, ast.AST) and not _is_for_types(c)]


def _is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def _imported_names(node: ast.AST) -> list[str]:
    """Return the names that a node imports from seggen_core; some may not be modules."""
    names: list[str] = []
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom) and node.module:
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    elif isinstance(node, ast.Constant) and _MODULE_NAME.fullmatch(str(node.value)):
        names = [str(node.value)]
    return [name for name in names if name.partition(".")[0] == "seggen_core"]


def _normalize(node: ast.AST) -> None:
    """Remove docstrings and the texts of errors in place, because they change no result.

    They are statements, so that no expression has to be looked into.
    """
    for name in _BLOCKS:
        block = getattr(node, name, None)
        if not isinstance(block, list):  # the body of a lambda is an expression
            continue
        for k, part in enumerate(block):
            if isinstance(part, ast.Expr) and _is_text(part.value):
                block[k] = ast.Pass()
            elif isinstance(part, ast.Raise) and isinstance(part.exc, ast.Call):
                part.exc = part.exc.func
            else:
                _normalize(part)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _digest_tree(tree: ast.AST) -> str:
    _normalize(tree)
    return _digest(ast.dump(tree).encode())


def _class_names(node: ast.AST) -> list[str]:
    return [n.id for n in ast.walk(node) if isinstance(n, ast.Name)]


def _defined_names(node: ast.stmt) -> list[str]:
    """Return the names of classes, functions and constants that a statement defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets: list[ast.expr] = []
    if isinstance(node, ast.Assign):
        targets = node.targets
    elif isinstance(node, ast.AnnAssign):
        targets = [node.target]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
