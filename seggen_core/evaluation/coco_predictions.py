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

import numpy as np

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.exports.coco_panoptic import segment_png
from seggen_core.exports.coco_results import (
    category_rows,
    instance_rows,
    panoptic_segment_map,
    segment_rows,
)
from seggen_core.exports.folder import GrowingJson
from seggen_core.exports.job import write_file
from seggen_core.metrics.instance import Instances
from seggen_core.metrics.segments import SegmentPrediction, true_instances
from seggen_core.taxonomy import Taxonomy


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
        categories = category_rows(self._taxonomy)
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
        for place, row in enumerate(instance_rows(shown)):
            self._num_instances += 1
            entry = {"image_id": self._num_images, **row}
            if shown.scores is None:
                assert shown.crowds is not None
                entry |= {
                    "id": self._num_instances,
                    "area": int(shown.masks[place].sum()),
                    "bbox": _box(shown.masks[place]),
                    "iscrowd": int(shown.crowds[place]),
                }
            self._instances.append("annotations", entry)

    def _add_panoptic(self, panoptic: PanopticMap, *, key: str) -> None:
        assert self._panoptic is not None
        segments = panoptic_segment_map(panoptic, things=self._things)
        name = write_file(self._folder / "panoptic" / f"{key}.png", segment_png(segments))
        rows = segment_rows(segments, with_crowds=self._is_truth)
        self._panoptic.append(
            "annotations",
            {"image_id": self._num_images, "file_name": name, "segments_info": rows},
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
