"""Changing a parameter file's text key by key, so that all else stays as it is."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

MAX_COLUMNS = 100
"""Width of the lines that `merge_text` writes, where a single value isn't wider."""
_PLAIN = re.compile(r"[A-Za-z][\w/.@+-]*(?<!\.)")
"""Text that needs no quotes, if it is none of `_WORDS`."""
_WORDS = {"false", "n", "no", "null", "off", "on", "true", "y", "yes"}


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


def merge_text(text: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """Return YAML `text` with what differs between two contents changed or added.

    Only the lines of changed values are written anew, at most 100 columns wide: everything else
    stays byte for byte as it is, comments too. A new key comes last in its section. No key is
    taken away.

    Args:
        text: YAML that holds `before`.
        before: as `parse_params` reads it.
        after: what the text should hold, with at least the keys of `before`.
    """
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode) or root.flow_style:
        return "".join(f"{line}\n" for key in after for line in _item_lines(key, after[key]))
    text += "" if text.endswith("\n") else "\n"
    edits = dict.fromkeys(_edits(text, root, before, after))  # one for a section of two names
    for start, end, new in sorted(edits, key=lambda edit: edit[0])[::-1]:
        text = text[:start] + new + text[end:]
    return text


def _edits(
    text: str, section: yaml.MappingNode, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[int, int, str]]:
    """Yield start, end and new text of what differs in a section of one key a line."""
    indent = section.value[0][0].start_mark.column
    nodes = {key.value: (key, value) for key, value in section.value}
    added: list[str] = []
    for key, value in after.items():
        if key in before and _flow(before[key]) == _flow(value):
            continue
        if key not in nodes:
            added += _item_lines(key, value, indent=indent)
            continue
        node, content = nodes[key]
        is_section = isinstance(content, yaml.MappingNode) and not content.flow_style
        if is_section and isinstance(value, Mapping):
            yield from _edits(text, content, before[key], value)
            continue
        lines = _item_lines(key, value, indent=indent)
        yield node.start_mark.index, _last(content), "\n".join(lines).lstrip()
    if added:
        end = _last(section)
        if text[end - 1] != "\n":  # else it is a text of several lines
            end = text.index("\n", end) + 1
        yield end, end, "".join(f"{line}\n" for line in added)


def _last(node: yaml.Node) -> int:
    """Return the index behind a value. A section ends with its last value, not with a comment."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)


def _item_lines(key: str, value: Any, *, indent: int = 0) -> list[str]:
    """Return a key with its value: in one line, else one key a line, or a list over several."""
    start = f"{' ' * indent}{_flow(key)}:"
    line = f"{start} {_flow(value)}"
    if len(line) <= MAX_COLUMNS:
        return [line]
    if isinstance(value, Mapping):
        return [start] + [x for k, v in value.items() for x in _item_lines(k, v, indent=indent + 2)]
    if not isinstance(value, list):
        return [line]
    lines, ends = [f"{start} ["], [","] * (len(value) - 1) + ["]"]
    for word in (_flow(part) + end for part, end in zip(value, ends, strict=True)):
        if len(lines[-1]) + 1 + len(word) > MAX_COLUMNS:
            lines.append(f"{' ' * indent}  {word}")
        else:
            lines[-1] += word if lines[-1].endswith("[") else f" {word}"
    return lines


def _flow(value: Any) -> str:
    """Return YAML of a value in one line, which YAML 1.1 and 1.2 read alike."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_flow(k)}: {_flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, float):
        return re.sub(r"^(-?\d+)e", r"\1.0e", repr(value))
    is_plain = isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _WORDS
    return str(value) if is_plain else json.dumps(value, ensure_ascii=False)
