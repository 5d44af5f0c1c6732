"""COCO-Stuff (Caesar et al. 2018): 80 things and 91 stuff classes as one map of ids, without instances.

    root/train2017/*.jpg   root/stuffthingmaps/train2017/*.png   and the same for val2017

Images may lie in root/images, masks in root/annotations or root/stuffthingmaps_trainval2017. Masks
hold the category id less one, and 255 for what is unlabelled. Labels of the test split aren't
public: `dataset.splits: val_as_test`.
"""

from pathlib import Path

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader

_MASKS = ("stuffthingmaps", "stuffthingmaps_trainval2017", "annotations")


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """List the splits; DatasetError where a folder is missing."""
    images = "images/" if (root / "images").is_dir() else ""
    masks = next((name for name in _MASKS if (root / name).is_dir()), _MASKS[0])
    splits: tuple[Split, ...] = ("train", "val", "test")
    layout = {s: SplitFiles(images=f"{images}{s}2017", masks=f"{masks}/{s}2017") for s in splits}
    form = IdMapFormat(dataset="coco_stuff", table=load_class_table("coco_stuff"))
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)
