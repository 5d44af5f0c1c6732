"""COCO panoptic (Kirillov et al. 2019): 80 things and 53 stuff classes, PNG maps of segment ids and a JSON file of segments.

    root/train2017/*.jpg   root/annotations/panoptic_train2017.json
    root/annotations/panoptic_train2017/*.png and the same for val2017

Images may lie in root/images. A map's segment id is R + 256 G + 65536 B; 0 belongs to no class.
Crowds of things keep their class and are no instances. Labels of the test split aren't public:
`dataset.splits: val_as_test`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import ClassTable, load_class_table
from seggen_core.datasets.coco_index import CocoIndex, index_coco
from seggen_core.datasets.decode import CHECK, read_files, read_headers
from seggen_core.datasets.files import inside
from seggen_core.datasets.id_maps import number_instances, places, sorted_unique
from seggen_core.datasets.reader import RawSample, check_labelled
from seggen_core.datasets.splits import plan_splits, published_splits
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy


@dataclass(frozen=True)
class _Segments:
    """segments_info of one image, sorted by id: int64 ids, uint8 train ids, and which are single things."""

    ids: np.ndarray
    train_ids: np.ndarray
    is_instance: np.ndarray


class CocoPanopticReader:
    """One JSON file a split, read once for its places; segments are parsed again with their sample."""

    def __init__(self, config: DatasetConfig, *, root: Path, seed: int) -> None:
        """Index the annotation files; DatasetError where one or a folder is missing."""
        self._root, self._table = root, load_class_table("coco_panoptic")
        layout = _layout(root)
        files = {s: places(config, split=s, layout=layout) for s in published_splits(config)}
        indexes: dict[Split, CocoIndex] = {}
        for split, where in files.items():
            assert where.images is not None
            assert where.annotations is not None
            indexes[split] = index_coco(root / where.annotations, image_folder=root / where.images)
        chosen = plan_splits(
            {s: i.keys for s, i in indexes.items()},
            config=config,
            seed=seed,
            dataset="coco_panoptic",
        )
        self._keys = {split: keys for split, (_, keys) in chosen.items()}
        self._indexes = {split: indexes[source] for split, (source, _) in chosen.items()}
        self._masks = {
            split: root / str(files[source].masks) for split, (source, _) in chosen.items()
        }

    @property
    def taxonomy(self) -> Taxonomy:
        """The 133 classes, things first."""
        return self._table.taxonomy

    @property
    def palette(self) -> np.ndarray:
        """COCO's colours, uint8 [133, 3]."""
        return self._table.palette

    @property
    def notes(self) -> list[str]:
        """Nothing."""
        return []

    def keys(self, split: Split) -> list[str]:
        """Return the stems of the images, sorted."""
        return list(self._keys[split])

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one image and its map; metadata names the file and COCO's ids."""
        image_path, image_id, map_path, annotation = self._find(split, key)
        segments = _read_segments(
            annotation, table=self._table, where=f"{self._indexes[split].path}, image {image_id}"
        )
        decoded = read_files(image_path, mask_path=map_path, mask_modes=("RGB",))
        # One row of the table for each segment of the map.
        ids = decoded.ids.astype(np.int64) @ np.array([1, 256, 65536])
        known = np.concatenate([[0], segments.ids])
        rows = np.searchsorted(known, ids).clip(max=len(known) - 1)
        foreign = sorted_unique(ids[known[rows] != ids])
        if foreign.size:
            raise DatasetError(
                f"{map_path} has segment id {', '.join(map(str, foreign[:5]))}; expected the ids in segments_info of "
                f"{self._indexes[split].path}, image {image_id} {CHECK}"
            )
        segmentation_map = np.concatenate([[np.uint8(IGNORE_INDEX)], segments.train_ids])[rows]
        check_labelled(segmentation_map, where=str(map_path))
        instance_map, instance_ids = number_instances(
            np.where(np.concatenate([[False], segments.is_instance])[rows], ids, 0), path=map_path
        )
        metadata: dict[str, Any] = {
            "file": image_path.relative_to(self._root).as_posix(),
            "image_id": image_id,
            "instance_ids": instance_ids,
        }
        return RawSample(decoded.image, segmentation_map, instance_map, metadata)

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's segments and the headers of its files, and return (width, height)."""
        image_path, image_id, map_path, annotation = self._find(split, key)
        _read_segments(
            annotation, table=self._table, where=f"{self._indexes[split].path}, image {image_id}"
        )
        return read_headers(image_path, mask_path=map_path, mask_modes=("RGB",))

    def _find(self, split: Split, key: str) -> tuple[Path, int, Path, dict[str, Any]]:
        index = self._indexes[split]
        image_path, entry = index.image(key, root=self._root)
        image_id = entry.image_id
        found = list(index.annotations(image_id))
        if len(found) != 1:
            raise DatasetError(
                f"{index.path} has {len(found)} annotations of image {image_id} ({key}); expected one {CHECK}"
            )
        map_path = self._masks[split] / str(found[0].get("file_name", f"{key}.png"))
        if not map_path.is_file():
            raise DatasetError(f"{image_path} has no mask; expected {map_path} {CHECK}")
        return image_path, image_id, inside(map_path, root=self._root), found[0]


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> CocoPanopticReader:
    """Index the splits; DatasetError where a file or folder is missing."""
    return CocoPanopticReader(config, root=root, seed=seed)


def _layout(root: Path) -> dict[Split, SplitFiles]:
    """Return where the published splits are."""
    below = "images/" if (root / "images").is_dir() else ""
    splits: tuple[Split, ...] = ("train", "val", "test")
    return {
        s: SplitFiles(
            images=f"{below}{s}2017",
            masks=f"annotations/panoptic_{s}2017",
            annotations=f"annotations/panoptic_{s}2017.json",
        )
        for s in splits
    }


def _read_segments(annotation: dict[str, Any], *, table: ClassTable, where: str) -> _Segments:
    """Check segments_info of one annotation."""
    rows: dict[int, tuple[int, bool]] = {}
    try:
        for segment in annotation["segments_info"]:
            segment_id, category = int(segment["id"]), int(segment["category_id"])
            if category not in table.train_ids:
                raise DatasetError(
                    f"{where}: segment {segment_id} has category_id {category}; {table.allowed('coco_panoptic')}"
                )
            if segment_id in rows or not 0 < segment_id < 1 << 24:
                raise DatasetError(
                    f"{where}: segment id {segment_id} is taken twice or out of 1-{(1 << 24) - 1} {CHECK}"
                )
            train_id = table.train_ids[category]
            is_thing = table.taxonomy[train_id].is_thing
            rows[segment_id] = (train_id, is_thing and not segment.get("iscrowd", 0))
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(
            f"{where}: {error!r}; expected segments_info of {{id, category_id, iscrowd}} {CHECK}"
        ) from None
    ids = sorted(rows)
    return _Segments(
        np.array(ids, np.int64),
        np.array([rows[i][0] for i in ids], np.uint8),
        np.array([rows[i][1] for i in ids], bool),
    )
