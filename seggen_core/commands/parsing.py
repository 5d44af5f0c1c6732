"""The parser of the command line: options that every command takes, and help with mistyped names.

No heavy library is imported here.
"""

import argparse
import re
from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

DEFAULT_PARAMS = Path("params.yaml")
BEFORE = "overrides_before"
"""Where the values of --set go that stand before the name of the command."""
_CHOICE = re.compile(r"argument (\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)$", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that names what was meant by a mistyped command or option."""

    def error(self, message: str) -> NoReturn:
        """Print the usage and what was meant, and exit with 2."""
        if match := _CHOICE.match(message):
            what, wrong, listed = match.groups()
            choices = [choice.strip(" '\"") for choice in listed.split(",")]
            what = "command" if what == "COMMAND" else f"value of {what}"
            message = f"there is no {what} {wrong!r}; {suggestion(wrong, choices)}"
        super().error(message)

    def options(self) -> list[str]:
        """Return the long options that this parser takes."""
        options = (option for action in self._actions for option in action.option_strings)
        return [option for option in options if option.startswith("--")]


def suggestion(wrong: str, choices: Sequence[str]) -> str:
    """Return which of the choices were meant, or which there are.

    Args:
        wrong: what was written.
        choices: what may be written.
    """
    close = get_close_matches(wrong, choices, n=3, cutoff=0.6)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(choices)}"


class _Version(argparse.Action):
    """Prints the version; it is looked up only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from seggen_core.project.shipped import version

        print(f"seggen {version()}")
        parser.exit()


def add_version(parser: argparse.ArgumentParser) -> None:
    """Declare --version."""
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")


def add_project_options(parser: argparse.ArgumentParser, *, dest: str | None = "overrides") -> None:
    """Declare the options that may stand before or after the name of a command.

    They have no defaults, so that a subparser does not replace what stood before its name; `parse`
    gives them.

    Args:
        parser: of all commands, or of one.
        dest: where the values of --set go; None leaves the option to the command.
    """
    parser.add_argument(
        "--params",
        type=Path,
        default=argparse.SUPPRESS,
        help="parameter file; its folder is the project root (default: params.yaml)",
    )
    if dest:
        parser.add_argument(
            "--set",
            action="append",
            dest=dest,
            default=argparse.SUPPRESS,
            metavar="SECTION.KEY=VALUE",
            help="another value than in the parameter file, in YAML; once for each: "
            "--set text2mask.num_steps=100",
        )


def parse(
    parser: Parser, argv: Sequence[str] | None, *, without_set: Collection[str]
) -> argparse.Namespace:
    """Parse a command line; the message on an unknown option comes from the command's own parser.

    Args:
        parser: of all commands; each subparser has set `parser` to itself as a default.
        argv: the arguments; None takes those of the process.
        without_set: commands that read no parameter file.

    Returns:
        The arguments, with `params` (a path), `overrides` (texts "key=value") and `parser` (of all
        commands).
    """
    arguments, unknown = parser.parse_known_args(argv)
    if unknown:
        used_parser: Parser = arguments.parser
        used_parser.error(_unknown_message(unknown, used_parser.options()))
    given = vars(arguments)
    arguments.params = given.get("params", DEFAULT_PARAMS)
    arguments.overrides = [*given.get(BEFORE, ()), *given.get("overrides", ())]
    if arguments.overrides and arguments.command in without_set:
        arguments.parser.error("--set changes parameters, and this command reads none")
    arguments.parser = parser
    return arguments


def _unknown_message(unknown: Iterable[str], options: Sequence[str]) -> str:
    first = next(iter(unknown))
    if not first.startswith("-"):
        return f"unexpected argument {first!r}"
    name = first.partition("=")[0]
    return f"there is no option {name!r}; {suggestion(name, options)}"
