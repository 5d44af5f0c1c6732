"""The text of params.yaml, read so that it means one thing to every program.

DVC reads the file by YAML 1.2, PyYAML and many editors read it by YAML 1.1. This reader takes the
meaning of YAML 1.2 and refuses what YAML 1.1 reads otherwise (`yes`, `1:30`, `0777`, `1_000`). The
one exception is a number such as `1e-4`: everybody who writes it means a number. It also refuses
whatever no parameter needs: repeated keys, tags, infinities, several documents. Time and memory are
bounded, whatever the file holds.
"""

import math
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)

from seggen_core.errors import ConfigError

MAX_BYTES = 1 << 20
"""Largest parameter file: 1 MiB. Those of the profiles have 6 kB."""
MAX_DEPTH = 32
"""Mappings and lists inside one another."""
MAX_VALUES = 100_000
"""Values in all, where each use of an anchor counts as often as it is used."""
MAX_INTEGER = 2**63 - 1
_MAX_SHOWN = 60

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"(?:[-+]?(?:0|[1-9][0-9]*)(?:\.[0-9]*(?:[eE][-+]?[0-9]+)?|[eE][-+]?[0-9]+)"
    r"|\.[0-9]+(?:[eE][-+][0-9]+)?)"
)
_WORDS = {
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys(("null", "Null", "NULL", "~", ""), None),
}
_NUMBER_OF_YAML_1_2 = re.compile(
    r"[-+]?0b[01_]+|[-+]?0o?[0-7_]+|[-+]?[0-9_]+|[-+]?0x[0-9a-fA-F_]+"
    r"|[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?(?:[eE][-+]?[0-9]+)?|[-+]?\.[0-9_]+(?:[eE][-+][0-9]+)?"
)
_TEXT = "tag:yaml.org,2002:str"
_MERGE = "<<"
_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_RESOLVER = yaml.resolver.Resolver()


def read_params(path: Path) -> Any:
    """Read a parameter file.

    Returns:
        Mappings with text for keys, lists, text, finite numbers, booleans and None.

    Raises:
        ConfigError: there is no such file, it is no regular file, or as `parse_params`.
    """
    return parse_params(read_params_text(path), name=str(path))


def read_params_text(path: Path) -> str:
    """Read the text of a parameter file; ConfigError as `read_params`."""
    try:
        # O_NONBLOCK: opening a FIFO would wait for somebody who writes to it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:  # noqa: PTH123 (of a descriptor)
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(
                    f"{path} is no regular file; expected a parameter file: replace it, or pass "
                    "another one by --params"
                )
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ConfigError(
                f"{path} has more than {MAX_BYTES} bytes; expected a parameter file: pass it by "
                "--params"
            )
        return data.decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; run from the project folder or pass --params"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path} can't be read as UTF-8 text: {getattr(error, 'strerror', error)}; expected a "
            "parameter file, written in UTF-8"
        ) from None


def parse_params(text: str, *, name: str) -> Any:
    """Parse the text of a parameter file, or of one value.

    Args:
        text: YAML.
        name: where it is from, in messages.

    Raises:
        ConfigError: it isn't YAML, means something else to other programs, or is too large. The
            message says in which line and what to write instead.
    """
    try:
        return _Reader(yaml.parse(text, Loader=_PARSER), name=name).document()
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {_in_one_line(error)}") from None
    except UnicodeEncodeError:  # libyaml is handed UTF-8
        raise ConfigError(f"{name} holds a surrogate; expected plain UTF-8 text") from None


def require_mapping(tree: Any, *, name: str, keys: str) -> None:
    """Check that the content of a file is a mapping.

    Args:
        tree: what the file holds.
        name: where it is from, in messages.
        keys: some keys that it should have, in messages.

    Raises:
        ConfigError: it is empty, or holds something else.
    """
    if not isinstance(tree, dict):
        kind = "a list" if isinstance(tree, list) else f"{_brief(tree)} alone"
        content = "is empty" if tree is None else f"holds {kind}"
        raise ConfigError(f"{name} {content}; expected a mapping, with the keys {keys}")


class _Reader:
    """Builds values from the events of YAML's parser."""

    def __init__(self, events: Iterator[Event], *, name: str) -> None:
        self._events, self._name = events, name
        self._anchors: dict[str, tuple[Any, int] | None] = {}
        """Values of finished anchors with their number of values; None while one is read."""
        self._num_values = 0
        self._flow = False
        """Whether the parser is between brackets, where the parser of DVC wants more quotes."""

    def document(self) -> Any:
        value = None
        num_documents = 0
        for event in self._events:
            if isinstance(event, DocumentStartEvent):
                num_documents += 1
                if num_documents > 1:
                    raise self._error(event, "a second document starts", "one document: remove it")
                if event.version or event.tags:
                    raise self._error(
                        event, "it has a % directive", "none: remove the lines that begin with %"
                    )
                value = self._value(next(self._events), key="", depth=0)
        return value

    def _value(self, event: Event, *, key: str, depth: int) -> Any:
        """Build the value that starts with `event`; `key` names it in messages."""
        if isinstance(event, AliasEvent):
            return self._alias(event, key=key)
        self._count(event, 1)
        tag = getattr(event, "tag", None)
        if tag is not None:
            raise self._error(
                event, f"{key or 'the file'} has the tag {tag}", "no tags", "remove it"
            )
        if isinstance(event, ScalarEvent):
            scalar = self._scalar(event, key=key)
            self._finish(event, scalar, before=self._num_values - 1)
            return scalar
        if depth == MAX_DEPTH:
            raise self._error(
                event,
                f"{_brief(key)} nests more than {MAX_DEPTH} mappings and lists",
                "less depth",
            )
        before, flow = self._num_values - 1, self._flow
        self._finish(event, None, before=None)
        assert isinstance(event, SequenceStartEvent | MappingStartEvent)
        self._flow = flow or bool(event.flow_style)
        value: Any
        if isinstance(event, SequenceStartEvent):
            value = self._list(key=key, depth=depth)
        else:
            value = self._mapping(event, key=key, depth=depth)
        self._flow = flow
        self._finish(event, value, before=before)
        return value

    def _list(self, *, key: str, depth: int) -> list[Any]:
        values: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            values.append(self._value(event, key=f"{key}.{len(values)}", depth=depth + 1))
        return values

    def _mapping(self, start: MappingStartEvent, *, key: str, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        merged: list[Any] = []
        lines: dict[str, int] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            if isinstance(event, ScalarEvent) and event.implicit[0] and event.value == _MERGE:
                merged.append(self._value(next(self._events), key=f"{key}.<<", depth=depth + 1))
                if len(merged) > 1:
                    raise self._error(event, "<< stands twice", "one list: <<: [*a, *b]")
                continue
            name = self._key(event, section=key)
            if name in values:
                raise self._error(
                    event,
                    f"the key {_brief(_join(key, name))} stands twice (first in line "
                    f"{lines[name]})",
                    "each key once",
                    "remove one of the two",
                )
            lines[name] = _line(event)
            values[name] = self._value(next(self._events), key=_join(key, name), depth=depth + 1)
        for sources in merged:
            for source in sources if isinstance(sources, list) else [sources]:
                if not isinstance(source, dict):
                    raise self._error(
                        start, f"<< in {key or 'the file'} is no mapping", "<<: *anchor"
                    )
                values |= {k: v for k, v in source.items() if k not in values}
        return values

    def _key(self, event: Event, *, section: str) -> str:
        where = section or "the file"
        if not isinstance(event, ScalarEvent) or event.tag is not None:
            raise self._error(event, f"a key of {where} is no plain text", "names for keys")
        name = self._scalar(event, key=f"the key {_brief(event.value)} in {where}")
        if not isinstance(name, str):
            raise self._error(
                event,
                f"a key of {where} is {_brief(event.value)}, which is no text",
                f"text for a key: '{_brief(event.value)}' in quotes",
            )
        self._finish(event, name, before=self._num_values)
        return name

    def _scalar(self, event: ScalarEvent, *, key: str) -> Any:
        text = event.value
        if event.implicit[0] and event.style in (None, ""):
            return self._plain(event, text, key=key)
        self._check_text(event, text, key=key)
        return text

    def _plain(self, event: ScalarEvent, text: str, *, key: str) -> Any:
        """Return what plain text means by YAML 1.2."""
        if text in _WORDS:
            return _WORDS[text]
        if _INTEGER.fullmatch(text):
            if len(text) > 20 or not -MAX_INTEGER <= int(text) <= MAX_INTEGER:
                raise self._error(
                    event, f"{key} is {_brief(text)}", f"a number of at most {MAX_INTEGER}"
                )
            return int(text)
        if _FLOAT.fullmatch(text):
            if not math.isfinite(float(text)):
                raise self._error(event, f"{key} is {_brief(text)}", "a finite number")
            return float(text)
        other = _RESOLVER.resolve(yaml.ScalarNode, text, (True, False))
        if other != _TEXT or _NUMBER_OF_YAML_1_2.fullmatch(text):
            raise self._error(event, f"{key} is {_brief(text)}", *_advice(text, other))
        if self._flow and ":" in text:
            raise self._error(
                event,
                f"{key} is {_brief(text)}, with a colon between brackets",
                f"quotes around it, '{_brief(text)}', or a space behind the colon of a key",
            )
        self._check_text(event, text, key=key)
        return text

    def _check_text(self, event: Event, text: str, *, key: str) -> None:
        if any((c < " " and c not in "\n\t") or c == "\x7f" for c in text):
            raise self._error(event, f"{key} holds a control character", "text without")
        if any("\ud800" <= c <= "\udfff" for c in text):
            raise self._error(event, f"{key} holds half of a character (a surrogate)", "text")

    def _alias(self, event: AliasEvent, *, key: str) -> Any:
        name = str(event.anchor)
        anchor = self._anchors.get(name)
        if anchor is None and name in self._anchors:
            raise self._error(
                event, f"*{_brief(name)} in {_brief(key)} refers to itself", "a value"
            )
        if anchor is None:
            raise self._error(
                event, f"*{_brief(name)} in {_brief(key)} has no anchor", "one before it"
            )
        value, num_values = anchor
        self._count(event, num_values)
        return value

    def _finish(self, event: Any, value: Any, *, before: int | None) -> None:
        """Remember the value of an anchor; `before` is None where it isn't finished."""
        if event.anchor is not None:
            if self._anchors.get(event.anchor) is not None:
                raise self._error(
                    event,
                    f"the anchor &{_brief(event.anchor)} stands twice",
                    "a name of its own for each",
                )
            finished = None if before is None else (value, self._num_values - before)
            self._anchors[event.anchor] = finished

    def _count(self, event: Event, num_values: int) -> None:
        self._num_values += num_values
        if self._num_values > MAX_VALUES:
            raise self._error(event, f"it holds more than {MAX_VALUES} values", "fewer")

    def _error(self, event: Event, fault: str, expected: str, advice: str = "") -> ConfigError:
        return ConfigError(
            f"{self._name}, line {_line(event)}: {fault}; expected {expected}"
            f"{': ' if advice else ''}{advice}"
        )


def _advice(text: str, other: str) -> tuple[str, str]:
    """Return what is expected instead of ambiguous plain text, and what to do."""
    kind = other.rpartition(":")[2]
    if kind == "bool":
        return "true or false", f"write one of them, or '{text}' in quotes if you mean the word"
    if re.fullmatch(r"[-+]?\.(inf|nan)", text, re.IGNORECASE):
        return "a finite number", "write one, or null if the key allows it"
    if kind in ("int", "float") or _NUMBER_OF_YAML_1_2.fullmatch(text):
        return (
            "decimal digits",
            "YAML 1.1 and 1.2 read it differently; write the number in plain decimal digits, "
            f"or '{_brief(text)}' in quotes if you mean text",
        )
    return "plain text or a number", f"write '{_brief(text)}' in quotes"


def _line(event: Event) -> int:
    return 1 if event.start_mark is None else event.start_mark.line + 1


def _join(section: str, key: str) -> str:
    return f"{section}.{key}" if section else key


def _brief(text: object) -> str:
    shown = repr(str(text))[1:-1]
    return shown if len(shown) <= _MAX_SHOWN else f"{shown[:_MAX_SHOWN]}..."


def _in_one_line(error: yaml.YAMLError) -> str:
    """Return what PyYAML found and where, without its excerpt of the file."""
    mark: Any = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    position = getattr(error, "position", None)
    where = f" in line {mark.line + 1}" if mark else f" at {position}" if position else ""
    return f"{_brief(problem)}{where}; correct it there"
