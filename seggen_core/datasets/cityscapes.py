"""Cityscapes (Cordts et al. 2016), 19 classes for training and evaluation.

    root/leftImg8bit/train/<city>/*_leftImg8bit.png root/gtFine/train/<city>/*_gtFine_labelIds.png
    and *_gtFine_instanceIds.png   and the same for val

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
from seggen_core.taxonomy import Taxonomy

_FIRST_INSTANCE = 1000


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """List the splits; DatasetError where a folder is missing."""
    table = load_class_table("cityscapes")
    splits: tuple[Split, ...] = ("train", "val", "test")
    layout = {
        s: SplitFiles(images=f"leftImg8bit/{s}", masks=f"gtFine/{s}", instances=f"gtFine/{s}")
        for s in splits
    }
    form = IdMapFormat(
        dataset="cityscapes",
        table=table,
        instances_modes=("I;16",),
        instance_ids=partial(_instance_ids, taxonomy=table.taxonomy),
        metadata=_city,
        runs=_drives,
        image_ending="_leftImg8bit",
        mask_ending="_gtFine_labelIds",
        instances_ending="_gtFine_instanceIds",
        subfolders="flat",
    )
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)


def _instance_ids(
    instances: np.ndarray, segmentation_map: np.ndarray, *, taxonomy: Taxonomy
) -> np.ndarray:
    instance_ids = np.where(instances >= _FIRST_INSTANCE, instances, 0).astype(np.int64)
    return things_only(instance_ids, segmentation_map=segmentation_map, taxonomy=taxonomy)


def _city(key: str) -> dict[str, str]:
    return {"city": key.partition("_")[0]}


def _drives(keys: Sequence[str]) -> list[list[str]]:
    return [list(run) for _, run in groupby(keys, key=lambda key: key.partition("_")[0])]
