"""`seggen code`: write digests of the code that each stage depends on, which DVC compares."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write digests of the code that each stage depends on, which DVC compares"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(_: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Write data/code/<stage>.json for every stage of dvc.yaml, and the empty data/code/none.json.

    Raises:
        ConfigError: there is no dvc.yaml, or it holds no stages.
    """
    from seggen_core.config.params_file import read_params
    from seggen_core.errors import ConfigError
    from seggen_core.project.code import SourceTree, declared_params
    from seggen_core.project.publish import write_json

    file = paths.root / "dvc.yaml"
    try:
        declared = declared_params(read_params(file))
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} holds no stages as DVC states them: {error}; run: git checkout dvc.yaml"
        ) from None
    tree = SourceTree()
    paths.code("none").parent.mkdir(parents=True, exist_ok=True)
    write_json(paths.code("none"), {})
    for stage, params in declared.items():
        if stage != "code":
            write_json(paths.code(stage), tree.stage_code(stage, params=params))
    return 0
