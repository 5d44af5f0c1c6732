"""`seggen completion`: print a script that lets a shell complete commands and options."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "print a script that lets a shell complete commands and options"

SHELLS = ("bash", "zsh", "fish")
EPILOG = """\
to try it in this shell:
  bash:  source <(seggen completion bash)
  zsh:   source <(seggen completion zsh)
  fish:  seggen completion fish | source
to keep it, add that line to ~/.bashrc, ~/.zshrc or ~/.config/fish/config.fish
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("shell", choices=SHELLS, help="the shell")
    parser.epilog = EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:  # noqa: ARG001 (a command's signature)
    """Print the script."""
    import shtab

    print(shtab.complete(arguments.parser, shell=arguments.shell))
    return 0
