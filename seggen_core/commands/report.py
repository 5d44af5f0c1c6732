"""`seggen report`: print the ablation table."""

import argparse
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "print the ablation table, and what to try next"

_NEXT = """\
Try next:

1. Look at every stage, arm and sample in a browser:
     {ui}
2. Record this result, so that later ones are compared with it:
     git add {files} && git commit --message "First result"
3. Try another setting; only the arms that use it run again:
     dvc exp run --set-param {setting} && dvc metrics diff
"""

_RECORDED = ("dvc.lock", "params.yaml")
"""What each run may change."""

_PIPELINE = (
    "dvc.yaml",
    ".dvc",
    ".dvcignore",
    ".gitignore",
    "profiles",
    "requirements.txt",
    "workspace.yaml",
)
"""What a commit needs besides, or DVC finds no figures in it; `seggen new` leaves it to commit."""


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
        ui = "make ui" if (paths.root / "Makefile").is_file() else "python -m dagster_project.ui"
        files = " ".join([*_RECORDED, *_uncommitted(paths.root)])
        print(_NEXT.format(ui=ui, files=files, setting=_other_setting(config)))
    return 0


def _uncommitted(root: Path) -> list[str]:
    """Return the files and folders of the pipeline that are there and that git doesn't know."""
    command = ["git", "-C", str(root), "ls-files", "--", *_PIPELINE]
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True)
    except OSError:  # there is no git
        return []
    known = {line.partition("/")[0] for line in done.stdout.splitlines()}
    return [name for name in _PIPELINE if name not in known and (root / name).exists()]


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
