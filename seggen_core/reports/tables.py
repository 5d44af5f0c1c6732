"""Tables of scores as text, and the type of scores in JSON files."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated

from pydantic import BeforeValidator

NO_VALUE = "\N{EN DASH}"
"""Stands for a figure that has no value."""


def _nan_for_none(value: object) -> object:
    return math.nan if value is None else value


Score = Annotated[float, BeforeValidator(_nan_for_none)]
"""A percentage; null in JSON is NaN, a score that has no value."""


_MARKDOWN = re.compile(r"[\\`*\[\]<>|~$]|(?<!\w)_|_(?!\w)|&(?=#?\w+;)")
"""What Markdown, or HTML in it, would not show as it is. Underscores inside of words are shown."""
_SPACE = re.compile(r"[^\S\N{NO-BREAK SPACE}]+")
"""Space and ends of lines, but not what keeps a figure and its spread on one line."""


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, on one line: names come from users' files."""
    one_line = _SPACE.sub(" ", text).strip(" ")
    return _MARKDOWN.sub(lambda match: "\\" + match[0], one_line)


def markdown_table(rows: Sequence[Mapping[str, str]], *, text_columns: int = 1) -> str:
    """Return a Markdown table that is padded to read well as plain text.

    Args:
        rows: cells by column, as plain text; all rows have the same columns.
        text_columns: number of left-aligned columns at the left; the others are right-aligned.
    """
    rows = [{escape_markdown(n): escape_markdown(c) for n, c in row.items()} for row in rows]
    header = list(rows[0])
    widths = [max(len(name), 3, *(len(row[name]) for row in rows)) for name in header]
    align = [str.ljust] * text_columns + [str.rjust] * (len(header) - text_columns)
    rule = ["-" * w if i < text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [[pad(name, w) for pad, name, w in zip(align, header, widths, strict=True)], rule]
    lines += [
        [pad(row[name], w) for pad, name, w in zip(align, header, widths, strict=True)]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def format_figure(value: float | None, *, sign: bool = False) -> str:
    """Return a figure with one decimal, with its sign if asked for; a dash for none."""
    if value is None or math.isnan(value):
        return NO_VALUE
    return f"{round(value, 1) + 0.0:+.1f}" if sign else f"{value:.1f}"


def with_spread(mean: float | None, spread: float | None, *, sign: bool = False) -> str:
    """Return a mean and, if it has one, its spread."""
    has_spread = spread is not None and not math.isnan(spread)
    return format_figure(mean, sign=sign) + (f" ± {spread:.1f}" if has_spread else "")
