"""COCO instances: a JSON file a split with boxes, areas and masks of things.

    images/<split>/<key>.png
    annotations/instances_<split>.json             masks as run lengths, or as polygons
    annotations/instances_<split>_polygons.json    with `segmentation` "both"

The id of a category is the train id plus 1; classes of stuff are left out. Ignored pixels are in no
annotation. Pixels of a thing class that belong to no instance are an annotation with iscrowd.
Source: https://cocodataset.org/#format-data
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from seggen_core.exports.folder import GrowingJson
from seggen_core.exports.job import ExportJob, Writer
from seggen_core.exports.polygons import mask_to_polygons
from seggen_core.exports.sample import ExportSample
from seggen_core.exports.segments import Segment, SegmentMap
from seggen_core.taxonomy import SegmentationClass


class CocoWriter(Writer):
    """What COCO's formats share: JSON files that grow, and the classes in each of them."""

    _files: Mapping[Any, GrowingJson]

    @property
    def classes(self) -> Sequence[SegmentationClass]:
        """The classes that are categories: all of them."""
        return list(self.job.selection.taxonomy)

    def finish(self) -> list[str]:
        """Write the JSON files."""
        categories = [category(c, self.job) for c in self.classes]
        for file in self._files.values():
            file.finish(head(self.job) | {"categories": categories})
        return []

    def close(self) -> None:
        """Give up the files."""
        for file in self._files.values():
            file.close()


class CocoInstances(CocoWriter):
    """Writes COCO instances."""

    needs_instances = True
    opening = """```python
from pycocotools.coco import COCO

coco = COCO("annotations/instances_{split}.json")  # images are in images/{split}
```"""

    def __init__(self, job: ExportJob, folder: Path) -> None:
        """Begin a JSON file, or two with `segmentation` "both", for each split."""
        super().__init__(job, folder)
        both = job.segmentation == "both"
        self._kinds = {"": "rle", "_polygons": "polygons"} if both else {"": job.segmentation}
        self._files = {
            (split, ending): GrowingJson(
                folder / "annotations" / f"instances_{split}{ending}.json",
                lists=("images", "annotations"),
            )
            for split in job.selection.splits
            for ending in self._kinds
        }
        self._num_images = self._num_annotations = 0

    def add(self, sample: ExportSample) -> None:
        """Write the image and its annotations."""
        self._num_images += 1
        name = self.job.write_image(self.folder / "images" / sample.split, sample)
        image = image_entry(sample, image_id=self._num_images, file_name=name)
        for ending in self._kinds:
            self._files[sample.split, ending].append("images", image)
        segments = self.job.segments(sample)
        for segment in segments.things:
            self._num_annotations += 1
            entry = {
                "id": self._num_annotations,
                "image_id": self._num_images,
                "category_id": segment.train_id + 1,
                "iscrowd": int(segment.is_crowd),
                "area": segment.area,
                "bbox": list(segment.box),
            }
            for ending, kind in self._kinds.items():
                # COCO's crowds are run lengths, whatever the others are.
                as_rle = kind == "rle" or segment.is_crowd
                mask = run_lengths(segments, segment) if as_rle else polygons(segments, segment)
                self._files[sample.split, ending].append(
                    "annotations", entry | {"segmentation": mask}
                )

    @property
    def classes(self) -> Sequence[SegmentationClass]:
        """The classes that are categories: those of things."""
        return self.job.thing_classes


def head(job: ExportJob) -> dict[str, Any]:
    """Return the sections info and licenses of a COCO file."""
    licenses = [
        {"id": license_id, "name": text, "url": ""}
        for license_id, text in enumerate(job.selection.licenses, start=1)
    ]
    return {"info": {"description": job.name, "version": "1.0"}, "licenses": licenses}


def category(c: SegmentationClass, job: ExportJob) -> dict[str, Any]:
    """Return the entry of a class."""
    is_thing = c.train_id in job.things
    return {
        "id": c.train_id + 1,
        "name": c.name,
        "supercategory": "thing" if is_thing else "stuff",
        "isthing": int(is_thing),
        "color": job.selection.colors[c.train_id].tolist(),
    }


def image_entry(sample: ExportSample, *, image_id: int, file_name: str) -> dict[str, Any]:
    """Return the entry of an image."""
    return {
        "id": image_id,
        "file_name": file_name,
        "width": sample.width,
        "height": sample.height,
    }


def run_lengths(segments: SegmentMap, segment: Segment) -> dict[str, Any]:
    """Return a segment's mask in compressed run lengths: {"size": [H, W], "counts": str}."""
    runs = coco_mask.encode(np.asfortranarray(segments.full_mask(segment), np.uint8))
    return {"size": list(runs["size"]), "counts": runs["counts"].decode("ascii")}


def polygons(segments: SegmentMap, segment: Segment) -> list[list[float]]:
    """Return a segment's mask as polygons [x0, y0, x1, y1, ...], one a 4-connected part."""
    left, top, _, _ = segment.box
    parts = mask_to_polygons(segments.mask(segment), left=left, top=top)
    return [part.ravel().round(2).tolist() for part in parts]
