"""Changing a parameter file's text key by key, so that all else stays as it is."""

import json
import re
from collections.abc import Sequence
from typing import Any


def without_comments_on_the_dataset(text: str, *, name: str, profile: str) -> str:
    """Return a profile's text without the comments that are about its own dataset.

    They are those at the top and in the section `dataset`.
    """
    body = text[re.search(r"^\w", text, flags=re.MULTILINE).start() :]  # type: ignore[union-attr]
    block = re.search(r"^dataset:.*\n((?:[ \t].*\n|\n(?=[ \t]))*)", body, flags=re.MULTILINE)
    assert block is not None
    lines = [re.sub(r"\s+#.*$", "", line) for line in block[1].splitlines()]
    section = "".join(f"{line}\n" for line in lines if line.strip())
    head = (
        f"# A dataset read by {name!r}, with the models and schedules of the profile {profile!r}:\n"
        "# check sizes, steps and numbers of samples against yours (run: seggen plan).\n"
        "# Every key is documented in seggen_core/config/; an unknown or mistyped one is an "
        "error.\n"
    )
    return head + body[: block.start(1)] + section + body[block.end(1) :]


def set_path(text: str, path: Sequence[str], value: Any) -> str:
    """Return YAML `text` with the key at a path of block mappings set, comments behind it kept.

    A key that isn't there comes first in its section, which has to be there.
    """
    lines = text.splitlines(keepends=True)
    first, last = 0, len(lines)
    for depth, key in enumerate(path):
        indent = "  " * depth
        rows = (i for i in range(first, last) if re.match(rf"{indent}{re.escape(key)}:", lines[i]))
        row = next(rows, None)
        if depth < len(path) - 1:
            assert row is not None, path
            first, last = row + 1, _end(lines, row + 1, last, indent=indent)
            continue
        line = f"{indent}{key}: {json.dumps(value, ensure_ascii=False)}"
        if row is None:
            lines.insert(first, line + "\n")
            continue
        comment = re.search(r"\s+#.*$", lines[row].rstrip("\n"))
        end = _end(lines, row + 1, last, indent=indent)
        lines[row:end] = [line + (comment[0] if comment else "") + "\n"]
    return "".join(lines)


def _end(lines: Sequence[str], first: int, last: int, *, indent: str) -> int:
    """Return the row behind what is indented more than `indent`."""
    deeper = re.compile(rf"{indent}\s+\S|\s*$")
    return next((i for i in range(first, last) if not deeper.match(lines[i])), last)


def set_key(text: str, key: str, value: Any, *, section: str | None = None) -> str:
    """Return YAML `text` with one key of a section (or of the top level) set.

    Everything else stays as it is, comments too.
    """
    line = f"{key}: {json.dumps(value, ensure_ascii=False)}"
    if section is None:
        changed, count = re.subn(
            rf"^{key}:.*\n(?:[ \t].*\n)*", lambda _: line + "\n", text, count=1, flags=re.MULTILINE
        )
        assert count == 1, key
        return changed
    block = re.search(rf"^{section}:.*\n((?:[ \t].*\n|\n(?=[ \t]))*)", text, flags=re.MULTILINE)
    assert block is not None, section
    body, count = re.subn(
        rf"^  {key}:.*$", lambda _: f"  {line}", block[1], count=1, flags=re.MULTILINE
    )
    if not count:
        body = f"  {line}\n{block[1]}"
    return text[: block.start(1)] + body + text[block.end(1) :]
