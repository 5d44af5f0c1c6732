"""`seggen lineage`: print what an arm was made from, or where the files of an md5 are."""

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths
    from seggen_core.tracking.lineage import Lineage

SUMMARY = "print what an arm was made from, or where the files of an md5 are"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "target",
        help="an arm (masksyn), a stage of dvc.lock (masksyn@car), an md5 that MLflow or dvc.lock "
        "shows (with or without .dir), or a path below data/",
    )
    parser.add_argument(
        "--json", action="store_true", help="print the sources of an arm or stage as JSON"
    )


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Print the sources of an arm or stage, or the places of a hash or path."""
    from seggen_core.errors import ConfigError
    from seggen_core.tracking.lineage import Lineage

    lineage = Lineage.read(paths.root)
    target = _stage_or_place(arguments.target, config=config, paths=paths, lineage=lineage)
    if arguments.json:
        if target not in lineage.stages:
            raise ConfigError(
                f"--json prints the sources of an arm or stage, but {target!r} is none of dvc.lock"
            )
        keys = ("stage", "path", "md5")
        rows = [dict(zip(keys, row, strict=True)) for row in lineage.source_rows(target)]
        print(json.dumps(rows, indent=1))
        return 0
    print(lineage.sources(target) if target in lineage.stages else lineage.places(target))
    return 0


def _stage_or_place(
    target: str, *, config: "SegGenConfig", paths: "ProjectPaths", lineage: "Lineage"
) -> str:
    """Return the stage, path or md5 that a user means.

    An arm is the stage that evaluates it; a method that is no arm, the folder of its samples.

    Raises:
        ConfigError: params.yaml has the arm, method or stage, but dvc.lock doesn't: it hasn't run.
    """
    from seggen_core.errors import ConfigError
    from seggen_core.store.format import method_stage

    stages = lineage.stages
    if target in stages or lineage.lock.find(target):
        return target
    if target in config.variants:
        stage, meant = f"evaluate@{target}", f"the arm {target}"
    elif target in config.synthetic_stores:
        folder = f"data/synthetic/{target}"
        if lineage.lock.find(folder):
            return folder
        stage, meant = method_stage(target), f"the method {target}"
    elif target in _stages(paths, config=config) and not any(
        name.startswith(f"{target}@") for name in stages
    ):
        stage, meant = target, f"the stage {target}"
    else:
        return target
    if stage in stages:
        return stage
    raise ConfigError(
        f"{meant} hasn't been run yet: dvc.lock has no result of it; run: dvc repro {stage}"
    )


def _stages(paths: "ProjectPaths", *, config: "SegGenConfig") -> set[str]:
    """Return all that `dvc repro` takes: the stages of dvc.yaml and their items."""
    from seggen_core.config.params_file import read_params

    file = paths.root / "dvc.yaml"
    names: set[str] = set()
    for name, stage in (read_params(file)["stages"] if file.is_file() else {}).items():
        names.add(name)
        for items in (stage.get("foreach"), *stage.get("matrix", {}).values()):
            if isinstance(items, str):  # "${classes}", a section of params.yaml
                names |= {f"{name}@{item}" for item in getattr(config, items.strip("${}"))}
    return names
