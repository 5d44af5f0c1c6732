"""`seggen export-model`: a trained segmenter as an ONNX file."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write a trained segmenter as an ONNX file"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from seggen_core.commands.predict import add_model_arguments

    add_model_arguments(parser)
    parser.add_argument(
        "--out", type=Path, default=Path("segmenter.onnx"), help="file (default: segmenter.onnx)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("HEIGHT", "WIDTH"),
        help="of the images (default: the squares that the segmenter was trained on)",
    )


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Write the file.

    Raises:
        ConfigError: no model or no size is named, or a package is missing.
        FoundationError: the model can't be loaded or exported.
        StorageError: the file can't be written.
    """
    from seggen_core.commands.predict import find_model
    from seggen_core.errors import ConfigError
    from seggen_core.segmentation.arms import TrainedArm
    from seggen_core.segmentation.input_size import InputSize
    from seggen_core.segmentation.models import load_segmenter
    from seggen_core.segmentation.onnx_export import export_onnx
    from seggen_core.segmentation.segment_labels import require_classes

    above = arguments.out.parent
    if not above.is_dir():
        raise ConfigError(f"there is no folder {above}; name a file in a folder that exists")
    folder = find_model(arguments, paths=paths)
    if arguments.arm is not None:
        require_classes(
            TrainedArm.read(paths, variant=arguments.arm).task, arm=arguments.arm, key="--arm"
        )
    square = InputSize.read(folder).square
    size = arguments.size or ([square, square] if square else None)
    if size is None or min(size) < 1 or max(size) > 1 << 13:
        raise ConfigError(
            "name the size of the images as --size HEIGHT WIDTH, each from 1 to 8192: images of "
            "this segmenter keep their aspect, and a file has one size"
        )
    difference = export_onnx(load_segmenter(folder), arguments.out, size=(size[0], size[1]))
    compared = (
        "not compared, because onnxruntime isn't installed"
        if math.isnan(difference)
        else f"scores differ from the segmenter's by {difference:.1g} of the largest"
    )
    print(f"{arguments.out}: images of {size[0]}x{size[1]} pixels; {compared}")
    return 0
