"""The limits of CONTRIBUTING.md that no linter checks.

How long a function or a module may be, how wide a YAML file, and which names say nothing.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDERS = ("benchmarks", "dagster_dvc", "dagster_project", "seggen_core", "tests", "tools")
MAX_FUNCTION_LINES = 60
MAX_MODULE_LINES = 400
MAX_STAGE_LINES = 60
MAX_COLUMNS = 100
VAGUE = {"found", "kept", "made", "number", "own", "told"}
"""Words that say nothing of what a thing is, where they stand alone."""
YAML_FILES = sorted(
    path
    for pattern in (
        "*.yaml",
        "*.yml",
        ".github/**/*.yml",
        "examples/**/*.yaml",
        "profiles/**/*.yaml",
    )
    for path in ROOT.glob(pattern)
)


def long_functions(source: str) -> Iterator[str]:
    """Yield "name: lines" of each function that is too long, without its decorators."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > MAX_FUNCTION_LINES:
                yield f"{node.name}: {lines} lines"


def vague_names(source: str) -> Iterator[str]:
    """Yield "line: name" of each variable, argument, attribute, function and class of VAGUE."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case (
                ast.Name(id=name, ctx=ast.Store())
                | ast.Attribute(attr=name, ctx=ast.Store())
                | ast.arg(arg=name)
                | ast.alias(asname=str(name))
                | ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
            ) if name.strip("_").lower() in VAGUE:
                yield f"{node.lineno}: {name}"


def modules(folder: str) -> dict[str, str]:
    """Return the source of each module below a folder, by its path."""
    files = sorted((ROOT / folder).rglob("*.py"))
    return {str(file.relative_to(ROOT)): file.read_text(encoding="utf-8") for file in files}


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_function_and_no_module_is_too_long(folder: str) -> None:
    sources = modules(folder)
    assert sources, f"{folder} holds no module; FOLDERS names the folders of this project"
    too_long = [f"{path}: {f}" for path, source in sources.items() for f in long_functions(source)]
    for path, source in sources.items():
        lines = len(source.splitlines())
        if lines > MAX_MODULE_LINES:
            too_long.append(f"{path}: {lines} lines")
    assert not too_long, (
        f"at most {MAX_FUNCTION_LINES} lines a function and {MAX_MODULE_LINES} lines a module; "
        "move a part of it out"
    )


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_say_what_they_hold(folder: str) -> None:
    vague = [f"{path}:{n}" for path, s in modules(folder).items() for n in vague_names(s)]
    assert not vague, "give each the noun of the field: index, line_number, matches, accepted"


def test_every_folder_with_modules_is_looked_at() -> None:
    ours = {f.parent.name for f in ROOT.glob("*/*.py") if not f.parent.name.startswith(".")}
    assert ours - {"data", "examples"} == set(FOLDERS)


def test_stages_are_thin() -> None:
    stages = modules("seggen_core/stages")
    too_long = {path: n for path, s in stages.items() if (n := s.count("\n")) > MAX_STAGE_LINES}
    assert not too_long, (
        "a stage module opens a context, calls one function of a room and publishes; "
        "move the rest into the room"
    )


def test_a_long_function_is_found_wherever_it_stands() -> None:
    body = "        pass\n" * MAX_FUNCTION_LINES
    method = f"class A:\n    async def method(self):\n{body}"
    assert list(long_functions(method)) == [f"method: {MAX_FUNCTION_LINES + 1} lines"]
    assert list(long_functions(method[: -len("        pass\n")])) == []


@pytest.mark.parametrize(
    "source, expected",
    [
        ("for number, row in rows: number += 1", ["1: number", "1: number"]),
        ("def made(*, kept=1): ...", ["1: made", "1: kept"]),
        ("class A:\n    own: int\n    def f(self): self._found = 1", ["2: own", "3: _found"]),
        ("with a as told: ...\nimport b as OWN", ["1: told", "2: OWN"]),
        ("print(made_here, number(x), f(kept=1), row.found)", []),
    ],
)
def test_a_vague_name_is_found_wherever_it_is_given(source: str, expected: list[str]) -> None:
    assert sorted(vague_names(source)) == sorted(expected)


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_yaml_is_wrapped(path: Path) -> None:
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    too_wide = {line_number: len(line) for line_number, line in lines if len(line) > MAX_COLUMNS}
    assert not too_wide, (
        "columns by line; begin a comment on a line of its own above the key, and continue a value "
        "between brackets on the next line"
    )
