"""Whether a command, as a page or a message writes it, is one that its program understands.

Programs parse their own command lines here, without running anything. What isn't installed with the
project is listed with the reason why nothing checks it.
"""

import contextlib
import importlib.util
import io
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

from seggen_core.cli import _WITHOUT_PARAMS, build_parser
from seggen_core.commands.parsing import parse

ROOT = Path(__file__).parent.parent
SEPARATORS = {"&&", "||", ";", "|", "<(", ")", "(", "&"}
UNCHECKED = {
    "kubectl": "a cluster's own client; the project does not install it",
    "nc": "runs inside the cluster's test pod",
    "oauth2-proxy": "an example of a proxy that users may choose",
    "docker": "not installed with the project; hadolint checks the Dockerfile",
    "hf": "huggingface_hub's command: its options depend on the version that a user installs",
    "brew": "macOS's package manager",
    "deactivate": "a function that venv's activate defines",
}
SHELL = {"cd", "diff", "echo", "export", "mkdir", "test", "wait"}


def commands_in(text: str) -> Iterator[list[str]]:
    """Yield the commands of a shell script as argument lists, without placeholders and comments."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=";&|<>()")
        words.whitespace_split = True
        command: list[str] = []
        redirected = False
        for word in words:
            if word in SEPARATORS:
                if command:
                    yield command
                command = []
            elif word in (">", ">>", "<"):
                redirected = True
            elif redirected:
                redirected = False
            elif word != "...":
                command.append(word if "[" in word[1:] else word.strip("[]"))
        if command:
            yield command


def problem(command: list[str]) -> str | None:
    """Return what is wrong with a command; None if its program understands it."""
    while command and re.fullmatch(r"[A-Z_]+=.*", command[0]):
        command = command[1:]  # variables of the environment
    if not command:
        return None
    program, *arguments = command
    arguments = [argument for argument in arguments if argument]
    if program in UNCHECKED or program in SHELL:
        return None
    if program not in CHECKS:
        return f"nothing knows the program {program!r}"
    output = io.StringIO()
    try:
        with contextlib.redirect_stderr(output), contextlib.redirect_stdout(output):
            return CHECKS[program](arguments)
    except SystemExit as end:
        return None if end.code in (0, None) else output.getvalue()


def _seggen(arguments: list[str]) -> str | None:
    parse(build_parser(), arguments, without_set=_WITHOUT_PARAMS)
    return None


def _dvc(arguments: list[str]) -> str | None:
    from dvc.cli import DvcParserError, parse_args

    try:
        parse_args(arguments)
    except DvcParserError as error:
        return str(error)
    return None


def _make(arguments: list[str]) -> str | None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for argument in arguments:
        name, mark, _ = argument.partition("=")
        name = name.replace("X", r"\w+")  # what a message fills in
        pattern = rf"^{name} [?:]?=" if mark else rf"^{name}:"
        if not argument.startswith("-") and not re.search(pattern, makefile, re.MULTILINE):
            return f"the Makefile has no {argument}"
    return None


def _python(arguments: list[str]) -> str | None:
    if arguments[0] == "train_net.py":  # of Mask2Former and Mask DINO: docs/detectron2.md
        return None
    if arguments[0] != "-m":
        return None if (ROOT / arguments[0]).is_file() else f"there is no {arguments[0]}"
    module, *rest = arguments[1:]
    if module == "pip":
        return _pip(rest)
    if module == "seggen_core":
        return _seggen(rest)
    try:
        spec = importlib.util.find_spec(module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        return f"there is no module {module}"
    source = Path(spec.origin).read_text(encoding="utf-8")
    if not module.startswith(("dagster_", "seggen_", "tools", "benchmarks")):
        return None
    missing = [a for a in rest if a.startswith("-") and f'"{a.partition("=")[0]}"' not in source]
    return f"{module} has no {missing}" if missing else None


def _pip(arguments: list[str]) -> str | None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for argument in arguments[1:]:
        if (
            argument.startswith("-")
            or re.fullmatch(r"\.(\[\w+\])?|[\w.]+\.(txt|lock)|cpu|auto", argument)
            or "/" in argument
        ):
            continue
        try:
            requirement = Requirement(argument.removesuffix("[]"))
        except InvalidRequirement as error:
            return str(error)
        known = set(project["optional-dependencies"])
        if requirement.name == "seggen" and not requirement.extras <= known:
            return f"{argument}: seggen has the extras {sorted(known)}"
    return None if arguments[0] in ("install", "wheel", "uninstall") else f"pip {arguments[0]}"


def _uv(arguments: list[str]) -> str | None:
    return _pip(arguments[1:]) if arguments[0] == "pip" and arguments[1] == "install" else None


def _click(name: str) -> Callable[[list[str]], str | None]:
    def check(arguments: list[str]) -> str | None:
        import click

        if name == "dg":
            from dagster_dg_cli.cli import create_dg_cli

            command: click.Command = create_dg_cli()
        else:
            from dagster._cli import create_dagster_cli

            command = create_dagster_cli()
        rest = arguments
        try:
            while isinstance(command, click.Group):
                with command.make_context(name, rest) as context:
                    rest = [*context._protected_args, *context.args]
                    _, inner, rest = command.resolve_command(context, rest)
                    assert inner is not None
                    command = inner
            command.make_context(name, rest)
        except click.ClickException as error:
            return error.format_message()
        return None

    return check


@cache
def _git_help(subcommand: str) -> str:
    done = subprocess.run(["git", subcommand, "-h"], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def _git(arguments: list[str]) -> str | None:
    listed = subprocess.run(
        ["git", "--list-cmds=main,others"], capture_output=True, text=True, check=True
    )
    if arguments[0] == "lfs":  # an extension of git, which users of such a repository have
        return None
    if arguments[0] not in listed.stdout.split():
        return f"git has no command {arguments[0]}"
    options = [a.partition("=")[0] for a in arguments if a.startswith("--") and a != "--"]
    missing = [o for o in options if o.removeprefix("--") not in _git_help(arguments[0])]
    return f"git {arguments[0]} has no {missing}" if missing else None


def _pytest(arguments: list[str]) -> str | None:
    missing = [a for a in arguments if a.startswith("tests/") and not (ROOT / a).exists()]
    return f"there is no {missing}" if missing else None


def _source(arguments: list[str]) -> str | None:
    known = arguments in ([], [".venv/bin/activate"], ["X"])  # []: of <(...), checked by itself
    return None if known else f"source {arguments}"


def _installed(arguments: list[str]) -> str | None:
    return None


CHECKS: dict[str, Callable[[list[str]], str | None]] = {
    "seggen": _seggen,
    "dvc": _dvc,
    "make": _make,
    "python": _python,
    "python3": _python,
    "pip": _pip,
    "uv": _uv,
    "dg": _click("dg"),
    "dagster": _click("dagster"),
    "git": _git,
    "pytest": _pytest,
    "source": _source,
    "mkdocs": _installed,
    "pre-commit": _installed,
    ".ci/run": _installed,
}
