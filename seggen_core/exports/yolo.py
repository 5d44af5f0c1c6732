"""Ultralytics' YOLO segmentation: a text file of polygons for each image, and data.yaml.

    images/<split>/<key>.png
    labels/<split>/<key>.txt    a line a thing: class x1 y1 x2 y2 ..., as shares of width and height
    data.yaml                   folders and names

Classes are the things, numbered from 0 in the order of their train ids. The format has no stuff, no
ignored pixels, no crowds and one polygon a thing: parts of a thing and its holes are joined by cuts
of no width, as Ultralytics' converter from COCO does.
Source: https://docs.ultralytics.com/datasets/segment/
"""

import json

from seggen_core.exports.job import Writer, write_file
from seggen_core.exports.polygons import join_polygons, mask_to_polygons
from seggen_core.exports.sample import ExportSample
from seggen_core.exports.segments import Segment, SegmentMap


class YoloFolders(Writer):
    """Writes YOLO segmentation."""

    needs_instances = True
    opening = "Give `data.yaml` to Ultralytics: `yolo segment train data=data.yaml`."
    _num_crowds = 0

    def add(self, sample: ExportSample) -> None:
        """Write the image and its polygons; an image without things has an empty file."""
        self.job.write_image(self.folder / "images" / sample.split, sample)
        segments = self.job.segments(sample)
        lines = ""
        for segment in segments.things:
            if segment.is_crowd:
                self._num_crowds += 1
            else:
                lines += self._line(sample, segments, segment)
        write_file(self.folder / "labels" / sample.split / f"{sample.key}.txt", lines.encode())

    def _line(self, sample: ExportSample, segments: SegmentMap, segment: Segment) -> str:
        left, top, _, _ = segment.box
        parts = mask_to_polygons(segments.mask(segment), left=left, top=top)
        points = join_polygons(parts) / (sample.width, sample.height)
        class_index = self.job.things.index(segment.train_id)
        return " ".join([str(class_index), *(f"{value:.7f}" for value in points.ravel())]) + "\n"

    def finish(self) -> list[str]:
        """Write data.yaml."""
        notes = []
        splits = {split: f"images/{split}" for split in self.job.selection.splits}
        for missing in {"train", "val"} - set(splits):
            there = next(iter(splits))
            splits[missing] = splits[there]
            notes.append(
                f"Ultralytics needs a {missing} split, and none is exported: data.yaml names the "
                f"{there} images for it; add real/{missing}"
            )
        # No `path`: then Ultralytics starts from the folder of data.yaml. JSON strings are YAML.
        text = "".join(f"{split}: {folder}\n" for split, folder in sorted(splits.items()))
        names = [f"  {k}: {json.dumps(c.name)}\n" for k, c in enumerate(self.job.thing_classes)]
        write_file(self.folder / "data.yaml", (text + "names:\n" + "".join(names)).encode())
        if self._num_crowds:
            notes.append(
                f"{self._num_crowds} regions of things that belong to no instance are left out: "
                "the format has no crowds"
            )
        return notes
