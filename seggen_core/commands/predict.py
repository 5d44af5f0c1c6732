"""`seggen predict`: a trained segmenter on images, folders and videos."""

import argparse
import logging
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths
    from seggen_core.segmentation.model_task import ModelTask

SUMMARY = "segment images, folders of images and videos by a trained segmenter"

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "sources", nargs="+", type=Path, metavar="PICTURE", help="image, video, or folder of them"
    )
    add_model_arguments(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("predictions"), help="folder (default: predictions)"
    )
    parser.add_argument(
        "--multi-scale",
        action="store_true",
        help="average several scales and mirrored pictures; takes about ten times as long",
    )
    parser.add_argument(
        "--every", type=int, default=1, metavar="N", help="of a video, each N-th frame (default: 1)"
    )
    parser.add_argument("--no-overlays", action="store_true", help="write masks alone")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that name a segmenter."""
    parser.add_argument("--arm", help="arm of this project that has been trained")
    parser.add_argument("--seed", help="subset seed of the arm (default: its first)")
    parser.add_argument(
        "--best",
        action="store_true",
        help="the best segmenter by the validations of its training, not the last",
    )
    parser.add_argument(
        "--model", type=Path, help="folder of a trained segmenter, instead of --arm"
    )


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Predict the pictures; return 1 if some could not be read.

    Raises:
        ConfigError: there is no picture, no model is named, or the folder holds predictions of
            another model.
        FoundationError: the model can't be loaded.
        StorageError: the disk is full or not writable.
    """
    from seggen_core.errors import ConfigError
    from seggen_core.segmentation.prediction_job import PredictionJob, run_predictions

    if arguments.every < 1:
        raise ConfigError(f"--every is {arguments.every}; expected at least 1")
    job = PredictionJob(
        sources=arguments.sources,
        model=find_model(arguments, paths=paths),
        out=arguments.out,
        multi_scale=arguments.multi_scale,
        every=arguments.every,
        with_overlays=not arguments.no_overlays,
        device=arguments.device,
        task=_arm_task(arguments, paths=paths),
    )
    result = run_predictions(job, paths=paths)
    for fault in result.faults:
        logger.warning("not predicted: %s", fault)
    print(f"{len(result.names)} predictions in {job.out}, {result.num_new} of them by this run")
    return 1 if result.faults else 0


def _arm_task(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> "ModelTask | None":
    """Return what the segmenters of --arm are for, if they find segments."""
    from seggen_core.segmentation.arms import TrainedArm
    from seggen_core.segmentation.labels import LabelSpace
    from seggen_core.segmentation.model_task import ModelTask
    from seggen_core.taxonomy import Taxonomy

    if arguments.arm is None:
        return None
    arm = TrainedArm.read(paths, variant=arguments.arm)
    if arm.task == "semantic":
        return None
    taxonomy = LabelSpace(Taxonomy.read(paths.taxonomy), arm.known_classes).taxonomy
    return ModelTask(arm.task, taxonomy, arm.postprocess)


def find_model(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> Path:
    """Return the folder of the segmenter that the options name.

    Raises:
        ConfigError: none is named, or both a folder and an arm, or the arm has no such seed.
        FoundationError: the arm isn't trained.
    """
    from seggen_core.errors import ConfigError
    from seggen_core.segmentation.arms import BEST, TrainedArm

    known = sorted(p.parent.name for p in paths.checkpoint("x").parent.glob("*/metrics.json"))
    trained = f"; trained here: {', '.join(known)}" if known else ""
    if (arguments.model is None) == (arguments.arm is None):
        raise ConfigError(f"name the segmenter, either as --arm or as --model{trained}")
    if arguments.model is not None:
        return Path(arguments.model)
    close = get_close_matches(arguments.arm, known, n=1)
    if close and arguments.arm not in known:
        raise ConfigError(f"no arm {arguments.arm} is trained; did you mean {close[0]}?{trained}")
    arm = TrainedArm.read(paths, variant=arguments.arm)
    seed = arguments.seed or arm.seeds[0]
    if seed not in arm.seeds:
        raise ConfigError(
            f"the arm {arguments.arm} has no seed {seed}; it has: {', '.join(arm.seeds)}"
        )
    folder = arm.folder / f"seed{seed}"
    return folder / BEST if arguments.best else folder
