"""Pascal VOC's folders with classes of the user's own.

CVAT ("Segmentation mask 1.1"), labelme's labelme2voc and `seggen export` write them.

    root/labelmap.txt (or class_names.txt)   root/JPEGImages/*.jpg   root/SegmentationClass/*.png
    root/SegmentationObject/*.png (if it is there)   root/ImageSets/Segmentation/*.txt (likewise)

Masks hold the colours of the class list (CVAT), or indexes of a palette (labelme, VOC). Object maps
hold a colour or an index for each instance, 0 for none; 255 is the border. Lists that are called
train, val and test are the splits; without such lists all samples are train.
"""

from pathlib import Path

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.annotated_files import SPLIT_NAMES, check_has_train, find_class_file
from seggen_core.datasets.class_list import read_class_file
from seggen_core.datasets.files import describe_folder
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.datasets.reader import Conventions
from seggen_core.errors import DatasetError

_CLASS_FILES = ("labelmap.txt", "class_names.txt", "classes.csv", "classes.json")
_BORDER = 255
_BORDER_COLOR = 224 << 16 | 224 << 8 | 192
"""VOC's colour of the border, packed."""

_MAX_UNLISTED_SHARE = 0.1


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """Read the class list and the lists of the splits; DatasetError where one is missing."""
    path = find_class_file(config, root, _CLASS_FILES)
    if path is None:
        raise DatasetError(
            f"{root} has no {', '.join(_CLASS_FILES)}; expected the class list beside JPEGImages: "
            f"set dataset.classes_file ({describe_folder(root)})"
        )
    table = read_class_file(path)
    if not (root / "JPEGImages").is_dir():
        raise DatasetError(
            f"{root / 'JPEGImages'} is missing; expected the images: export from CVAT with 'Save "
            f"images' ({describe_folder(root)})"
        )
    form = IdMapFormat(
        dataset="voc",
        table=table,
        mask_modes=("P", "L", "RGB"),
        instances_modes=("P", "L", "I;16", "RGB"),
        instance_ids=_instance_ids,
        conventions=Conventions(
            max_unlisted_share=_MAX_UNLISTED_SHARE,
            unlisted=(
                f"They hold 255, which {path.name} doesn't list. If nobody labelled them, set "
                "dataset.max_unlisted_share to allow it."
            ),
            has_own_classes=True,
        ),
    )
    return IdMapReader(config, form=form, layout=_layout(config, root), root=root, seed=seed)


def _layout(config: DatasetConfig, root: Path) -> dict[Split, SplitFiles]:
    masks = "SegmentationClass"
    for folder in ("SegmentationClass", "SegmentationClassPNG"):  # labelme2voc writes arrays, too
        if any((root / folder).glob("*.png")):
            masks = folder
            break
    objects = masks.replace("Class", "Object")
    places = SplitFiles(
        images="JPEGImages",
        masks=masks,
        instances=objects if any((root / objects).glob("*.png")) else None,
    )
    lists = "ImageSets/Segmentation"
    files = {path.stem.lower(): path.name for path in sorted((root / lists).glob("*.txt"))}
    present: dict[Split, str | None] = {
        split: next((files[n] for n in names if n in files), None)
        for split, names in SPLIT_NAMES.items()
    }
    if any(present.values()) and present["train"] is None:  # CVAT's name for no subset
        present["train"] = files.get("default")
    check_has_train(config, present, where=root / lists, kind="list")
    layout: dict[Split, SplitFiles] = {"train": places}
    for split, name in present.items():
        if split in config.files:
            layout[split] = places
        if name is not None:
            layout[split] = places.model_copy(update={"keys": f"{lists}/{name}"})
    return layout


def _instance_ids(instances: np.ndarray, segmentation_map: np.ndarray) -> np.ndarray:  # noqa: ARG001 (the interface's)
    if instances.ndim == 3:
        packed = (instances.astype(np.int64) << [16, 8, 0]).sum(-1)
        return np.where(packed == _BORDER_COLOR, 0, packed)
    ids = instances.astype(np.int64)
    return np.where(ids == _BORDER, 0, ids) if instances.dtype == np.uint8 else ids
