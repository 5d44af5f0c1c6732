"""JSON as Python's parser reads it, but a key that stands twice in an object is an error."""

import json
from typing import Any


def parse_json(text: str) -> Any:
    """Parse a JSON document.

    Raises:
        ValueError: it isn't JSON, names a key twice, nests too deep, or has an integer of more than
            4,300 digits.
    """
    try:
        return DECODER.decode(text)
    except RecursionError:
        raise ValueError("it nests too deep") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = next(key for key in value if keys.count(key) > 1)
        raise ValueError(f"the key {repeated[:40]!r} stands twice in one object")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys)
"""For whoever parses part of a text; it raises RecursionError where values nest too deep."""
