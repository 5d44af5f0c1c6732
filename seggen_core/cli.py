"""The `seggen` command: one subcommand a stage, and a few that look at what the stages made.

Nothing heavy is imported before a subcommand runs, so that `--help` answers at once.
"""

import argparse
import errno
import importlib
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.paths import ProjectPaths

STAGES = {
    "dataset": "write the real samples, their taxonomy and the low-data subsets",
    "captions": "caption the real training samples",
    "foundation": "fetch or pretrain the text-to-image pipeline",
    "text2mask": "fine-tune the foundation to draw colour-coded masks",
    "mask2img": "train a ControlNet that draws what a mask shows",
    "masksyn": "make new masks and images for one class partition",
    "imgsyn": "make new images for the real masks of one class partition",
    "seediff": "make images of one class with masks from attention",
    "train_seg": "train the segmenter of one ablation arm",
    "evaluate": "evaluate one ablation arm on the held-out test split",
    "judge": "score one method's pairs by the segmenter trained on all real samples",
    "ablation": "compare all arms in one table",
}
"""Stage names, shared with dvc.yaml, params.yaml and `seggen_core.stages`."""

_ITEMS = {
    "masksyn": "class slug",
    "imgsyn": "class slug",
    "seediff": "class slug",
    "train_seg": "variant",
    "evaluate": "variant",
    "judge": "method",
}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of all subcommands."""
    about = "Synthetic segmentation data from text-to-image diffusion models."
    parser = argparse.ArgumentParser(prog="seggen", description=about)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file; its folder is the project root")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage, summary in STAGES.items():
        command = commands.add_parser(stage, help=summary, description=f"Stage {stage}: {summary}.")
        if stage in _ITEMS:
            command.add_argument("--item", required=True, help=_ITEMS[stage])
    validate = commands.add_parser("validate", help="check the dataset and the synthetic samples")
    validate.add_argument("--max-bad", type=int, help="bad samples a split may have (default: dataset.max_bad)")
    validate.add_argument("--headers-only", action="store_true", help="don't decode pixels: ten times as fast")
    validate.add_argument("--report", type=Path, help="write all findings to this file too, as JSON or text by its suffix")
    pretrain = commands.add_parser(
        "pretrain", help="pretrain the embedded foundation from seeds (hours on a CPU core, minutes on a GPU)"
    )
    pretrain.add_argument("--out", type=Path, required=True, help="folder for the diffusers pipeline; must not exist")
    pretrain.add_argument("--init-from", type=Path, help="continue from the weights of this foundation")
    commands.add_parser("report", help="print the ablation table")
    track = commands.add_parser("track", help="set up the tracking database, or send it what it missed")
    track.add_argument("--replay", action="store_true", help="send metrics that were kept on disk while the server was down")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return the exit code; errors for the user to put right are printed as one message."""
    arguments = build_parser().parse_args(argv)
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # the libraries' bars; ours ask for themselves
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for noisy in ("httpx", "urllib3", "alembic", "PIL", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    from seggen_core.errors import SegGenError, StorageError

    try:
        from seggen_core.config import load_config
        from seggen_core.paths import ProjectPaths

        config = load_config(arguments.params)
        return _run(arguments, config=config, paths=ProjectPaths(arguments.params.resolve().parent))
    except SegGenError as error:
        print(f"seggen {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except FileNotFoundError as error:
        missing = Path(error.filename or "").absolute()
        if not missing.is_relative_to(arguments.params.resolve().parent / "data"):
            raise
        name = f"{arguments.command}@{arguments.item}" if "item" in arguments else arguments.command
        made = "which an earlier stage makes; run: dvc repro"
        print(f"seggen {arguments.command}: there is no {missing}, {made} {name}", file=sys.stderr)
        return SegGenError.exit_code
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM):
            raise
        where = error.filename or "the project folder"
        print(
            f"seggen {arguments.command}: can't use {where}: {error.strerror}. What was finished before is intact; "
            "free some space or change its permissions, then run the same command again",
            file=sys.stderr,
        )
        return StorageError.exit_code
    except KeyboardInterrupt:
        return 130


def _run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    if arguments.command in STAGES:
        stage = importlib.import_module(f"seggen_core.stages.{arguments.command}")
        stage.run(config, paths=paths, item=getattr(arguments, "item", None))
        return 0
    if arguments.command == "validate":
        from seggen_core.datasets.validate import validate_project

        max_bad = config.dataset.max_bad if arguments.max_bad is None else arguments.max_bad
        report = validate_project(config, paths=paths, max_bad=max_bad, headers_only=arguments.headers_only)
        print(report.render())
        if arguments.report:
            report.write(arguments.report)
        return 1 if report.problems else 0
    if arguments.command == "pretrain":
        from seggen_core.config import PretrainConfig
        from seggen_core.errors import ConfigError
        from seggen_core.stages.foundation import pretrain

        if arguments.out.exists():
            raise ConfigError(f"{arguments.out} exists; name a new folder")
        settings = config.foundation.pretrain or PretrainConfig()
        if arguments.init_from:
            settings = settings.model_copy(update={"init_from": arguments.init_from})
        work_folder = paths.scratch / "pretrain"
        pretrain(settings, seed=config.seed, runtime=config.runtime, folder=arguments.out, work_folder=work_folder)
        return 0
    if arguments.command == "report":
        from seggen_core.errors import ConfigError

        table = paths.ablation / "ablation.md"
        if not table.is_file():
            raise ConfigError(f"there is no {table}; run the pipeline first (make demo, or: dvc repro)")
        print(table.read_text(encoding="utf-8"))
        return 0

    from seggen_core.tracking import prepare_tracking, replay

    if arguments.replay:
        print(replay(paths, config.runtime))
    else:
        prepare_tracking(paths, config.runtime)
    return 0
