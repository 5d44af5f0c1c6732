"""Predictions and their truth in COCO's formats, so that any tool can score them again.

    coco/truth/instances.json           things of the test split: pycocotools' truth
    coco/truth/panoptic.json, panoptic/<key>.png      (task "panoptic")
    coco/seed<k>/instances.json         results with run lengths and scores: pycocotools' loadRes
    coco/seed<k>/panoptic.json, panoptic/<key>.png    panopticapi's prediction

The id of a category is the train id plus 1, that of an image its place in the test split, from 1.
Source: https://cocodataset.org/#format-results
"""

from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.exports.folder import GrowingJson
from seggen_core.exports.job import png_file, write_file
from seggen_core.metrics.instance import Instances, encode_masks
from seggen_core.metrics.segments import SegmentPrediction, true_instances
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy


class CocoFolder:
    """Writes the truth, or the predictions of one segmenter, image by image."""

    def __init__(
        self, folder: Path, *, taxonomy: Taxonomy, is_truth: bool, with_panoptic: bool
    ) -> None:
        """Begin the files in a folder.

        Args:
            folder: is made.
            taxonomy: the classes.
            is_truth: write the truth instead of the predictions.
            with_panoptic: write panoptic files, too.
        """
        self._folder, self._taxonomy, self._is_truth = folder, taxonomy, is_truth
        self._things = np.array([c.is_thing for c in taxonomy])
        lists = ("images", "annotations") if is_truth else ("annotations",)
        self._instances = GrowingJson(folder / "instances.json", lists=lists)
        self._panoptic: GrowingJson | None = None
        if with_panoptic:
            self._panoptic = GrowingJson(folder / "panoptic.json", lists=("images", "annotations"))
        self._num_images = self._num_instances = 0

    def __enter__(self) -> "CocoFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        files = [self._instances, *([self._panoptic] if self._panoptic is not None else [])]
        if error is not None:
            for file in files:
                file.close()
            return
        categories = [
            {
                "id": c.train_id + 1,
                "name": c.name,
                "supercategory": "thing" if c.is_thing else "stuff",
                "isthing": int(c.is_thing),
            }
            for c in self._taxonomy
        ]
        things = [category for category in categories if category["isthing"]]
        self._instances.finish({"categories": things} if self._is_truth else None)
        if self._panoptic is not None:
            self._panoptic.finish({"categories": categories})

    def add(self, prediction: SegmentPrediction) -> None:
        """Write an image."""
        self._num_images += 1
        height, width = prediction.truth.segmentation_map.shape
        image = {
            "id": self._num_images,
            "file_name": f"{prediction.key}.png",
            "width": width,
            "height": height,
        }
        if self._is_truth:
            self._instances.append("images", image)
            shown = true_instances(prediction.truth, things=self._things)
        else:
            shown = prediction.instances
        self._add_instances(shown)
        segments = prediction.truth if self._is_truth else prediction.panoptic
        if self._panoptic is not None and segments is not None:
            self._panoptic.append("images", image)
            self._add_panoptic(segments, key=prediction.key)

    def _add_instances(self, shown: Instances) -> None:
        encoded = encode_masks(shown.masks)
        for place, (mask, class_id) in enumerate(zip(encoded, shown.class_ids, strict=True)):
            self._num_instances += 1
            counts = mask["counts"].decode("ascii")
            entry: dict[str, Any] = {
                "image_id": self._num_images,
                "category_id": int(class_id) + 1,
                "segmentation": {"size": list(mask["size"]), "counts": counts},
            }
            if shown.scores is not None:
                entry["score"] = float(shown.scores[place])
            else:
                assert shown.crowds is not None
                entry |= {
                    "id": self._num_instances,
                    "area": int(shown.masks[place].sum()),
                    "bbox": _box(shown.masks[place]),
                    "iscrowd": int(shown.crowds[place]),
                }
            self._instances.append("annotations", entry)

    def _add_panoptic(self, segments: PanopticMap, *, key: str) -> None:
        assert self._panoptic is not None
        ids = segments.segment_ids()
        codes, numbers = np.unique(ids, return_inverse=True)
        is_void = (codes >> 16) == IGNORE_INDEX
        # Segments are numbered from 1; 0 is void.
        own = np.where(is_void, 0, np.cumsum(~is_void))
        numbers = own[numbers].reshape(ids.shape)
        areas = np.bincount(numbers.ravel(), minlength=len(codes) + 1)
        listed = [
            {
                "id": int(number),
                "category_id": int(code >> 16) + 1,
                "area": int(areas[number]),
                "bbox": _box(numbers == number),
                "iscrowd": int(
                    self._is_truth and bool(self._things[code >> 16]) and code & 0xFFFF == 0
                ),
            }
            for code, number in zip(codes.tolist(), own.tolist(), strict=True)
            if number
        ]
        colors = np.stack([numbers >> shift & 255 for shift in (0, 8, 16)], -1).astype(np.uint8)
        name = write_file(self._folder / "panoptic" / f"{key}.png", png_file(colors))
        self._panoptic.append(
            "annotations",
            {"image_id": self._num_images, "file_name": name, "segments_info": listed},
        )


def _box(mask: np.ndarray) -> list[int]:
    """Return left, top, width and height of a mask."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return [
        int(columns[0]),
        int(rows[0]),
        int(columns[-1] - columns[0] + 1),
        int(rows[-1] - rows[0] + 1),
    ]
