"""The reference of params.yaml: every key with its type, its default and its documentation."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from seggen_core.config.base import Section
from seggen_core.config.load import SegGenConfig
from seggen_core.errors import ConfigError

_NAMES = {"str": "text", "bool": "true or false", "int": "integer", "float": "number"}


@dataclass(frozen=True)
class Key:
    """One key of params.yaml.

    Attributes:
        name: "text2mask.num_steps"; `<name>` stands for a name that the user chooses.
        kind: its type in words: "integer", "a or b".
        default: as JSON; "required" where there is none.
        text: what it means.
        is_section: whether it holds other keys.
    """

    name: str
    kind: str
    default: str
    text: str
    is_section: bool


def describe_keys(section: str | None = None) -> list[Key]:
    """Return all keys in the order of their definition, or those of one top-level section.

    Raises:
        ConfigError: there is no such section.
    """
    if section is not None and section not in SegGenConfig.model_fields:
        known = list(SegGenConfig.model_fields)
        close = get_close_matches(section.partition(".")[0], known, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(
            f"params.yaml has no section {section!r}; {meant}it has: {', '.join(known)}"
        )
    keys = list(_keys(SegGenConfig, prefix=""))
    if section is None:
        return keys
    return [key for key in keys if key.name.split(".")[0] == section]


def _keys(model: type[BaseModel], *, prefix: str) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        inner = _sections(field.annotation)
        is_map = get_origin(field.annotation) is dict
        text = " ".join((field.description or "").split())
        kind = "section" if inner and not is_map else _kind(field.annotation)
        yield Key(f"{prefix}{name}", kind, _default(field), text, bool(inner))
        for section in inner:
            yield from _keys(section, prefix=f"{prefix}{name}.{'<name>.' if is_map else ''}")


def _sections(annotation: Any) -> list[type[BaseModel]]:
    """Return the models that a field's values are, directly, in a mapping or as an alternative."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return [annotation]
    return [section for part in get_args(annotation) for section in _sections(part)]


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, str):
        return value
    try:
        return json.dumps(value, default=str, ensure_ascii=False)
    except TypeError:
        return str(value)


def _kind(annotation: Any) -> str:
    """Return a type in words."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation is None or annotation is type(None):
        return "null"
    if origin is Annotated:
        return _kind(arguments[0])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys(_kind(argument) for argument in arguments))
    if origin in (tuple, list, frozenset):
        return f"list of {_kind(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"mapping to {_kind(arguments[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "section"
    name = getattr(annotation, "__name__", str(annotation))
    return _NAMES.get(name, name.lower())
