"""COCO instances (Lin et al. 2014): 80 things as polygons or run lengths in a JSON file.

    root/train2017/*.jpg   root/annotations/instances_train2017.json   and the same for val2017

Images may lie in root/images. Smaller instances lie on top of larger ones, pixels of crowds are
ignored, and so is whatever no instance covers: COCO doesn't say what is there. Images without an
instance, or with crowds alone (1,021 of train2017's 118,287), are no part of the task; they are
counted in the notes. Labels of the test split aren't public: `dataset.splits: val_as_test`.
"""

import reprlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from seggen_core.config import DatasetConfig, Split
from seggen_core.datasets.coco_index import CocoImage, CocoIndex
from seggen_core.datasets.coco_reader import CocoReader, coco_layout
from seggen_core.datasets.decode import IMAGE_MODES, open_picture
from seggen_core.datasets.ids import number_instances
from seggen_core.datasets.rasterize import (
    RunLengths,
    area,
    boundary,
    decode_runs,
    encode_segmentation,
)
from seggen_core.datasets.sample import CHECK, RawSample, check_labelled
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

_MAX_BOUNDARY = 1 << 24
"""Longest boundary of all polygons of an image, in pixels: two seconds of drawing."""


class _Instance(NamedTuple):
    """One instance of an image, ready to be painted."""

    instance_id: int
    train_id: int
    runs: RunLengths


class CocoInstanceReader(CocoReader):
    """Instances are drawn with their sample."""

    dataset = "coco_instance"

    def _task_keys(self, index: CocoIndex) -> list[str]:
        """Return the images with an instance.

        An image that the file doesn't list at all is among them, to be reported when it is read.
        """
        keys = [k for k in index.keys if k not in index.entries or index.has_instance(k)]
        num_empty = len(index.keys) - len(keys)
        if num_empty:
            self._notes.append(
                f"{num_empty} images of {index.path.name} have no instance, or a crowd alone, and "
                "are no part of the task"
            )
        if not keys:
            raise DatasetError(
                f"{index.path} has an instance in none of its {num_empty} images; expected "
                "annotations whose image_id is the id of an image"
            )
        return keys

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one image and draw its instances; metadata names the file and COCO's ids."""
        index = self._indexes[split]
        path, entry = index.image(key, root=self._root)
        with open_picture(path, modes=IMAGE_MODES) as picture:
            _check_size(picture, path=path, entry=entry, listed_in=index.path)
            picture.load()
        # Polygons are drawn on the image as stored; COCO's images have no EXIF orientation.
        image = np.asarray(picture.convert("RGB"))
        height, width = image.shape[:2]
        instances = self._instances(index, entry, height=height, width=width)

        # Painted over one another, largest first; what is left, crowds among it, stays ignored.
        instances.sort(key=lambda i: (-area(i.runs), i.instance_id))
        segmentation_map = np.full((height, width), IGNORE_INDEX, np.uint8)
        instance_ids = np.zeros((height, width), np.int64)
        for instance in instances:
            mask = decode_runs(instance.runs)
            segmentation_map[mask] = instance.train_id
            instance_ids[mask] = instance.instance_id
        check_labelled(segmentation_map, where=f"{index.path}, image {entry.image_id} ({path})")
        instance_map, numbered_ids = number_instances(instance_ids, path=index.path)
        metadata = self._metadata(path, image_id=entry.image_id, instance_ids=numbered_ids)
        return RawSample(image, segmentation_map, instance_map, metadata)

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's annotations and the header of its image; return (width, height)."""
        index = self._indexes[split]
        path, entry = index.image(key, root=self._root)
        with open_picture(path, modes=IMAGE_MODES, header_only=True) as picture:
            _check_size(picture, path=path, entry=entry, listed_in=index.path)
            width, height = picture.size
        self._annotations(index, entry)
        return width, height

    def _instances(
        self, index: CocoIndex, entry: CocoImage, *, height: int, width: int
    ) -> list[_Instance]:
        """Encode the masks of one image, those of crowds only to check them."""
        instances = []
        remaining = float(_MAX_BOUNDARY)
        for annotation in self._annotations(index, entry):
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
                where = f"{index.path}, annotation {annotation['id']} of image {entry.image_id}"
                raise DatasetError(f"{where} ({entry.file_name}): {error} {CHECK}") from None
            if not annotation.get("iscrowd", 0):
                train_id = self._table.train_ids[annotation["category_id"]]
                instances.append(_Instance(annotation["id"], train_id, runs))
        return instances

    def _annotations(self, index: CocoIndex, entry: CocoImage) -> list[dict[str, Any]]:
        """Return the annotations of one image, checked but for their masks."""
        annotations = list(index.annotations(entry.image_id))
        for annotation in annotations:
            missing = {"id", "category_id", "segmentation"} - annotation.keys()
            annotation_id = reprlib.repr(annotation.get("id"))
            where = f"{index.path}, annotation {annotation_id} of image {entry.image_id}"
            if missing:
                raise DatasetError(
                    f"{where} lacks {', '.join(sorted(missing))}; expected COCO's instances {CHECK}"
                )
            category = annotation["category_id"]
            if not isinstance(category, int) or category not in self._table.train_ids:
                allowed = self._table.allowed(self.dataset)
                raise DatasetError(
                    f"{where} has category_id {reprlib.repr(category)}; {allowed} {CHECK}"
                )
            if not isinstance(annotation["id"], int) or not 0 < annotation["id"] < 1 << 63:
                raise DatasetError(
                    f"{where}: expected ids to be whole numbers from 1 to 2^63 - 1 {CHECK}"
                )
        return annotations


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> CocoInstanceReader:
    """Index the splits; DatasetError where a file or folder is missing."""
    layout = coco_layout(root, annotations="annotations/instances_{split}2017.json")
    return CocoInstanceReader(config, layout=layout, root=root, seed=seed)


def _check_size(picture: Image.Image, *, path: Path, entry: CocoImage, listed_in: Path) -> None:
    """Polygons are in pixels of the image that the file speaks of."""
    width, height = picture.size
    if entry.width and entry.height and (width, height) != (entry.width, entry.height):
        raise DatasetError(
            f"{path} is {width}x{height} but {listed_in} says {entry.width}x{entry.height}; "
            f"expected the same size {CHECK}"
        )
