"""`seggen code`: write digests of the code that each stage depends on, which DVC compares."""

import argparse
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.code import SourceTree
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write digests of the code that each stage depends on, which DVC compares"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(_: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Write data/code/<stage>.json for every stage of dvc.yaml, and the empty data/code/none.json.

    Raises:
        ConfigError: there is no dvc.yaml, it holds no stages, or the project is one of another
            version of seggen.
    """
    from seggen_core.project.code import SourceTree

    _check_version(paths)
    write_digests(SourceTree(), paths=paths)
    return 0


def write_digests(tree: "SourceTree", *, paths: "ProjectPaths") -> None:
    """Write the digests that `tree` has for the stages of the project's dvc.yaml.

    Raises:
        ConfigError: there is no dvc.yaml, or it holds no stages.
    """
    from seggen_core.config.params_file import read_params
    from seggen_core.errors import ConfigError
    from seggen_core.project.code import declared_params
    from seggen_core.project.publish import write_json

    file = paths.root / "dvc.yaml"
    try:
        declared = declared_params(read_params(file))
    except (AttributeError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file} holds no stages as DVC states them: {error}; run: git checkout dvc.yaml"
        ) from None
    paths.code("none").parent.mkdir(parents=True, exist_ok=True)
    write_json(paths.code("none"), {})
    for stage, params in declared.items():
        if stage != "code":
            write_json(paths.code(stage), tree.stage_code(stage, params=params))


def _check_version(paths: "ProjectPaths") -> None:
    """Compare the version that a project names (`seggen new` writes it) with the installed one."""
    from seggen_core.errors import ConfigError
    from seggen_core.project.shipped import version

    file = paths.root / "requirements.txt"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    pin = re.search(r"^seggen(?:\[[\w,]*\])?==([\w.+!]+)", text, flags=re.MULTILINE)
    if pin and pin[1] != version():
        raise ConfigError(
            f"{file} names seggen {pin[1]}, but {version()} is installed; dvc.yaml may be another "
            "one there. To go on with the installed version, run: seggen new --update . "
            "(dvc repro then runs what the new code concerns). To go back, run: "
            "pip install -r requirements.txt"
        )
