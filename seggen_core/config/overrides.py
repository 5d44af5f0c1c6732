"""Values of single parameters, as the command line gives them: "text2mask.num_steps=100"."""

import re
from collections.abc import Iterable
from typing import Any

from seggen_core.config.params_file import parse_params
from seggen_core.errors import ConfigError

_KEY = re.compile(r"[\w-]{1,40}(\.[\w-]{1,80}){0,6}", flags=re.ASCII)


def parse_override(text: str) -> tuple[list[str], Any]:
    """Return the parts of the key, and the value, which is YAML.

    Raises:
        ConfigError: it isn't KEY=VALUE, or the value is no YAML.
    """
    key, mark, value = text.partition("=")
    if not mark or not _KEY.fullmatch(key):
        raise ConfigError(
            f"{text[:80]!r} is not KEY=VALUE; expected a key of params.yaml, such as "
            "text2mask.num_steps=100"
        )
    return key.split("."), parse_params(value, name=key)


def set_value(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    """Set a value in nested mappings; sections that are missing are made.

    Raises:
        ConfigError: something on the way is no section.
    """
    for key in keys[:-1]:
        inner = tree.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"--set {'.'.join(keys)}: {key!r} has a value already and is no section; set one "
                "of the two"
            )
        tree = inner
    tree[keys[-1]] = value


def apply_overrides(tree: Any, overrides: Iterable[str]) -> None:
    """Set values in parameters that were read already; `tree` that is no mapping is left alone.

    Raises:
        ConfigError: as `parse_override` and `set_value`.
    """
    for text in overrides:
        keys, value = parse_override(text)
        if isinstance(tree, dict):
            set_value(tree, keys, value)
