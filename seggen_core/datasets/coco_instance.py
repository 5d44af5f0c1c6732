"""COCO instances (Lin et al. 2014): 80 things as polygons or run lengths in a JSON file.

    root/train2017/*.jpg   root/annotations/instances_train2017.json   and the same for val2017

`categories` of the JSON files are the classes: COCO's or the user's own. Images may lie in
root/images. Smaller instances lie on top of larger ones, pixels of crowds are ignored, and so is
whatever no instance covers: COCO doesn't say what is there. Where the user knows that it is
background, `dataset.background` names a class for it.

Images without an instance, or with crowds alone (1,021 of train2017's 118,287), are no part of the
task, unless there is a background; they are counted in the notes. CVAT writes masks drawn with its
brush as crowds: `dataset.crowds: instances`. Labels of the test split aren't public:
`dataset.splits: val_as_test`.
"""

import reprlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import ImageOps

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_list import read_class_list
from seggen_core.datasets.coco_categories import group_hint
from seggen_core.datasets.coco_index import CocoImage, CocoIndex, is_crowd
from seggen_core.datasets.coco_reader import CocoReader, coco_layout, is_turned_as_listed
from seggen_core.datasets.decode import IMAGE_MODES, open_picture, to_rgb
from seggen_core.datasets.ids import number_instances
from seggen_core.datasets.rasterize import (
    RunLengths,
    area,
    boundary,
    check_in_pixels,
    decode_runs,
    encode_segmentation,
)
from seggen_core.datasets.sample import CHECK, RawSample, check_labelled
from seggen_core.datasets.shape_classes import check_background
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass, Taxonomy

_MAX_BOUNDARY = 1 << 24
"""Longest boundary of all polygons of an image, in pixels: two seconds of drawing."""


_MAX_INSTANCES = (1 << 16) - 1
"""Most annotations of an image: instance maps number them in 16 bits."""

_MAX_DRAWN = 1 << 34
"""Most pixels drawn for an image, over all its annotations: 256 of 8192 x 8192, ten seconds."""

_BOX_TOLERANCE = 1.0
"""Pixels by which a box may differ from the polygons that it is about."""

_MAX_COORDINATE = 1e9

_MAX_CROWD_SHARE = 0.1
"""More crowds than that are no crowds as COCO has them (10,498 of train2017's 860,001)."""


class _Instance(NamedTuple):
    """One instance of an image, ready to be painted."""

    instance_id: int
    train_id: int
    runs: RunLengths


class CocoInstanceReader(CocoReader):
    """Instances are drawn with their sample."""

    dataset = "coco_instance"
    assumed_thing = True
    max_unlisted_share = 1.0  # what no instance covers is ignored by the dataset's definition
    unlisted = (
        "What no instance covers is ignored, as COCO's definition has it; if it is background, "
        "name a class for it: dataset.background."
    )

    def __init__(
        self, config: DatasetConfig, *, layout: dict[Split, SplitFiles], root: Path, seed: int
    ) -> None:
        """Index the annotation files; DatasetError where one or a folder is missing."""
        super().__init__(config, layout=layout, root=root, seed=seed)
        self._train_ids = self._table.train_ids
        classes = list(self._table.taxonomy)
        if config.background is not None and config.classes_file is not None:
            listed = read_class_list(root / config.classes_file)
            check_background(config.background, rows=listed.rows, source=str(listed.path))
        if config.background is not None:
            classes.append(SegmentationClass(len(classes), config.background, is_thing=False))
        try:
            self._taxonomy = Taxonomy(classes)
        except ConfigError as error:
            raise ConfigError(f"dataset.background is {config.background!r}: {error}") from None

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes that the files list, and the background behind them if there is one."""
        return self._taxonomy

    @property
    def palette(self) -> np.ndarray:
        """The classes' colours, uint8 [num_classes, 3]; the background is black."""
        palette = np.zeros((len(self._taxonomy), 3), np.uint8)
        palette[: len(self._table.taxonomy)] = self._table.palette
        return palette

    def _task_keys(self, index: CocoIndex) -> list[str]:
        """Return the images with an instance.

        An image that the file doesn't list at all is among them, to be reported when it is read.
        """
        if self._config.crowds is None and not self._is_published:
            _check_crowds(index)
        if self._config.background is not None:
            return index.keys
        crowds = self._config.crowds == "instances"
        keys = [
            k for k in index.keys if k not in index.entries or index.has_instance(k, crowds=crowds)
        ]
        num_empty = len(index.keys) - len(keys)
        if num_empty and index.num_foreign:
            raise DatasetError(
                f"{index.path} has {num_empty} images without an instance, and {index.num_foreign} "
                "annotations whose image_id is no image's; expected image_id to be the id of an "
                "entry of 'images': correct the ids, or remove these annotations"
            )
        if num_empty:
            self._notes.append(
                f"{num_empty} images of {index.path.name} have no instance, or a crowd alone, and "
                "are no part of the task"
            )
        if not keys:
            num_crowds = int((index.crowds != 0).sum())
            raise DatasetError(
                f"{index.path} has an instance in none of its {num_empty} images"
                + (f", and {num_crowds} crowds, which are ignored" if num_crowds else "")
                + "; expected annotations whose image_id is the id of an image"
                + (": set dataset.crowds to instances to read crowds" if num_crowds else "")
            )
        return keys

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one image and draw its instances; metadata names the file and COCO's ids."""
        index = self._indexes[split]
        path, entry = index.image(key, root=self._root)
        with open_picture(path, modes=IMAGE_MODES) as picture:
            turned = is_turned_as_listed(picture, path=path, entry=entry, listed_in=index.path)
            picture.load()
        upright = ImageOps.exif_transpose(picture) if turned else picture
        image = np.asarray(to_rgb(upright, path=path))
        height, width = image.shape[:2]
        instances = self._instances(index, entry, height=height, width=width)

        # Painted over one another: ignored ones first, then the largest.
        instances.sort(key=lambda i: (i.train_id != IGNORE_INDEX, -area(i.runs), i.instance_id))
        has_background = len(self._taxonomy) > len(self._table.taxonomy)
        rest = len(self._taxonomy) - 1 if has_background else IGNORE_INDEX
        segmentation_map = np.full((height, width), rest, np.uint8)
        numbers = np.zeros((height, width), np.uint16)
        ids = sorted(i.instance_id for i in instances if self._is_thing(i.train_id))
        number_of = {instance_id: n for n, instance_id in enumerate(ids, start=1)}
        for instance in instances:
            mask = decode_runs(instance.runs)
            segmentation_map[mask] = instance.train_id
            is_thing = self._is_thing(instance.train_id)
            numbers[mask] = number_of[instance.instance_id] if is_thing else 0
        check_labelled(segmentation_map, where=f"{index.path}, image {entry.image_id} ({path})")
        instance_map, visible = number_instances(numbers, path=index.path)
        visible_ids = [ids[position - 1] for position in visible]  # 0 is an id, too
        metadata = self._metadata(path, image_id=entry.image_id, instance_ids=visible_ids)
        return RawSample(image, segmentation_map, instance_map, metadata)

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's annotations and the header of its image; return (width, height)."""
        index = self._indexes[split]
        path, entry = index.image(key, root=self._root)
        with open_picture(path, modes=IMAGE_MODES, header_only=True) as picture:
            turned = is_turned_as_listed(picture, path=path, entry=entry, listed_in=index.path)
            width, height = picture.size
        self._annotations(index, entry)
        return (height, width) if turned else (width, height)

    def _instances(
        self, index: CocoIndex, entry: CocoImage, *, height: int, width: int
    ) -> list[_Instance]:
        """Encode the masks of one image; those of crowds and ignored classes are IGNORE_INDEX."""
        instances = []
        remaining = float(_MAX_BOUNDARY)
        annotations = self._annotations(index, entry)
        where = f"{index.path}, image {entry.image_id} ({entry.file_name})"
        if len(annotations) * height * width > _MAX_DRAWN:
            raise DatasetError(
                f"{where} has {len(annotations)} annotations of {width}x{height} pixels; expected "
                f"at most {_MAX_DRAWN // (height * width)} of that size {CHECK}"
            )
        for annotation in annotations:
            segmentation = annotation["segmentation"]
            try:
                runs = encode_segmentation(segmentation, height=height, width=width)
                remaining -= boundary(segmentation)
                if remaining < 0:
                    raise DatasetError(
                        f"the polygons up to this one have a boundary of more than {_MAX_BOUNDARY} "
                        "pixels; expected fewer or shorter ones"
                    )
            except DatasetError as error:
                what = f"{index.path}, annotation {annotation['id']} of image {entry.image_id}"
                raise DatasetError(f"{what} ({entry.file_name}): {error} {CHECK}") from None
            train_id = self._train_ids[annotation["category_id"]]
            if is_crowd(annotation) and self._config.crowds != "instances":
                train_id = IGNORE_INDEX
            instances.append(_Instance(annotation["id"], train_id, runs))
        try:
            segmentations = [annotation["segmentation"] for annotation in annotations]
            check_in_pixels(segmentations, height=height, width=width)
            _check_order(annotations)
        except DatasetError as error:
            raise DatasetError(f"{where}: {error} {CHECK}") from None
        return instances

    def _is_thing(self, train_id: int) -> bool:
        return train_id != IGNORE_INDEX and self._taxonomy[train_id].is_thing

    def _annotations(self, index: CocoIndex, entry: CocoImage) -> list[dict[str, Any]]:
        """Return the annotations of one image, checked but for their masks."""
        annotations = list(index.annotations(entry.image_id))
        if len(annotations) > _MAX_INSTANCES:
            raise DatasetError(
                f"{index.path}, image {entry.image_id} has {len(annotations)} annotations; "
                f"expected at most {_MAX_INSTANCES} {CHECK}"
            )
        seen: set[int] = set()
        for annotation in annotations:
            missing = {"id", "category_id", "segmentation"} - annotation.keys()
            annotation_id = reprlib.repr(annotation.get("id"))
            where = f"{index.path}, annotation {annotation_id} of image {entry.image_id}"
            if missing:
                raise DatasetError(
                    f"{where} lacks {', '.join(sorted(missing))}; expected COCO's instances {CHECK}"
                )
            category = annotation["category_id"]
            if not isinstance(category, int) or category not in self._train_ids:
                allowed = self._table.allowed(self.dataset)
                raise DatasetError(
                    f"{where} has category_id {reprlib.repr(category)}; {allowed}"
                    f"{group_hint(index, category)} {CHECK}"
                )
            if not isinstance(annotation["id"], int) or not 0 <= annotation["id"] < 1 << 63:
                raise DatasetError(
                    f"{where}: expected ids to be whole numbers from 0 to 2^63 - 1 {CHECK}"
                )
            if annotation["id"] in seen:
                raise DatasetError(f"{where}: its id is taken twice; expected one an instance")
            seen.add(annotation["id"])
        return annotations


def _check_order(annotations: Sequence[Mapping[str, Any]]) -> None:
    """Raise DatasetError where the boxes of an image fit its polygons with x and y exchanged alone.

    Boxes that fit in neither way say nothing: many tools write others.
    """
    as_written = exchanged = 0
    for annotation in annotations:
        polygons, stated = annotation["segmentation"], annotation.get("bbox")
        if not isinstance(polygons, list) or not _is_box(stated):
            continue
        values = np.array([v for polygon in polygons for v in polygon], np.float64)
        x, y = values[::2], values[1::2]
        extent = np.array([x.min(), y.min(), np.ptp(x), np.ptp(y)])
        fits = np.abs(extent - stated).max() <= _BOX_TOLERANCE
        fits_exchanged = np.abs(extent[[1, 0, 3, 2]] - stated).max() <= _BOX_TOLERANCE
        as_written += fits and not fits_exchanged
        exchanged += fits_exchanged and not fits
    if exchanged and not as_written:
        raise DatasetError(
            f"{exchanged} of its annotations have a bbox that fits their polygons only where x and "
            "y are exchanged; expected polygons as [x, y, x, y, ...]: exchange the coordinates"
        )


def _is_box(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 4
        and all(isinstance(v, int | float) and abs(v) < _MAX_COORDINATE for v in value)
    )


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> CocoInstanceReader:
    """Index the splits; DatasetError where a file or folder is missing."""
    layout = coco_layout(root, annotations="annotations/instances_{split}2017.json")
    return CocoInstanceReader(config, layout=layout, root=root, seed=seed)


def _check_crowds(index: CocoIndex) -> None:
    """Raise DatasetError where so many annotations are crowds that they may mean instances."""
    num_crowds, num_annotations = int((index.crowds != 0).sum()), len(index.crowds)
    if num_crowds > _MAX_CROWD_SHARE * num_annotations:
        raise DatasetError(
            f"{index.path} has iscrowd set in {num_crowds} of {num_annotations} annotations; "
            f"expected at most {_MAX_CROWD_SHARE:.0%}, since crowds are ignored (COCO has 1.2%). "
            "CVAT writes masks drawn with its brush so: set dataset.crowds to instances to read "
            "them, or to ignore"
        )
