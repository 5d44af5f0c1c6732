"""PASCAL VOC 2012 (Everingham et al. 2010).

`dataset.use_sbd` trains on the SBD masks of Hariharan et al. 2011.

    root/JPEGImages/*.jpg   root/SegmentationClass/*.png   root/SegmentationObject/*.png
    root/ImageSets/Segmentation/*.txt root/SegmentationClassAug/*.png   and trainaug.txt beside the
    other lists, or in ImageSets/SegmentationAug, for `use_sbd`

`root` is VOCdevkit/VOC2012, or a folder that holds it. Masks have a colour palette; their ids are
its indexes: 0 for the background, 1-20, and 255 for the border around objects. SBD's masks have no
instances. Labels of the test split aren't public: `dataset.splits: val_as_test`.
"""

from pathlib import Path

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.errors import DatasetError

_BORDER = 255


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """Read the lists of the splits; DatasetError where one or a folder is missing."""
    below = next(
        (b for b in ("", "VOC2012/", "VOCdevkit/VOC2012/") if (root / b / "JPEGImages").is_dir()),
        "",
    )
    splits: tuple[Split, ...] = ("train", "val", "test")
    layout = {
        split: SplitFiles(
            images=f"{below}JPEGImages",
            masks=f"{below}SegmentationClass",
            instances=f"{below}SegmentationObject",
            keys=f"{below}ImageSets/Segmentation/{split}.txt",
        )
        for split in splits
    }
    if config.use_sbd:
        lists = (
            f"{below}ImageSets/Segmentation/trainaug.txt",
            f"{below}ImageSets/SegmentationAug/trainaug.txt",
        )
        key_list = next((name for name in lists if (root / name).exists()), lists[0])
        if not (root / below / "SegmentationClassAug").is_dir():
            raise DatasetError(
                f"{root / below / 'SegmentationClassAug'} is missing; expected the masks of SBD as "
                "PNG files (10,582 images to train on): add them, or train on VOC's own 1,464 "
                "images alone: dataset.use_sbd=false"
            )
        layout["train"] = SplitFiles(
            images=f"{below}JPEGImages", masks=f"{below}SegmentationClassAug", keys=key_list
        )
    form = IdMapFormat(
        dataset="voc2012",
        table=load_class_table("voc2012"),
        mask_modes=("P", "L"),
        instances_modes=("P", "L"),
        instance_ids=_instance_ids,
    )
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)


def _instance_ids(instances: np.ndarray, segmentation_map: np.ndarray) -> np.ndarray:  # noqa: ARG001 (the interface's)
    return np.where(instances == _BORDER, 0, instances).astype(np.int64)
