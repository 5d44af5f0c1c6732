"""`seggen report`: print the ablation table."""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "print the ablation table, and what to try next"

_NEXT = """\
Try next:

1. Look at every stage, arm and sample in a browser:
     make ui
2. Record this result, so that later ones are compared with it:
     git add dvc.lock params.yaml && git commit --message "First result"
3. Try another setting; only the arms that use it run again:
     dvc exp run --set-param {setting} && dvc metrics diff
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="print all figures as JSON")


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Print the table and three commands; ConfigError if there is no table yet."""
    from seggen_core.errors import ConfigError

    table = paths.ablation / ("metrics.json" if arguments.json else "ablation.md")
    if not table.is_file():
        raise ConfigError(f"there is no {table}; run the pipeline first (make demo, or: dvc repro)")
    print(table.read_text(encoding="utf-8"))
    if not arguments.json:
        print(_NEXT.format(setting=_other_setting(config)))
    return 0


def _other_setting(config: "SegGenConfig") -> str:
    """Return a parameter that some arm depends on, with another value: "<key>=<value>"."""
    strategies = {variant.strategy for variant in config.variants.values()}
    settings = config.train_seg
    if "replace" in strategies:
        key, value = "replace.p_aug", settings.replace.p_aug
    elif "pretrain" in strategies:
        key, value = "pretrain.pretrain_share", settings.pretrain.pretrain_share
    else:
        return f"train_seg.common.num_steps={2 * settings.common.num_steps}"
    return f"train_seg.{key}={0.4 if value != 0.4 else 0.6}"
