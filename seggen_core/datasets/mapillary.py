"""Mapillary Vistas (Neuhold et al. 2017), and other datasets that lie as it does.

Maps of ids have their classes in a config.json:

    root/config.json (or config_v1.2.json, config_v2.0.json) root/training/images/*.jpg
    root/training/labels/*.png   root/training/instances/*.png   and the same for validation

Version 2.0 has its masks one folder further down (training/v2.0/labels). The classes, their colours
and which of them have instances are read from config.json; those with `evaluate: false` are
ignored. Masks have a palette whose indexes are the ids; instance maps hold 256 * id + number in 16
bits. Labels of the test split aren't public: `dataset.splits: val_as_test`.
"""

import reprlib
from functools import partial
from pathlib import Path

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import ClassTable, make_class_table
from seggen_core.datasets.files import brief, read_text
from seggen_core.datasets.id_maps import IdMapFormat, IdMapReader
from seggen_core.datasets.ids import things_only
from seggen_core.datasets.reader import Conventions
from seggen_core.datasets.strict_json import parse_json
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import Taxonomy

_MAX_BYTES = 1 << 22
"""Largest config.json that is read: 4 MiB."""

_CONFIGS = ("config.json", "config_v2.0.json", "config_v1.2.json")


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> IdMapReader:
    """Read the classes and list the splits.

    Raises:
        DatasetError: a folder or the class list is missing.
    """
    names = (config.classes_file,) if config.classes_file else _CONFIGS
    path = next((root / name for name in names if (root / name).exists()), root / names[0])
    table = _read_classes(path)
    folders: dict[Split, str] = {"train": "training", "val": "validation", "test": "testing"}
    layout = {split: _places(root, folder) for split, folder in folders.items()}
    form = IdMapFormat(
        dataset="mapillary",
        table=table,
        mask_modes=("P", "L"),
        instances_modes=("I;16",),
        instance_ids=partial(_instance_ids, taxonomy=table.taxonomy),
        instance_classes=_instance_classes,
        conventions=Conventions(has_own_classes=True),
    )
    return IdMapReader(config, form=form, layout=layout, root=root, seed=seed)


def _places(root: Path, folder: str) -> SplitFiles:
    version = next((f"{v}/" for v in ("v2.0", "v1.2") if (root / folder / v).is_dir()), "")
    instances = f"{folder}/{version}instances"
    return SplitFiles(
        images=f"{folder}/images",
        masks=f"{folder}/{version}labels",
        instances=instances if (root / instances).is_dir() else None,
    )


def _read_classes(path: Path) -> ClassTable:
    """Read `labels` of a config.json: their order gives the ids."""
    expected = "a Mapillary config.json: {labels: [{readable, color, instances, evaluate}, ...]}"
    text = read_text(
        path, expected=f"{expected}: set dataset.classes_file to it", max_bytes=_MAX_BYTES
    )
    try:
        labels = parse_json(text)["labels"]
        rows = [
            {
                "id": i,
                "name": str(label["readable"]).lower(),
                "is_thing": _whole(label["instances"], below=2) == 1,
                "color": [_whole(c, below=256) for c in label["color"]],
                "evaluate": _whole(label.get("evaluate", True), below=2) == 1,
            }
            for i, label in enumerate(labels)
        ]
        ignored = [i for i, row in enumerate(rows) if not row["evaluate"]]
        return make_class_table([row for row in rows if row["evaluate"]], ignored_ids=ignored)
    except ConfigError as error:
        raise DatasetError(f"{path}: {error}") from None
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise DatasetError(
            f"{path} can't be read ({brief(repr(error))}); expected {expected}"
        ) from None


def _whole(value: object, *, below: int) -> int:
    """Return a whole number, or a truth value as 0 or 1; ValueError where it is anything else."""
    if not isinstance(value, int) or not 0 <= value < below:
        raise ValueError(f"{reprlib.repr(value)} is no whole number from 0 to {below - 1}")
    return int(value)


def _instance_classes(instances: np.ndarray) -> np.ndarray:
    return instances.astype(np.int32) >> 8


def _instance_ids(
    instances: np.ndarray, segmentation_map: np.ndarray, *, taxonomy: Taxonomy
) -> np.ndarray:
    return things_only(
        instances.astype(np.int64), segmentation_map=segmentation_map, taxonomy=taxonomy
    )
