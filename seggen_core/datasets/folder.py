"""The user's own data: folders of images and masks, and a class list.

    root/images/train/**   root/masks/train/**.png   root/instances/train/**.png (optional)
    and the same for val and test
    root/classes.json or classes.csv, or what `dataset.classes_file` names (`class_list`)

A split's folder may be called training, valid, validation or testing, too. A split that isn't there
is taken out of train, and images without folders of splits are all train. Roboflow's export
(root/train/*.jpg and root/train/*_mask.png) is read, too.

An image and its mask share their path without suffix, or the masks' names have one ending more
("_mask"). Masks hold ids (1, 8 or 16 bits, grey RGB, or indexes of a palette), or, where every
class of the list has a colour, those colours. Instance maps hold a number for each instance (8 or
16 bits), 0 for none. `dataset.files` names other folders and endings. Masks may also be one file a
class (`class_masks`).
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.annotated_files import SPLIT_NAMES, split_folder
from seggen_core.datasets.class_list import PARAMS_LIST, read_only_class_file
from seggen_core.datasets.class_masks import ClassMaskReader, reader_pattern
from seggen_core.datasets.files import IMAGE_SUFFIXES, brief, describe_folder
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.datasets.reader import Conventions
from seggen_core.datasets.splits import places
from seggen_core.errors import ConfigError, DatasetError

_MAX_UNLISTED_SHARE = 0.1
"""Outlines that nobody labelled cover 5 to 6% (VOC); an object is often larger."""

CLASS_FILES = (
    "classes.json",
    "classes.csv",
    "_classes.csv",
    "train/_classes.csv",
    "valid/_classes.csv",
    "test/_classes.csv",
    "labelmap.txt",
    "class_names.txt",
)
"""Class lists that are found without being named: ours, Roboflow's, CVAT's and labelme's."""


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """Read the class list and list the splits.

    Raises:
        DatasetError: a folder or the list is missing.
    """
    names = (config.classes_file,) if config.classes_file else CLASS_FILES
    present = [root / name for name in names if (root / name).exists()]
    path = PARAMS_LIST if config.class_list else (present or [root / names[0]])[0]
    paths = present if config.class_list else present or [path]
    table = read_only_class_file(paths, stated=config.class_list)
    layout, unread = find_layout(config, root=root)
    if unread:
        table = replace(table, notes=(*table.notes, unread))
    form = IdMapFormat(
        dataset="folder",
        table=table,
        mask_modes=("L", "P", "I;16", "RGB", "1"),
        instances_modes=("I;16", "L"),
        instance_ids=_instance_ids,
        subfolders="keyed",
        finds_endings=True,
        conventions=Conventions(
            max_unlisted_share=_MAX_UNLISTED_SHARE,
            unlisted=(
                f"They hold 255, which {path.name} doesn't list. If 255 is an object, as in masks "
                "of 0 and 255, give its row the id 255 (255,polyp); if it is what nobody labelled, "
                "say so with a row that has ignore set (255,void,,,yes)."
            ),
            has_own_classes=True,
        ),
    )
    pattern = reader_pattern(
        config, table=table, files=places(config, split="train", layout=layout), root=root
    )
    if pattern is None:
        if config.background or config.class_overlaps != "refuse":
            raise ConfigError(
                "dataset.background and dataset.class_overlaps are for masks of one file a class, "
                f"but the masks in {root} hold all classes in one file; remove them, or set "
                "dataset.class_masks"
            )
        return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)
    unlisted = (
        "No mask covers them. If they are background, name its class: dataset.background; if "
        "nobody labelled them, set dataset.max_unlisted_share to allow it."
    )
    form = replace(form, conventions=replace(form.conventions, unlisted=unlisted))
    return ClassMaskReader(config, form=form, layout=layout, root=root, seed=seed, pattern=pattern)


def find_layout(config: DatasetConfig, *, root: Path) -> tuple[dict[Split, SplitFiles], str]:
    """Find the splits that there are; return their places, and a note about folders not read."""
    is_roboflow = not (root / "images").is_dir() and bool(split_folder(root, SPLIT_NAMES["train"]))
    above = root if is_roboflow else root / "images"
    folders = {split: split_folder(above, names) for split, names in SPLIT_NAMES.items()}
    has_splits = folders["train"] is not None or not any(above.glob("*"))
    if not has_splits and any(folders.values()) and "train" not in config.files:
        raise DatasetError(
            f"{above} has folders of splits and none for train ({describe_folder(above)}); "
            "expected train, too: move the other images and their masks into a folder train"
        )
    layout: dict[Split, SplitFiles] = {}
    for split, folder in folders.items():
        name = folder or split
        is_needed = split == "train" or (split == "val" and config.splits == "val_as_test")
        if folder is None and not is_needed and split not in config.files:
            continue
        if is_roboflow:
            in_folders = (root / name / "images").is_dir()
            images, masks = (f"{name}/images", f"{name}/masks") if in_folders else (name, name)
            layout[split] = SplitFiles(images=images, masks=masks)
            continue
        below = name if has_splits or split != "train" else ""
        instances = _counterpart(root, "instances", split=split, name=below)
        has_instances = bool(below and split_folder(root / "instances", SPLIT_NAMES[split]))
        layout[split] = SplitFiles(
            images=f"images/{below}".rstrip("/"),
            masks=_counterpart(root, "masks", split=split, name=below),
            instances=instances if has_instances or (root / instances).is_dir() else None,
        )
    others = sorted(p.name for p in above.glob("*") if p.is_dir() and p.name[0] != ".")
    unread = [name for name in others if name not in folders.values()]
    notes = [f"{above.name}/{', '.join(unread)} is no split and isn't read"] if unread else []
    num_loose = sum(p.suffix.lower() in IMAGE_SUFFIXES for p in above.glob("*") if p.is_file())
    if num_loose:
        notes.append(f"{num_loose} image(s) in {above.name} are in no split and aren't read")
    if not has_splits and others:
        return layout, (
            f"the folders in {above.name} ({brief(', '.join(others))}) are called as no split "
            "(train, val, test), so all images are one set"
        )
    if is_roboflow or not has_splits or not notes:
        return layout, ""
    return layout, "; ".join(notes)


def _counterpart(root: Path, kind: str, *, split: Split, name: str) -> str:
    """Return the folder of a split's masks or instance maps.

    Args:
        root: of the dataset.
        kind: the folder that holds those of all splits.
        split: the split.
        name: what the folder of its images is called; "" where there are no folders of splits.
    """
    if not name:
        return kind
    if not (root / kind / name).is_dir():
        present = split_folder(root / kind, SPLIT_NAMES[split])
        if present is not None and present.lower() == name.lower():
            name = present
    return f"{kind}/{name}"


def _instance_ids(instances: np.ndarray, segmentation_map: np.ndarray) -> np.ndarray:  # noqa: ARG001 (the interface's)
    return instances.astype(np.int64)
