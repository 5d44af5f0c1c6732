"""What the readers of COCO's JSON share."""

from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.coco_index import CocoIndex, index_coco
from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.splits import places, plan_splits, published_splits
from seggen_core.taxonomy import Taxonomy


class CocoReader:
    """One JSON file a split, gone through once for its places.

    Annotations are parsed again with their sample.
    """

    dataset: ClassVar[str]
    """Name of the dataset and of its class table."""

    def __init__(
        self, config: DatasetConfig, *, layout: dict[Split, SplitFiles], root: Path, seed: int
    ) -> None:
        """Index the annotation files; DatasetError where one or a folder is missing."""
        self._root, self._table = root, load_class_table(self.dataset)
        self._notes: list[str] = []
        files = {s: places(config, split=s, layout=layout) for s in published_splits(config)}
        indexes = {split: self._index(where) for split, where in files.items()}
        chosen = plan_splits(
            {split: self._task_keys(index) for split, index in indexes.items()},
            config=config,
            seed=seed,
            dataset=self.dataset,
        )
        self._keys = {split: keys for split, (_, keys) in chosen.items()}
        self._indexes = {split: indexes[source] for split, (source, _) in chosen.items()}
        self._files = {split: files[source] for split, (source, _) in chosen.items()}

    def _index(self, files: SplitFiles) -> CocoIndex:
        assert files.images is not None
        assert files.annotations is not None
        return index_coco(self._root / files.annotations, image_folder=self._root / files.images)

    def _task_keys(self, index: CocoIndex) -> list[str]:
        """Return the images of a file that are part of the task, in order: all of them."""
        return index.keys

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes of the dataset's own table, things first."""
        return self._table.taxonomy

    @property
    def palette(self) -> np.ndarray:
        """COCO's colours, uint8 [num_classes, 3]."""
        return self._table.palette

    @property
    def notes(self) -> list[str]:
        """How many images are no part of the task."""
        return list(self._notes)

    def keys(self, split: Split) -> list[str]:
        """Return the stems of the images, sorted."""
        return list(self._keys[split])

    def _metadata(self, path: Path, *, image_id: int, instance_ids: list[int]) -> dict[str, Any]:
        return {
            "file": path.relative_to(self._root).as_posix(),
            "image_id": image_id,
            "instance_ids": instance_ids,
        }


def coco_layout(root: Path, **patterns: str) -> dict[Split, SplitFiles]:
    """Return where COCO's splits of 2017 are.

    Args:
        root: of the dataset. Images may lie in it or in root/images.
        patterns: the other fields of `SplitFiles`, with "{split}" for the split's name.
    """
    below = "images/" if (root / "images").is_dir() else ""
    patterns["images"] = f"{below}{{split}}2017"
    return {
        split: SplitFiles(**{kind: text.format(split=split) for kind, text in patterns.items()})
        for split in SPLITS
    }
