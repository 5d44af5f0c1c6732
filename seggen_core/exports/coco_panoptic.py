"""COCO panoptic: a PNG of segment ids for each image, and a JSON file a split that explains them.

    images/<split>/<key>.png
    annotations/panoptic_<split>.json
    annotations/panoptic_<split>/<key>.png    the colour (R, G, B) is segment R + 256 G + 65536 B

The id of a category is the train id plus 1. Segment 0 (black) is void: the ignored pixels. A stuff
class is one segment an image. Pixels of a thing class that belong to no instance are a segment with
iscrowd. Source: https://cocodataset.org/#format-data
"""

from pathlib import Path

import numpy as np

from seggen_core.exports.coco import CocoWriter, image_entry
from seggen_core.exports.coco_results import segment_rows
from seggen_core.exports.folder import GrowingJson
from seggen_core.exports.job import ExportJob, png_file, write_file
from seggen_core.exports.sample import ExportSample
from seggen_core.exports.segments import SegmentMap


class CocoPanoptic(CocoWriter):
    """Writes COCO panoptic."""

    needs_instances = True
    opening = """```python
import json

import numpy as np
from PIL import Image

panoptic = json.load(open("annotations/panoptic_{split}.json"))
first = panoptic["annotations"][0]
rgb = np.array(Image.open("annotations/panoptic_{split}/" + first["file_name"]), dtype=int)
ids = rgb @ [1, 256, 65536]  # panopticapi.utils.rgb2id; first["segments_info"] explains them
```"""

    def __init__(self, job: ExportJob, folder: Path) -> None:
        """Begin a JSON file for each split."""
        super().__init__(job, folder)
        self._files = {
            split: GrowingJson(
                folder / "annotations" / f"panoptic_{split}.json", lists=("images", "annotations")
            )
            for split in job.selection.splits
        }
        self._num_images = 0

    def add(self, sample: ExportSample) -> None:
        """Write the image, its PNG of segments and its annotation."""
        self._num_images += 1
        name = self.job.write_image(self.folder / "images" / sample.split, sample)
        file = self._files[sample.split]
        file.append("images", image_entry(sample, image_id=self._num_images, file_name=name))
        segments = self.job.segments(sample)
        picture = self.folder / "annotations" / f"panoptic_{sample.split}" / f"{sample.key}.png"
        annotation = {
            "image_id": self._num_images,
            "file_name": write_file(picture, segment_png(segments)),
            "segments_info": segment_rows(segments),
        }
        file.append("annotations", annotation)


def segment_png(segments: SegmentMap) -> bytes:
    """Return segment ids as a PNG of colours: R + 256 G + 65536 B is the id."""
    return png_file(np.stack([segments.ids >> s & 255 for s in (0, 8, 16)], -1).astype(np.uint8))
