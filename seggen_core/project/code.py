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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
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


class SourceTree:
    """The sources of seggen_core, each read once."""

    def __init__(self, package: Path = PACKAGE) -> None:
        """`package` is the folder of seggen_core."""
        self._package = package
        self._sources: dict[str, _Source] = {}

    def stage_code(self, stage: str, *, params: Iterable[str] = ()) -> dict[str, str]:
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
            digests[f"{_CONFIG}: {section}"] = _digest_tree(self._definitions[section])
        return dict(sorted(digests.items()))

    def _find(self, module: str) -> Path | None:
        path = self._package.parent.joinpath(*module.split("."))
        candidates = (path.with_suffix(".py"), path / "__init__.py")
        return next((file for file in candidates if file.is_file()), None)

    def _read(self, module: str) -> _Source:
        if module not in self._sources:
            file = self._find(module)
            if file is None:
                raise ModuleNotFoundError(f"{module} has no source below {self._package}")
            tree = ast.parse(file.read_text(encoding="utf-8"))
            texts = {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            beside = sorted(path for path in file.parent.iterdir() if path.name in texts)
            self._sources[module] = _Source(
                digest=_digest_tree(tree),
                imports=tuple(dict.fromkeys(self._imports(tree))),
                files=tuple(f for path in beside for f in _data_files(path)),
            )
        return self._sources[module]

    def _imports(self, tree: ast.Module) -> Iterator[str]:
        for node in _run_time_nodes(tree):
            for name in _imported_names(node):
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

    def _sections(self, params: Iterable[str]) -> list[str]:
        """Return the classes of the sections of `params`, and whatever these classes name."""
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


def _run_time_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes except those below `if TYPE_CHECKING`."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING")):
            yield from _run_time_nodes(child)


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


class _Normalize(ast.NodeTransformer):
    """Removes docstrings and the texts of errors, because they change no result."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return ast.Pass() if is_text else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if isinstance(node.exc, ast.Call):
            node.exc = node.exc.func
        return node


def _digest_tree(tree: ast.AST) -> str:
    return _digest(ast.dump(_Normalize().visit(tree)).encode())


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
