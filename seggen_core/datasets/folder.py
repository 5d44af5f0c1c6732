"""The user's own data: folders of images and masks, and a class list.

    root/images/train/**   root/masks/train/**.png   root/instances/train/**.png (optional)   and
    the same for val and test root/classes.json or classes.csv, or what `dataset.classes_file` names

An image and its mask share their path without suffix. Masks hold ids (8 or 16 bits, or indexes of a
palette), or, where every class of the list has a colour, those colours. Instance maps hold a number
for each instance (8 or 16 bits), 0 for none. `dataset.files` names other folders.
"""

from pathlib import Path

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_list import read_only_class_file
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.datasets.reader import Conventions

_MAX_UNLISTED_SHARE = 0.1
"""Outlines that nobody labelled cover 5 to 6% (VOC); an object is often larger."""

_CLASS_FILES = (
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
    names = (config.classes_file,) if config.classes_file else _CLASS_FILES
    present = [root / name for name in names if (root / name).exists()]
    path = (present or [root / names[0]])[0]
    table = read_only_class_file(present or [path])
    splits: tuple[Split, ...] = ("train", "val", "test")
    layout = {
        split: SplitFiles(
            images=f"images/{split}",
            masks=f"masks/{split}",
            instances=f"instances/{split}" if (root / "instances" / split).is_dir() else None,
        )
        for split in splits
    }
    form = IdMapFormat(
        dataset="folder",
        table=table,
        mask_modes=("L", "P", "I;16", "RGB", "1"),
        instances_modes=("I;16", "L"),
        instance_ids=_instance_ids,
        subfolders="keyed",
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
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)


def _instance_ids(instances: np.ndarray, segmentation_map: np.ndarray) -> np.ndarray:  # noqa: ARG001 (the interface's)
    return instances.astype(np.int64)
