"""COCO-Stuff (Caesar et al. 2018): 80 things and 91 stuff classes as one map of ids.

    root/train2017/*.jpg   root/stuffthingmaps/train2017/*.png   and the same for val2017

There are no instances. Images may lie in root/images, masks in root/annotations or
root/stuffthingmaps_trainval2017. Masks hold the category id less one, and 255 for what is
unlabelled. Labels of the test split aren't public: `dataset.splits: val_as_test`.
"""

from pathlib import Path

from seggen_core.config import DatasetConfig
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.coco_reader import coco_layout
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader

_MASKS = ("stuffthingmaps", "stuffthingmaps_trainval2017", "annotations")


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """List the splits; DatasetError where a folder is missing."""
    masks = next((name for name in _MASKS if (root / name).is_dir()), _MASKS[0])
    layout = coco_layout(root, masks=f"{masks}/{{split}}2017")
    form = IdMapFormat(dataset="coco_stuff", table=load_class_table("coco_stuff"))
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)
