"""One export, from its sources to the finished folder."""

import json
from importlib.metadata import version

from tqdm import tqdm

from seggen_core.colors.class_colors import colored_classes
from seggen_core.errors import ExportError
from seggen_core.exports.card import export_card
from seggen_core.exports.coco import CocoInstances
from seggen_core.exports.coco_panoptic import CocoPanoptic
from seggen_core.exports.detectron2 import Detectron2Dicts
from seggen_core.exports.folder import ABOUT, unfinished_folder
from seggen_core.exports.huggingface import HuggingFaceFolder
from seggen_core.exports.job import ExportJob, OpenWriter, Writer
from seggen_core.exports.mmseg import MmsegFolders
from seggen_core.exports.voc import VocFolders
from seggen_core.exports.yolo import YoloFolders
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.publish import write_json
from seggen_core.store.card import CARD
from seggen_core.taxonomy import IGNORE_INDEX

FORMATS: dict[str, type[Writer]] = {
    "coco": CocoInstances,
    "coco-panoptic": CocoPanoptic,
    "mmseg": MmsegFolders,
    "voc": VocFolders,
    "yolo": YoloFolders,
    "detectron2": Detectron2Dicts,
    "huggingface": HuggingFaceFolder,
}
"""What `--to` takes."""


def export(job: ExportJob, *, format_name: str, paths: ProjectPaths, force: bool) -> list[str]:
    """Write an export to `job.out`, in constant memory, and return what the user should know.

    Args:
        job: what is exported.
        format_name: one of FORMATS.
        paths: the project.
        force: replace an earlier export.

    Raises:
        ExportError: the format needs instances, and some samples have none.
        ConfigError: the folder is taken.
        SampleStoreError: a sample is damaged, or another process exports to the same folder.
        StorageError: the disk is full or not writable.
    """
    open_writer: OpenWriter = FORMATS[format_name]
    if FORMATS[format_name].needs_instances:
        _check_instances(job, format_name=format_name)
    with unfinished_folder(job.out, force=force) as folder:
        writer = open_writer(job, folder)
        try:
            samples = tqdm(
                job.selection.samples(),
                total=len(job.selection),
                desc=f"export {format_name}",
                unit="sample",
                disable=None,
            )
            for sample in samples:
                writer.add(sample)
            notes = writer.finish()
        finally:
            writer.close()
        card = export_card(
            job, opening=writer.opening, paths=paths, is_hub=format_name == "huggingface"
        )
        (folder / CARD).write_text(card, encoding="utf-8")
        write_json(folder / ABOUT, _about(job, format_name=format_name))
    return notes


def _check_instances(job: ExportJob, *, format_name: str) -> None:
    """Raise ExportError where samples lack the instances that a format is for."""
    panoptic = format_name == "coco-panoptic"
    if not job.things and not panoptic:
        raise ExportError(
            f"{format_name} is for things, and none of the {len(job.selection.taxonomy)} classes "
            "is one; --components takes each connected part of every class for a thing, and "
            "mmseg, voc, detectron2, huggingface and coco-panoptic need no things"
        )
    if job.components:
        return
    missing = job.selection.without_instances(job.things)
    if missing:
        named = ", ".join(f"{count} of {name}" for name, count in list(missing.items())[:5])
        raise ExportError(
            f"{format_name} needs instances, and {sum(missing.values())} of {len(job.selection)} "
            f"samples show things without an instance map ({named}); --components takes each "
            "connected part of a class for a thing, and mmseg, voc, detectron2 and huggingface "
            "need no instances"
        )


def _about(job: ExportJob, *, format_name: str) -> dict[str, object]:
    """Return what seggen_export.json says."""
    selection = job.selection
    return {
        "format": format_name,
        "seggen": version("seggen"),
        "splits": selection.splits,
        "sources": [
            {
                "name": source.name,
                "split": source.split,
                "samples": len(source.positions),
                "manifest": {
                    name: value
                    for name, value in json.loads(json.dumps(source.store.manifest)).items()
                    if name not in ("classes", "store", "dropped", "rejected")
                },
            }
            for source in selection.sources
        ],
        "classes": colored_classes(selection.taxonomy, selection.colors),
        "ignore_index": IGNORE_INDEX,
        "license": selection.licenses,
        "components": job.components,
    }
