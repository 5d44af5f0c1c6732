"""`seggen export`: real, synthetic or mixed samples in the format of another library."""

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write samples as COCO, mmseg, VOC, YOLO, Detectron2 or Hugging Face data"

FORMATS = ("coco", "coco-panoptic", "mmseg", "voc", "yolo", "detectron2", "huggingface")

logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="real, real/train, masksyn (a method), masksyn/car (a partition), or a folder",
    )
    parser.add_argument(
        "--to",
        required=True,
        choices=FORMATS,
        type=_format,
        metavar="FORMAT",
        help=", ".join(FORMATS),
    )
    parser.add_argument("--out", required=True, type=Path, help="the folder to make")
    parser.add_argument("--force", action="store_true", help="replace an earlier export")
    parser.add_argument("--name", help="name of the dataset (default: that of the folder)")
    parser.add_argument(
        "--limit", type=int, help="most samples of each split, spread evenly over its sources"
    )
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="SCORE>=NUMBER",
        help="take only synthetic samples with such a score of the store, or of the judge "
        '("judge>=60"); may be repeated',
    )
    parser.add_argument(
        "--components",
        action="store_true",
        help="make things of connected parts where samples have no instances",
    )
    parser.add_argument(
        "--segmentation",
        choices=("rle", "polygons", "both"),
        default="rle",
        help="masks in coco: run lengths, polygons, or a file of each (default: rle)",
    )
    parser.add_argument(
        "--images",
        choices=("stored", "jpg", "png"),
        default="stored",
        help="copy images as they are stored, or convert them (default: stored; voc is always jpg)",
    )
    parser.add_argument(
        "--push",
        metavar="USER/NAME",
        help="upload a huggingface export to this dataset repository of the Hub, which is private "
        "unless --public is given; the token comes from the variable HF_TOKEN",
    )
    parser.add_argument("--public", action="store_true", help="--push to a public repository")


def _format(text: str) -> str:
    """Read the name of a format: "COCO_panoptic" and "hf" are names, too."""
    plain = text.lower().replace("_", "-")
    return {"hf": "huggingface", "coco-instances": "coco", "panoptic": "coco-panoptic"}.get(
        plain, plain
    )


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Write the folder, and upload it if that is asked for.

    Raises:
        ConfigError: an option or a source is wrong, or the folder is taken.
        ExportError: the format needs instances that the samples lack, or the Hub refuses.
        SampleStoreError: a store is missing or damaged.
        StorageError: the disk is full or not writable.
    """
    from seggen_core.errors import ConfigError, ExportError
    from seggen_core.exports.export import export
    from seggen_core.exports.folder import check_out
    from seggen_core.exports.hub import check_push, push
    from seggen_core.exports.job import ExportJob
    from seggen_core.exports.sources import Condition, open_selection

    # 1. What can be refused is refused before any sample is read.
    if arguments.limit is not None and arguments.limit < 1:
        raise ConfigError(f"--limit is {arguments.limit}; expected at least 1")
    if arguments.push and arguments.to != "huggingface":
        raise ExportError(f"--push uploads huggingface exports, and this is {arguments.to}")
    token = check_push(arguments.push) if arguments.push else ""
    out = arguments.out.resolve()
    check_out(out, force=arguments.force)

    # 2. The samples.
    selection = open_selection(
        arguments.sources,
        paths=paths,
        limit=arguments.limit,
        conditions=[Condition.parse(text) for text in arguments.where],
    )
    job = ExportJob(
        selection=selection,
        name=arguments.name or out.name,
        out=out,
        components=arguments.components,
        segmentation=arguments.segmentation,
        images=arguments.images,
    )

    # 3. The folder.
    for note in export(job, format_name=arguments.to, paths=paths, force=arguments.force):
        logger.warning("%s", note)
    counts = ", ".join(f"{count} {split}" for split, count in selection.splits.items())
    print(f"{counts} samples as {arguments.to} in {out}")

    # 4. The Hub.
    if arguments.push:
        url = push(out, repo=arguments.push, token=token, public=arguments.public)
        print(f"uploaded to {url}")
    return 0
