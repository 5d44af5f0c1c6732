"""Every command that a page or a message names is one that its program understands.

Cheap commands of the pages are also run, in a shell, in a new project.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from seggen_core.cli import COMMANDS, STAGES
from tests.command_checks import commands_in, problem

ROOT = Path(__file__).parent.parent
PACKAGES = ("seggen_core", "dagster_dvc", "dagster_project")
FOLDERS = ("docs", "examples", "dagster_dvc", "profiles")
PAGES = sorted(
    page
    for pattern in ("*.md", *(f"{folder}/**/*.md" for folder in FOLDERS))
    for page in ROOT.glob(pattern)
)
BLOCK = re.compile(r"^```bash\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
COMMAND = re.compile(
    r"(?:(?<=: )|(?<=`)|(?<=^  )|(?<=, or )|(?<=&& ))"
    r"((?:seggen|dvc|git|make|pip|python -m \w[\w.]*|source) [^`;()\n&]*?)"
    r"(?=$|`|;|,| \(|\)|\n| && |(?<=\w)\. |(?<=\w)\.$)"
)
"""A command in a message: behind a colon or in backticks, to the end of the clause."""
PLACEHOLDER = re.compile(
    r"(?:seggen|dvc|git|make|pip) (?:\S+ )*<[a-z][\w ]*>|\A<[a-z]+(?: [a-z]+)+>\Z"
)
"""A command with a place to fill in, or such a place alone, for a message to put into a command."""
IS_PAGE = {"seggen_core/tracking/describe.py"}
IS_PROSE = {"make it with", "make more"}


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[str]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_commands_of_pages_are_understood(page: Path) -> None:
    wrong = []
    for block in blocks(page):
        syntax = subprocess.run(
            ["bash", "-n"], input=block, text=True, capture_output=True, check=False
        )
        assert syntax.returncode == 0, syntax.stderr
        problems = {" ".join(command): problem(command) for command in commands_in(block)}
        wrong += [(command, what) for command, what in problems.items() if what]
    assert not wrong


def texts(tree: ast.AST) -> Iterator[str]:
    """Yield the strings of a module, with X for what is filled in; docstrings are left out."""
    docstrings = {
        id(node.value) for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }  # fmt: skip
    parts = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else "X" for v in node.values)
        elif isinstance(getattr(node, "value", None), str) and id(node) not in docstrings | parts:
            yield node.value


def is_name(command: str) -> bool:
    """Whether it is a command's name alone, as prose has it in backticks: `seggen predict`."""
    program, _, rest = command.partition(" ")
    return program == "seggen" and rest in {**STAGES, **COMMANDS}


def remedies() -> list[tuple[str, str]]:
    """Return (module, command) of every command in a message of the packages."""
    pairs = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for message in texts(ast.parse(path.read_text(encoding="utf-8"))):
                text = re.sub(r"\{\w+\}|<\w+>", "X", message)
                for match in COMMAND.finditer(text):
                    command = match[1].strip()
                    if not (is_name(command) and text[match.start() - 1] == "`"):
                        pairs.append((name(path), command))
    return [pair for pair in dict.fromkeys(pairs) if pair[1] not in IS_PROSE]


@pytest.mark.parametrize("module, command", remedies())
def test_remedies_are_understood(module: str, command: str) -> None:
    for words in commands_in(command):
        assert problem(words) is None, f"{module}: {command}"
        if words[:2] == ["dvc", "repro"]:
            named = [w.partition("@")[0] for w in words[2:] if not w.startswith("-")]
            assert set(named) <= {"X", *STAGES}, f"{module}: {command}"


def test_messages_have_no_placeholders() -> None:
    """What a message says to run, runs as it stands; pages may leave a place to fill in."""
    placeholders = [
        (name(path), message)
        for package in PACKAGES
        for path in sorted((ROOT / package).rglob("*.py"))
        if name(path) not in IS_PAGE
        for message in texts(ast.parse(path.read_text(encoding="utf-8")))
        if PLACEHOLDER.search(message)
    ]
    assert not placeholders


def test_there_are_remedies_to_check() -> None:
    pairs = remedies()
    assert len(pairs) > 40 and len({command for _, command in pairs}) > 20


CHEAP = re.compile(r"seggen (doctor|plan|new|--version|completion)\b|source <\(seggen|cd ")


def test_cheap_commands_of_the_readme_run_as_written(tmp_path: Path) -> None:
    lines = [
        line
        for block in blocks(ROOT / "README.md")
        for line in block.splitlines()
        if CHEAP.match(line)
    ]
    lines = list({" ".join(line.split("#")[0].split()): line for line in lines}.values())
    assert any(line.startswith("seggen new") for line in lines)
    lines.sort(key=lambda line: not line.startswith(("seggen new", "cd ")))  # a project first
    script = "set -e\n" + "\n".join(f"{line}\necho '# done'" for line in lines)
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("# done") == len(lines) and "Traceback" not in done.stderr
