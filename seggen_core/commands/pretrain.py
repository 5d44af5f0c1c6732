"""`seggen pretrain`: pretrain the embedded foundation from seeds."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "pretrain the embedded foundation from seeds (hours on a CPU core, minutes on a GPU)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the diffusers pipeline; must not exist"
    )
    parser.add_argument(
        "--init-from", type=Path, help="continue from the weights of this foundation"
    )


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Pretrain and save; ConfigError where the folder exists."""
    from seggen_core.config import PretrainConfig
    from seggen_core.errors import ConfigError
    from seggen_core.generators.make_foundation import located
    from seggen_core.generators.pretrain import Pretraining, pretrain_with_progress
    from seggen_core.project.digests import json_digest
    from seggen_core.project.publish import publish
    from seggen_core.project.runtime import limit_threads, pick_device
    from seggen_core.training.loop import make_accelerator

    if arguments.out.exists():
        raise ConfigError(f"{arguments.out} exists; name a new folder")
    settings = config.foundation.pretrain or PretrainConfig()
    if arguments.init_from:
        # Typed at a shell, so it starts from where the shell is.
        settings = settings.model_copy(update={"init_from": arguments.init_from.absolute()})
    settings = located(settings, base=paths.root)
    limit_threads(config.runtime)
    identity = json_digest([settings.model_dump(mode="json"), config.seed])
    pretraining = Pretraining(
        config=settings,
        seed=config.seed,
        accelerator=make_accelerator(pick_device(config.runtime)),
        work_folder=paths.scratch / "pretrain" / identity,
    )
    finished = pretraining.work_folder / "pipeline"
    pretrain_with_progress(pretraining, folder=finished)
    if pretraining.accelerator.is_main_process:
        publish(finished, arguments.out)
    return 0
