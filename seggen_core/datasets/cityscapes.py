"""Cityscapes (Cordts et al. 2016), 19 classes for training and evaluation.

    root/leftImg8bit/train/<city>/*_leftImg8bit.png root/gtFine/train/<city>/*_gtFine_labelIds.png
    and *_gtFine_instanceIds.png   and the same for val

gtCoarse is read where there is no gtFine, or where `dataset.files` names it. instanceIds may be
left out.

labelIds become train ids as cityscapesScripts maps them. instanceIds hold 1000 * labelId + number
for single objects and the bare labelId for groups that nobody could take apart, which are no
instances. Labels of the test split aren't public: `dataset.splits: val_as_test`; validation samples
are then whole stretches of a city's drive.
"""

from collections.abc import Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.datasets.ids import things_only
from seggen_core.datasets.reader import PUBLISHED, SPLITS, Conventions
from seggen_core.errors import ConfigError
from seggen_core.taxonomy import Taxonomy

_FIRST_INSTANCE = 1000
_FINE, _COARSE = "gtFine", "gtCoarse"
_COARSE_CONVENTIONS = Conventions(max_unlisted_share=0.7)
"""Coarse polygons leave out what lies between them."""


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """List the splits; DatasetError where a folder is missing."""
    table = load_class_table("cityscapes")
    layout: dict[Split, SplitFiles] = {}
    for split in SPLITS:
        kind = (
            "gtFine" if (root / "gtFine").is_dir() or not (root / "gtCoarse").is_dir() else _COARSE
        )
        masks = config.files.get(split, SplitFiles()).masks or f"{kind}/{split}"
        kind = _COARSE if _COARSE in masks else "gtFine"
        mask_ending = config.files.get(split, SplitFiles()).mask_ending or ""
        if "trainid" in mask_ending.lower():
            raise ConfigError(
                f"dataset.files.{split}.mask_ending is {mask_ending!r}, whose masks hold train "
                "ids; expected those that hold label ids: labelIds"
            )
        ending = f"_{kind}_instanceIds"
        has_instances = next((root / masks).rglob(f"*{ending}.png"), None) is not None
        layout[split] = SplitFiles(
            images=f"leftImg8bit/{split}",
            masks=masks,
            instances=masks if has_instances else None,
            mask_ending=f"_{kind}_labelIds",
            instances_ending=ending,
        )
    is_coarse = any(_COARSE in str(files.masks) for files in layout.values())
    form = IdMapFormat(
        dataset="cityscapes",
        table=table,
        instances_modes=("I;16",),
        instance_ids=partial(_instance_ids, taxonomy=table.taxonomy),
        instance_classes=_instance_classes,
        metadata=_city,
        runs=_drives,
        image_ending="_leftImg8bit",
        conventions=_COARSE_CONVENTIONS if is_coarse else PUBLISHED,
        subfolders="flat",
    )
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)


def _instance_ids(
    instances: np.ndarray, segmentation_map: np.ndarray, *, taxonomy: Taxonomy
) -> np.ndarray:
    instance_ids = np.where(instances >= _FIRST_INSTANCE, instances, 0).astype(np.int64)
    return things_only(instance_ids, segmentation_map=segmentation_map, taxonomy=taxonomy)


def _instance_classes(instances: np.ndarray) -> np.ndarray:
    ids = instances.astype(np.int32)
    return np.where(ids >= _FIRST_INSTANCE, ids // _FIRST_INSTANCE, -1)


def _city(key: str) -> dict[str, str]:
    return {"city": key.partition("_")[0]}


def _drives(keys: Sequence[str]) -> list[list[str]]:
    return [list(run) for _, run in groupby(keys, key=lambda key: key.partition("_")[0])]
