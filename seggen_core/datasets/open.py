"""From the section `dataset` of params.yaml to the reader that it names."""

from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from seggen_core.config import DatasetConfig, SegGenConfig
from seggen_core.config.data import ColumnNames
from seggen_core.config.words import WORDS
from seggen_core.datasets import (
    ade20k,
    camvid,
    cityscapes,
    coco_instance,
    coco_panoptic,
    coco_stuff,
    cvat,
    folder,
    huggingface,
    label_studio,
    labelme,
    mapillary,
    voc,
    voc2012,
    words,
    yolo,
)
from seggen_core.datasets.files import describe_folder
from seggen_core.datasets.reader import DatasetReader
from seggen_core.datasets.scenes import ScenesReader
from seggen_core.datasets.subset import subset_faults
from seggen_core.errors import ConfigError, DatasetError


class _Dataset(NamedTuple):
    """A dataset on disk.

    Attributes:
        open_reader: opens it.
        settings: the optional keys of the section that it knows.
        files: the keys of `SplitFiles` that it knows.
    """

    open_reader: Callable[..., DatasetReader]
    settings: frozenset[str]
    files: frozenset[str]


_OPTIONAL = (
    "files",
    "classes_file",
    "use_sbd",
    "background",
    "crowds",
    "class_masks",
    "class_overlaps",
    "boxes",
    "columns",
    "class_list",
)
_NOT_SET: tuple[object, ...] = (None, False, {}, "refuse", ColumnNames(), ())
_FILES = frozenset({"files"})
_SHAPES = _FILES | {"classes_file", "background", "boxes"}
_WORDS = frozenset({"classes_file", "class_list", "background"})

_SHAPE_FILES = frozenset({"images", "annotations", "keys"})
_MASK_FILES = frozenset({"images", "masks", "keys", "image_ending", "mask_ending"})
_MAP_FILES = _MASK_FILES | {"instances", "instances_ending"}
_DATASETS = {
    "ade20k": _Dataset(ade20k.open_reader, _FILES, _MAP_FILES),
    "camvid": _Dataset(camvid.open_reader, _FILES, _MASK_FILES),
    "cityscapes": _Dataset(cityscapes.open_reader, _FILES, _MAP_FILES),
    "coco_instance": _Dataset(
        coco_instance.open_reader,
        _FILES | {"classes_file", "background", "crowds"},
        _SHAPE_FILES,
    ),
    "coco_panoptic": _Dataset(
        coco_panoptic.open_reader, _FILES | {"classes_file"}, _SHAPE_FILES | {"masks"}
    ),
    "coco_stuff": _Dataset(coco_stuff.open_reader, _FILES, _MASK_FILES),
    "cvat": _Dataset(cvat.open_reader, _SHAPES, _SHAPE_FILES),
    "folder": _Dataset(
        folder.open_reader,
        _FILES | {"classes_file", "class_list", "background", "class_masks", "class_overlaps"},
        _MAP_FILES,
    ),
    "huggingface": _Dataset(
        huggingface.open_reader,
        _FILES | {"classes_file", "columns"},
        frozenset({"annotations", "keys"}),
    ),
    "label_studio": _Dataset(label_studio.open_reader, _SHAPES, _SHAPE_FILES),
    "labelme": _Dataset(labelme.open_reader, _SHAPES, _SHAPE_FILES),
    "mapillary": _Dataset(mapillary.open_reader, _FILES | {"classes_file"}, _MAP_FILES),
    "voc": _Dataset(voc.open_reader, _FILES | {"classes_file"}, _MAP_FILES),
    "voc2012": _Dataset(voc2012.open_reader, _FILES | {"use_sbd"}, _MAP_FILES),
    "yolo": _Dataset(yolo.open_reader, _SHAPES, _SHAPE_FILES),
}


def open_dataset(config: DatasetConfig, *, seed: int, base: Path = Path()) -> DatasetReader:
    """Return the reader of `config.name`.

    Args:
        config: which dataset, where, and how many samples.
        seed: decides what is drawn at random: scenes, a validation slice.
        base: folder that a relative `config.root` starts from.

    Raises:
        ConfigError: a setting that the dataset needs is missing, or one that means nothing to it is
            given.
        DatasetError: a folder of the dataset is missing.
    """
    dataset = _DATASETS.get(config.name)
    known = dataset.settings if dataset else frozenset()
    if config.name == WORDS:
        known = _WORDS
    is_set = {name for name in _OPTIONAL if getattr(config, name) not in _NOT_SET}
    for name in sorted(is_set - known):
        raise ConfigError(f"dataset.{name} is set, but means nothing to {config.name}; remove it")
    if dataset is not None:
        _check_places(config, known=dataset.files)
    if config.keep_val_in_train and config.splits == "published":
        raise ConfigError(
            "dataset.keep_val_in_train is set, but with dataset.splits published no validation "
            "sample comes out of train; remove it"
        )
    if config.name == WORDS:
        return words.open_words(config, base=base)
    if dataset is None:
        return ScenesReader(config, seed=seed)
    return dataset.open_reader(config, root=_dataset_root(config, base=base), seed=seed)


def _check_places(config: DatasetConfig, *, known: Collection[str]) -> None:
    """Raise ConfigError where `files` has a key that the reader would not look at."""
    for split, files in config.files.items():
        unknown = sorted(files.model_dump(exclude_none=True).keys() - set(known))
        if unknown:
            raise ConfigError(
                f"dataset.files.{split}.{unknown[0]} is set, but means nothing to {config.name}, "
                f"which knows {', '.join(sorted(known))}; remove it"
            )


def open_project_dataset(config: SegGenConfig, *, base: Path) -> DatasetReader:
    """Return the reader of a project's dataset.

    Raises:
        ConfigError: as `open_dataset`, `config.classes` lists a class that doesn't exist, or a
            subset is larger than the training split.
        DatasetError: as `open_dataset`.
    """
    reader = open_dataset(config.dataset, seed=config.seed, base=base)
    unknown = [slug for slug in config.classes if slug not in reader.taxonomy.slugs]
    if unknown:
        where = f" in {config.dataset.root}" if config.dataset.root else ""
        raise ConfigError(
            f"there is no class {', '.join(map(repr, unknown))}; this taxonomy has: "
            f"{', '.join(reader.taxonomy.slugs)} ('classes' in params.yaml, and dataset "
            f"{config.dataset.name}{where}, have to agree)"
        )
    faults = subset_faults(config, num_train=len(reader.keys("train")))
    if faults:
        raise ConfigError("; ".join(faults))
    return reader


def _dataset_root(config: DatasetConfig, *, base: Path) -> Path:
    """Return the folder of a dataset on disk.

    Raises:
        ConfigError: no folder is named.
        DatasetError: it doesn't exist.
    """
    if config.root is None:
        raise ConfigError(
            f"dataset.root is not set; {config.name} is read from disk: set it to the folder of "
            "the dataset"
        )
    root = base / config.root
    if not root.is_dir():
        raise DatasetError(
            f"{root} is not a folder; expected the {config.name} dataset there: set dataset.root "
            f"to where it is ({describe_folder(root)})"
        )
    return root
