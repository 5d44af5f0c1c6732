"""The keys of params.yaml that DVC needs.

A key that params.yaml lacks has its default here. DVC knows no defaults: it stops at the stage that
depends on the key, perhaps after hours.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from seggen_core.config.load import SegGenConfig
from seggen_core.config.params_file import read_params
from seggen_core.errors import ConfigError

_REFERENCE = re.compile(r"\$\{([\w.-]+)\}")
_ABSENT = object()


def lacking_keys(params: Path, *, pipeline: Path, config: SegGenConfig) -> list[str]:
    """Return a sentence on each key that dvc.yaml names and params.yaml lacks.

    Args:
        params: params.yaml.
        pipeline: dvc.yaml; a project without one needs no key.
        config: the checked parameters, whose value is what to write.
    """
    try:
        tree, stages = read_params(params), read_params(pipeline)["stages"]
    except (ConfigError, KeyError, TypeError):
        return []  # no pipeline, or none that DVC itself could read
    needed: dict[str, str] = {}
    for stage, key in _dependencies(stages, tree):
        if _look_up(tree, key) is _ABSENT:
            needed.setdefault(key, stage)
    values = config.model_dump(mode="json")
    sentences = []
    for key, stage in needed.items():
        value = _look_up(values, key)
        shown = "{}" if isinstance(value, dict) or value is _ABSENT else json.dumps(value)
        section, _, name = key.rpartition(".")
        place = f"in {section}, " if section else ""
        sentences.append(
            f"params.yaml lacks {key}, which DVC needs for the stage {stage}; {place}write "
            f"{name}: {shown}"
        )
    return sentences


def _dependencies(stages: Mapping[str, Any], tree: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the name of each stage with each key of params.yaml that it depends on."""
    for name, stage in stages.items():
        body = stage.get("do", stage)
        keys = [key for key in body.get("params", []) if isinstance(key, str)]
        if "foreach" not in stage:
            yield from ((name, key) for key in keys)
            continue
        reference = _REFERENCE.fullmatch(stage["foreach"])
        items = _look_up(tree, reference[1]) if reference else _ABSENT
        for item, content in items.items() if isinstance(items, Mapping) else ():
            values = {"key": item, "item": content}
            yield from ((f"{name}@{item}", _filled(key, values)) for key in keys)


def _filled(key: str, values: Mapping[str, Any]) -> str:
    """Return a key with the values of its references: train_seg.${item.model}."""
    return _REFERENCE.sub(lambda match: str(_look_up(values, match[1])), key)


def _look_up(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return _ABSENT
        tree = tree[part]
    return tree
