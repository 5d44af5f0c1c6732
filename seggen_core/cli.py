"""The `seggen` command: one subcommand for each stage, and the other commands.

No heavy library is imported before a subcommand runs, so `--help` answers at once.
"""

import argparse
import importlib
import io
import logging
import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seggen_core.commands import (
    captions_export,
    captions_import,
    code,
    completion,
    doctor,
    export,
    export_model,
    init,
    lineage,
    mask,
    new,
    params,
    plan,
    predict,
    pretrain,
    report,
    show,
    suites,
    track,
    validate,
)
from seggen_core.commands.parsing import BEFORE, Parser, add_project_options, add_version, parse

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

STAGES = {
    "dataset": "write the real samples, their taxonomy and the low-data subsets",
    "captions": "caption the real training samples",
    "foundation": "fetch or pretrain the text-to-image pipeline",
    "text2mask": "fine-tune the foundation to draw colour-coded masks",
    "mask2img": "train a ControlNet that draws what a mask shows",
    "masksyn": "make new masks and images for one class partition",
    "imgsyn": "make new images for the real masks of one class partition",
    "seediff": "make images of one class with masks from attention",
    "diffumask": "make images of one class with masks from cross-attention and learned thresholds",
    "mask_recipe": "make other masks of the images of SeeDiff or DiffuMask",
    "train_seg": "train the segmenter of one ablation arm",
    "evaluate": "evaluate one ablation arm on the held-out test split",
    "judge": "score one method's pairs by the segmenter trained on all real samples",
    "memorization": "measure how near one method's samples come to the real training samples",
    "ablation": "compare all arms in one table",
    "transfer": "score one ablation arm on the test split of another dataset",
    "suite": "write the page of one suite: some arms beside the figures of a paper's table",
    "check_dataset": "check the real samples; what reads them is run only if they pass",
    "check_captions": "check the captions; what is trained on them is run only if they pass",
    "check_synthetic": "check one method's samples; what reads them is run only if they pass",
}
"""Names of the stages, as in dvc.yaml, params.yaml and `seggen_core.stages`, with a summary each.
"""

COMMANDS: dict[str, Any] = {
    "new": new,
    "init": init,
    "validate": validate,
    "show": show,
    "plan": plan,
    "params": params,
    "mask": mask,
    "predict": predict,
    "export": export,
    "export-model": export_model,
    "captions-export": captions_export,
    "captions-import": captions_import,
    "pretrain": pretrain,
    "report": report,
    "suites": suites,
    "lineage": lineage,
    "track": track,
    "doctor": doctor,
    "completion": completion,
    "code": code,
}
"""The other commands: modules with SUMMARY, add_arguments and run."""

_EXIT_BROKEN_PIPE = 141
"""What a shell says of a program that SIGPIPE ended."""

_WITHOUT_PARAMS = {
    "code",
    "completion",
    "doctor",
    "export",
    "export-model",
    "init",
    "mask",
    "new",
    "params",
    "predict",
}
"""Commands that get no configuration, since they do not read params.yaml."""

_ITEMS = {
    "masksyn": "class slug",
    "imgsyn": "class slug",
    "seediff": "class slug",
    "diffumask": "class slug",
    "mask_recipe": "mask recipe",
    "train_seg": "variant",
    "evaluate": "variant",
    "judge": "method",
    "memorization": "method",
    "check_synthetic": "method",
    "suite": "suite",
    "transfer": "transfer",
}


def build_parser() -> Parser:
    """Build the parser of all subcommands."""
    about = "Synthetic segmentation data from text-to-image diffusion models."
    parser = Parser(prog="seggen", description=about)
    add_version(parser)
    add_project_options(parser, dest=BEFORE)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage, summary in STAGES.items():
        command = commands.add_parser(stage, help=summary, description=f"Stage {stage}: {summary}.")
        add_project_options(command)
        if stage in _ITEMS:
            help_text = f"{_ITEMS[stage]}, or DVC's name of the stage: {stage}@<{_ITEMS[stage]}>"
            command.add_argument("--item", required=True, type=_item_parser(stage), help=help_text)
        command.set_defaults(parser=command)
    for name, module in COMMANDS.items():
        command = commands.add_parser(
            name,
            help=module.SUMMARY,
            description=f"{module.SUMMARY[0].upper()}{module.SUMMARY[1:]}.",
        )
        module.add_arguments(command)
        add_project_options(command, dest=None if name in _WITHOUT_PARAMS else "overrides")
        command.set_defaults(parser=command)
    return parser


def _item_parser(stage: str) -> Callable[[str], str]:
    """Return a parser that takes an item ("car") or the name of its DVC stage ("masksyn@car").

    dvc.yaml passes DVC_STAGE instead of the item, because a shell would read text of params.yaml in
    a command.
    """

    def parse(text: str) -> str:
        from seggen_core.config.base import SLUG

        item = re.sub(rf"\A(.*:)?{stage}@", "", text)
        if not SLUG.fullmatch(item):
            raise argparse.ArgumentTypeError(
                f"{text!r} is no {_ITEMS[stage]}: expected letters, digits, '_' and '-'"
            )
        return item

    return parse


def main(argv: list[str] | None = None) -> int:
    """Run one subcommand and return the exit code; a user's error is printed as one message."""
    _escape_output()
    arguments = parse(build_parser(), argv, without_set=_WITHOUT_PARAMS)
    if not sys.stderr.isatty():
        os.environ.setdefault(
            "TQDM_DISABLE", "1"
        )  # for the bars of libraries; ours check themselves
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    for noisy in ("httpx", "urllib3", "alembic", "PIL", "matplotlib"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    from seggen_core.errors import ConfigError, SegGenError, StorageError
    from seggen_core.project.storage import disk_errors

    try:
        from seggen_core.project.paths import ProjectPaths

        try:
            root = arguments.params.parent.resolve()  # the file itself may be a link to elsewhere
        except (OSError, RuntimeError) as error:  # RuntimeError is Python 3.11's word for a loop
            raise ConfigError(
                f"{arguments.params} can't be followed ({error}); expected a file or a link to one"
            ) from None
        paths = ProjectPaths(root)
        with disk_errors(root):
            if arguments.command in _WITHOUT_PARAMS:
                exit_code = COMMANDS[arguments.command].run(arguments, paths=paths)
            else:
                exit_code = _run(arguments, config=_load(arguments), paths=paths)
            sys.stdout.flush()
            return exit_code
    except BrokenPipeError:
        if not _drop_output() and arguments.command in STAGES:
            raise  # another pipe than the output's: a bug
        return _EXIT_BROKEN_PIPE  # whoever read it, such as `head`, has seen enough
    except SegGenError as error:
        if isinstance(error, StorageError):
            _drop_output()
        print(f"seggen {arguments.command}: {error}", file=sys.stderr)
        return error.exit_code
    except FileNotFoundError as error:
        missing = Path(error.filename or "").absolute()
        if not missing.is_relative_to(root / "data"):
            raise
        name = f"{arguments.command}@{arguments.item}" if "item" in arguments else arguments.command
        remedy = f"which an earlier stage makes; run: dvc repro {name}"
        print(f"seggen {arguments.command}: there is no {missing}, {remedy}", file=sys.stderr)
        return SegGenError.exit_code
    except KeyboardInterrupt:
        return 130


def _escape_output() -> None:
    """Escape what the encoding of the output can't hold: names of files are any bytes."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _drop_output() -> bool:
    """Drop output that can't be written: Python's last flush would change the exit code.

    Returns:
        Whether that was needed.
    """
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _load(arguments: argparse.Namespace) -> "SegGenConfig":
    from seggen_core.config import load_config
    from seggen_core.project.shipped import profile_file

    file = arguments.params
    if getattr(arguments, "profile", None):  # `plan` may plan one instead of the parameter file
        file = profile_file(arguments.profile, root=file.parent)
    return load_config(file, overrides=arguments.overrides)


def _run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    if arguments.command in STAGES:
        stage = importlib.import_module(f"seggen_core.stages.{arguments.command}")
        stage.run(config, paths=paths, item=getattr(arguments, "item", None))
        return 0
    return COMMANDS[arguments.command].run(arguments, config=config, paths=paths)
