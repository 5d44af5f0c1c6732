"""COCO instances (Lin et al. 2014): 80 things as polygons or run lengths in a JSON file.

    root/train2017/*.jpg   root/annotations/instances_train2017.json   and the same for val2017

Images may lie in root/images. Smaller instances lie on top of larger ones, pixels of crowds are
ignored, and so is whatever no instance covers: COCO doesn't say what is there. Images without an
instance, or with crowds alone (1,021 of train2017's 118,287), are no part of the task; they are
counted in the notes. Labels of the test split aren't public: `dataset.splits: val_as_test`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.class_table import load_class_table
from seggen_core.datasets.coco_index import CocoImage, CocoIndex, index_coco
from seggen_core.datasets.decode import CHECK, IMAGE_MODES, open_picture
from seggen_core.datasets.id_maps import number_instances, places
from seggen_core.datasets.rasterize import draw_segmentation
from seggen_core.datasets.reader import RawSample, check_labelled
from seggen_core.datasets.splits import plan_splits, published_splits
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy


class CocoInstanceReader:
    """One JSON file a split, read once for its places; instances are parsed and drawn with their sample."""

    def __init__(self, config: DatasetConfig, *, root: Path, seed: int) -> None:
        """Index the annotation files; DatasetError where one or a folder is missing."""
        self._root, self._table = root, load_class_table("coco_instance")
        self._notes: list[str] = []
        layout = _layout(root)
        indexes: dict[Split, CocoIndex] = {}
        keys: dict[Split, list[str]] = {}
        for split in published_splits(config):
            where = places(config, split=split, layout=layout)
            assert where.images is not None
            assert where.annotations is not None
            index = indexes[split] = index_coco(
                root / where.annotations, image_folder=root / where.images
            )
            # What the file doesn't list at all is kept, to be reported when it is read.
            keys[split] = [k for k in index.keys if k not in index.entries or index.has_instance(k)]
            empty = len(index.keys) - len(keys[split])
            if empty:
                self._notes.append(
                    f"{empty} images of {index.path.name} have no instance, or a crowd alone, and are no part of the task"
                )
        chosen = plan_splits(keys, config=config, seed=seed, dataset="coco_instance")
        self._keys = {split: listed for split, (_, listed) in chosen.items()}
        self._indexes = {split: indexes[source] for split, (source, _) in chosen.items()}

    @property
    def taxonomy(self) -> Taxonomy:
        """The 80 things."""
        return self._table.taxonomy

    @property
    def palette(self) -> np.ndarray:
        """COCO's colours, uint8 [80, 3]."""
        return self._table.palette

    @property
    def notes(self) -> list[str]:
        """How many images have no instance."""
        return list(self._notes)

    def keys(self, split: Split) -> list[str]:
        """Return the stems of the images, sorted."""
        return list(self._keys[split])

    def read(self, split: Split, key: str) -> RawSample:
        """Decode one image and draw its instances; metadata names the file and COCO's ids."""
        index = self._indexes[split]
        path, entry = index.image(key, root=self._root)
        image_id = entry.image_id
        with open_picture(path, modes=IMAGE_MODES) as picture:
            _check_size(path, size=picture.size, entry=entry, listed_in=index.path)
            picture.load()
        # Polygons are drawn on the image as stored; COCO's images have no EXIF orientation.
        image = np.asarray(picture.convert("RGB"))
        height, width = image.shape[:2]

        # 1. Masks, largest first.
        drawn = []
        for annotation in self._annotations(index, image_id):
            where = f"{index.path}, annotation {annotation['id']} of {key}"
            try:
                mask = draw_segmentation(annotation["segmentation"], height=height, width=width)
            except DatasetError as error:
                raise DatasetError(f"{where}: {error} {CHECK}") from None
            drawn.append((int(mask.sum()), int(annotation["id"]), mask, annotation))
        drawn.sort(key=lambda entry: (-entry[0], entry[1]))

        # 2. Painted over one another; what is left, crowds among it, stays ignored.
        segmentation_map = np.full((height, width), IGNORE_INDEX, np.uint8)
        found = np.zeros((height, width), np.int64)
        for _, annotation_id, mask, annotation in drawn:
            if not annotation.get("iscrowd", 0):
                segmentation_map[mask] = self._table.train_ids[annotation["category_id"]]
                found[mask] = annotation_id
        check_labelled(segmentation_map, where=f"{index.path}, image {image_id} ({path})")
        instance_map, instance_ids = number_instances(found, path=index.path)
        metadata: dict[str, Any] = {
            "file": path.relative_to(self._root).as_posix(),
            "image_id": image_id,
            "instance_ids": instance_ids,
        }
        return RawSample(image, segmentation_map, instance_map, metadata)

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Check one sample's annotations and the header of its image, and return (width, height)."""
        index = self._indexes[split]
        path, entry = index.image(key, root=self._root)
        self._annotations(index, entry.image_id)
        with open_picture(path, modes=IMAGE_MODES) as picture:
            _check_size(path, size=picture.size, entry=entry, listed_in=index.path)
            return picture.size

    def _annotations(self, index: CocoIndex, image_id: int) -> list[dict[str, Any]]:
        """Return the annotations of one image, checked."""
        annotations = list(index.annotations(image_id))
        for annotation in annotations:
            missing = {"id", "category_id", "segmentation"} - annotation.keys()
            where = f"{index.path}, annotation {annotation.get('id')} of image {image_id}"
            if missing:
                raise DatasetError(
                    f"{where} lacks {', '.join(sorted(missing))}; expected COCO's instances {CHECK}"
                )
            if annotation["category_id"] not in self._table.train_ids:
                allowed = self._table.allowed("coco_instance")
                raise DatasetError(
                    f"{where} has category_id {annotation['category_id']}; {allowed}"
                )
            if not isinstance(annotation["id"], int) or annotation["id"] <= 0:
                raise DatasetError(f"{where}: expected ids to be whole numbers above 0 {CHECK}")
        return annotations


def open_reader(config: DatasetConfig, *, root: Path, seed: int) -> CocoInstanceReader:
    """Index the splits; DatasetError where a file or folder is missing."""
    return CocoInstanceReader(config, root=root, seed=seed)


def _check_size(path: Path, *, size: tuple[int, int], entry: CocoImage, listed_in: Path) -> None:
    """Polygons are in pixels of the image that the file speaks of."""
    wanted = (entry.width, entry.height)
    if all(wanted) and size != wanted:
        raise DatasetError(
            f"{path} is {size[0]}x{size[1]} but {listed_in} says {wanted[0]}x{wanted[1]}; expected the same size {CHECK}"
        )


def _layout(root: Path) -> dict[Split, SplitFiles]:
    below = "images/" if (root / "images").is_dir() else ""
    splits: tuple[Split, ...] = ("train", "val", "test")
    return {
        s: SplitFiles(images=f"{below}{s}2017", annotations=f"annotations/instances_{s}2017.json")
        for s in splits
    }
