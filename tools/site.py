"""Writes the pages of the documentation site to build/pages: `make pages` then runs mkdocs on them.

They are the repository's Markdown pages at the places where they lie, so that their links lead to
the same pages, and three generated ones: the keys of params.yaml, the commands, the Python API.

    python -m tools.site
"""

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from seggen_core.cli import build_parser
from seggen_core.config.describe import describe_keys

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "pages"
FOLDERS = ("docs", "examples", "profiles", "dagster_dvc")
API = {
    "Parameters": ("seggen_core.config.load", "seggen_core.config.describe"),
    "Errors": ("seggen_core.errors",),
    "Classes and samples": ("seggen_core.taxonomy", "seggen_core.store.reader"),
    "Datasets": ("seggen_core.datasets.open", "seggen_core.datasets.reader"),
    "Pairs from attention": (
        "seggen_core.generators.foundation",
        "seggen_core.attention.tokens",
        "seggen_core.synthesis.from_attention",
        "seggen_core.synthesis.prompts",
    ),
    "Colour maps": ("seggen_core.colors.palette", "seggen_core.colors.code"),
    "Segmenters": ("seggen_core.segmentation.models", "seggen_core.segmentation.predict"),
    "Metrics": (
        "seggen_core.metrics.semantic",
        "seggen_core.metrics.panoptic",
        "seggen_core.metrics.instance",
    ),
    "Exports": ("seggen_core.exports.export",),
    "DVC pipelines in Dagster": ("dagster_dvc.definitions", "dagster_dvc.repro"),
}
"""Modules that other programs import, by what they are for."""
_LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def write_pages(target: Path) -> None:
    """Write all pages; what is there before is removed."""
    shutil.rmtree(target, ignore_errors=True)
    for page in sorted(find_pages()):
        copy_page(page, target)
    reference = target / "reference"
    reference.mkdir(parents=True)
    (reference / "params.md").write_text(params_page(), encoding="utf-8")
    (reference / "commands.md").write_text(commands_page(), encoding="utf-8")
    (reference / "api.md").write_text(api_page(), encoding="utf-8")


def find_pages() -> Iterator[Path]:
    """Yield the Markdown pages of the repository."""
    yield from ROOT.glob("*.md")
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*.md")


def copy_page(page: Path, target: Path) -> None:
    """Copy a page and the pictures and other files that it links; folders become plain text."""
    text = page.read_text(encoding="utf-8")

    def keep(match: re.Match[str]) -> str:
        link = match[1]
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        file = (page.parent / link).resolve()
        if file.is_dir():
            return f"]({_readme(link)})" if (file / "README.md").is_file() else "]"
        if file.suffix != ".md":
            place = target / file.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, place)
        return match[0]

    place = target / page.relative_to(ROOT)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(_LINK.sub(keep, text), encoding="utf-8")


def _readme(folder: str) -> str:
    return f"{folder.rstrip('/')}/README.md"


def params_page() -> str:
    """Return the reference of params.yaml."""
    lines = ["# params.yaml", "", "Every key, as `seggen params` prints it.", ""]
    section = ""
    for key in describe_keys():
        top = key.name.split(".")[0]
        if top != section:
            section = top
            lines += [
                "",
                f"## {top}",
                "",
                "| key | type | default | meaning |",
                "|---|---|---|---|",
            ]
        cells = (f"`{key.name}`", key.kind, f"`{key.default}`" if key.default else "", key.text)
        lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"


def commands_page() -> str:
    """Return the help texts of all commands."""
    parser = build_parser()
    (commands,) = (a for a in parser._actions if a.dest == "command")  # noqa: SLF001 (argparse has no other way)
    lines = ["# Commands", "", "```text", parser.format_help().strip(), "```", ""]
    choices: Any = commands.choices  # a mapping to parsers, for subcommands
    for name, command in choices.items():
        lines += [f"## seggen {name}", "", "```text", command.format_help().strip(), "```", ""]
    return "\n".join(lines)


def api_page() -> str:
    """Return a page from which mkdocstrings makes the reference of the Python API."""
    lines = ["# Python API", ""]
    for title, modules in API.items():
        lines += [f"## {title}", ""]
        for module in modules:
            lines += [f"::: {module}", ""]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.site", description=__doc__)
    parser.add_argument("--out", type=Path, default=PAGES, help="folder (default: build/pages)")
    write_pages(parser.parse_args(argv).out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
