"""ADE20K (Zhou et al. 2017) in the 150-class layout of the SceneParsing benchmark.

    root/images/training/*.jpg   root/annotations/training/*.png   and the same for validation

Masks hold 1-150, and 0 for what is none of the classes (`reduce_zero_label`). Where Mask2Former's
preparation has made root/annotations_instance, its maps give the instances. Labels of the test
split aren't public: `dataset.splits: val_as_test`.
"""

from functools import partial
from pathlib import Path

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.datasets.ids import things_only
from seggen_core.taxonomy import Taxonomy


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """List the splits; DatasetError where a folder is missing."""
    table = load_class_table("ade20k")
    folders: dict[Split, str] = {"train": "training", "val": "validation", "test": "testing"}
    has_instances = (root / "annotations_instance").is_dir()
    layout = {
        split: SplitFiles(
            images=f"images/{name}",
            masks=f"annotations/{name}",
            instances=f"annotations_instance/{name}" if has_instances else None,
        )
        for split, name in folders.items()
    }
    form = IdMapFormat(
        dataset="ade20k",
        table=table,
        instances_modes=("RGB",),
        instance_ids=partial(_instance_ids, taxonomy=table.taxonomy),
    )
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)


def _instance_ids(
    instances: np.ndarray, segmentation_map: np.ndarray, *, taxonomy: Taxonomy
) -> np.ndarray:
    """Read an ade_instance map: red is the category of the 100 things, green the instance."""
    instance_ids = instances[..., 0].astype(np.int64) * 256 + instances[..., 1]
    instance_ids[instances[..., 1] == 0] = 0
    return things_only(instance_ids, segmentation_map=segmentation_map, taxonomy=taxonomy)
