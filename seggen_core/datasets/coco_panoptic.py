"""COCO panoptic (Kirillov et al. 2019): 80 things and 53 stuff classes.

    root/train2017/*.jpg   root/annotations/panoptic_train2017.json
    root/annotations/panoptic_train2017/*.png   and the same for val2017

`categories` of the JSON files are the classes: COCO's or the user's own. The JSON file describes
the segments, PNG maps show them. Images may lie in root/images. A map's
segment id is R + 256 G + 65536 B; 0 belongs to no class. Crowds of things keep their class and are
no instances. Labels of the test split aren't public: `dataset.splits: val_as_test`.
"""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from seggen_core.config import DatasetConfig, Split
from seggen_core.datasets.class_table import ClassTable
from seggen_core.datasets.coco_categories import group_hint
from seggen_core.datasets.coco_index import CocoImage, CocoIndex, find_named, is_crowd, whole_id
from seggen_core.datasets.coco_reader import CocoReader, check_listed_size, coco_layout
from seggen_core.datasets.decode import SampleFiles, read_files, read_headers
from seggen_core.datasets.files import MASK_SUFFIXES, brief, list_files, normal, posix
from seggen_core.datasets.ids import number_instances, sorted_unique
from seggen_core.datasets.sample import CHECK, RawSample, check_labelled
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

_MAX_SEGMENT_ID = (1 << 24) - 1
_MAX_SEGMENTS = (1 << 16) - 1
"""Most segments of an image: instance maps number them in 16 bits."""


@dataclass(frozen=True)
class _Segments:
    """segments_info of one image, sorted by id.

    Attributes:
        ids: int64 [S].
        train_ids: uint8 [S].
        is_instance: bool [S], whether the segment is a single thing.
    """

    ids: np.ndarray
    train_ids: np.ndarray
    is_instance: np.ndarray


@dataclass(frozen=True)
class _Located:
    """Where one sample is: its image's entry, its files, and its segments."""

    entry: CocoImage
    files: SampleFiles
    segments: _Segments
    where: str


class CocoPanopticReader(CocoReader):
    """Segments are looked up in the sample's annotation."""

    dataset = "coco_panoptic"
    assumed_thing = None
    unlisted = (
        "They hold segment id 0, which belongs to no class in COCO. If it is background, describe "
        "it as a segment; if it is what nobody labelled, set dataset.max_unlisted_share to allow "
        "it."
    )

    def __init__(self, config: DatasetConfig, *, root: Path, seed: int) -> None:
        """Index the annotation files; DatasetError where one or a folder is missing."""
        layout = coco_layout(
            root,
            masks="annotations/panoptic_{split}2017",
            annotations="annotations/panoptic_{split}2017.json",
        )
        super().__init__(config, layout=layout, root=root, seed=seed)
        self._masks = {
            split: list_files(root / str(files.masks), kind="mask", suffixes=MASK_SUFFIXES)
            for split, files in self._files.items()
        }

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one image and its map; metadata names the file and COCO's ids."""
        sample = self._locate(split, key)
        segments, map_path = sample.segments, sample.files.mask
        decoded = read_files(sample.files)
        self._check_size(sample, split=split, size=decoded.mask_size)
        # One row of the table for each segment of the map.
        ids = decoded.ids[..., 0].astype(np.int32)
        ids += decoded.ids[..., 1].astype(np.int32) << 8
        ids += decoded.ids[..., 2].astype(np.int32) << 16
        known_ids = np.concatenate([[0], segments.ids]).astype(np.int32)
        rows = np.searchsorted(known_ids, ids).clip(max=len(known_ids) - 1)
        foreign = sorted_unique(ids[known_ids[rows] != ids])
        if foreign.size:
            raise DatasetError(
                f"{map_path} has segment id {', '.join(map(str, foreign[:5]))}; expected the ids "
                f"in segments_info of {sample.where} {CHECK}"
            )
        _check_segments_shown(rows, sample, is_whole=ids.shape[::-1] == decoded.mask_size)
        segmentation_map = np.concatenate([[np.uint8(IGNORE_INDEX)], segments.train_ids])[rows]
        check_labelled(segmentation_map, where=str(map_path))
        is_instance = np.concatenate([[False], segments.is_instance])[rows]
        instance_map, instance_ids = number_instances(np.where(is_instance, ids, 0), path=map_path)
        unlisted_share = float((ids == 0).mean())
        metadata = self._metadata(
            sample.files.image, image_id=sample.entry.image_id, instance_ids=instance_ids
        )
        return RawSample(
            decoded.image, segmentation_map, instance_map, metadata, unlisted_share=unlisted_share
        )

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's segments and the headers of its files, and return (width, height)."""
        sample = self._locate(split, key)
        size = read_headers(sample.files)
        self._check_size(sample, split=split, size=size)
        return size

    def _check_size(self, sample: _Located, *, split: Split, size: tuple[int, int]) -> None:
        """Compare the size of a map with the one that JSON says; a turned image has it turned."""
        listed_in = self._indexes[split].path
        check_listed_size(size, path=sample.files.mask, entry=sample.entry, listed_in=listed_in)

    def _locate(self, split: Split, key: str) -> _Located:
        """Find the files of a sample and read its segments."""
        index = self._indexes[split]
        image, entry = index.image(key, root=self._root)
        where = f"{index.path}, image {entry.image_id}"
        annotations = list(index.annotations(entry.image_id))
        if len(annotations) != 1:
            raise DatasetError(
                f"{index.path} has {len(annotations)} annotations of image {entry.image_id} "
                f"({key}); expected one {CHECK}"
            )
        mask = self._mask(
            split, posix(str(annotations[0].get("file_name", f"{key}.png"))), image=image
        )
        segments = _read_segments(annotations[0], table=self._table, index=index, where=where)
        return _Located(entry, SampleFiles(image, mask, None, ("RGB",)), segments, where)

    def _mask(self, split: Split, file_name: str, *, image: Path) -> Path:
        return find_named(
            self._masks[split],
            file_name,
            key=normal(PurePosixPath(file_name).stem),
            root=self._root,
            listed_in=self._indexes[split].path,
            counterpart=image,
        )


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> CocoPanopticReader:
    """Index the splits; DatasetError where a file or folder is missing."""
    return CocoPanopticReader(config, root=root, seed=seed)


def _check_segments_shown(rows: np.ndarray, sample: _Located, *, is_whole: bool) -> None:
    """Raise DatasetError where the map doesn't show half of the segments that JSON describes.

    Args:
        rows: integers [H, W], the segment of each pixel, from 1; 0 is none.
        sample: where it is.
        is_whole: the map is as in its file. In a smaller one, small segments may have no pixel.
    """
    counts = np.bincount(rows.ravel(), minlength=len(sample.segments.ids) + 1)[1:]
    absent = sample.segments.ids[counts == 0].tolist()
    if is_whole and 2 * len(absent) >= len(counts) > 0:
        raise DatasetError(
            f"{sample.where} describes {len(counts)} segments, of which {len(absent)} "
            f"({brief(', '.join(map(str, absent)))}) have no pixel in {sample.files.mask}; "
            f"expected those that the map shows: the two are of different images {CHECK}"
        )


def _read_segments(
    annotation: dict[str, Any], *, table: ClassTable, index: CocoIndex, where: str
) -> _Segments:
    """Check segments_info of one annotation."""
    rows: dict[int, tuple[int, bool]] = {}
    train_ids, allowed = table.train_ids, table.allowed("coco_panoptic")
    try:
        if len(annotation["segments_info"]) > _MAX_SEGMENTS:
            raise DatasetError(
                f"{where} has {len(annotation['segments_info'])} segments; expected at most "
                f"{_MAX_SEGMENTS} {CHECK}"
            )
        for segment in annotation["segments_info"]:
            segment_id, category = whole_id(segment["id"]), whole_id(segment["category_id"])
            if category not in train_ids:
                raise DatasetError(
                    f"{where}: segment {segment_id} has category_id {category}; {allowed}"
                    f"{group_hint(index, category)} {CHECK}"
                )
            if segment_id in rows or not 0 < segment_id <= _MAX_SEGMENT_ID:
                raise DatasetError(
                    f"{where}: segment id {segment_id} is taken twice or out of "
                    f"1-{_MAX_SEGMENT_ID} {CHECK}"
                )
            train_id = train_ids[category]
            is_thing = train_id != IGNORE_INDEX and table.taxonomy[train_id].is_thing
            rows[segment_id] = (train_id, is_thing and not is_crowd(segment))
    except DatasetError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{where}: {error!r}; expected segments_info of {{id, category_id, iscrowd}} {CHECK}"
        ) from None
    ids = sorted(rows)
    return _Segments(
        np.array(ids, np.int64),
        np.array([rows[i][0] for i in ids], np.uint8),
        np.array([rows[i][1] for i in ids], bool),
    )
