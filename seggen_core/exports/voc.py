"""Pascal VOC's folders.

    JPEGImages/<key>.jpg
    SegmentationClass/<key>.png     a palette PNG of train ids; 255 is void
    SegmentationObject/<key>.png    a palette PNG of instances from 1; 0 is no instance, 255 is void
    Annotations/<key>.xml           size of the image, boxes of its instances
    ImageSets/Segmentation/<split>.txt, trainval.txt
    labelmap.txt                    name and colour of each class

VOC's images are JPEG files, so stored PNG images are converted (quality 95). Index 0 is the class
with train id 0, which need not be a background. Objects and boxes are there where instances are
known, and for at most 254 an image. Source: the VOC2012 development kit, section 2
"""

from pathlib import Path
from typing import TextIO
from xml.etree import ElementTree as ET

import numpy as np

from seggen_core.exports.job import ExportJob, Writer, png_file, write_file
from seggen_core.exports.sample import ExportSample
from seggen_core.exports.segments import Segment, SegmentMap
from seggen_core.taxonomy import IGNORE_INDEX

MAX_OBJECTS = IGNORE_INDEX - 1


class VocFolders(Writer):
    """Writes Pascal VOC's folders."""

    opening = """```python
import numpy as np
from PIL import Image

key = open("ImageSets/Segmentation/{split}.txt").readline().strip()
mask = np.array(Image.open("SegmentationClass/" + key + ".png"))  # ids, not colours
```"""

    def __init__(self, job: ExportJob, folder: Path) -> None:
        """Begin the lists of samples."""
        super().__init__(job, folder)
        self._lists: dict[str, TextIO] = {}
        sets = folder / "ImageSets" / "Segmentation"
        sets.mkdir(parents=True)
        for name in [*job.selection.splits, "trainval"]:
            self._lists[name] = (sets / f"{name}.txt").open("w", encoding="ascii")
        self._has_instances = bool(job.things) and job.has_instances
        self._num_crowded = 0
        self._object_palette = voc_colors().ravel().tolist()
        self._class_palette = self._object_palette.copy()
        self._class_palette[: 3 * len(job.selection.colors)] = job.selection.colors.ravel().tolist()

    def add(self, sample: ExportSample) -> None:
        """Write the files of one sample."""
        image = self.job.write_image(self.folder / "JPEGImages", sample, suffix="jpg")
        name = f"{sample.key}.png"
        classes = png_file(sample.segmentation_map, palette=self._class_palette)
        write_file(self.folder / "SegmentationClass" / name, classes)
        things: list[Segment] = []
        if self._has_instances:
            segments = self.job.segments(sample)
            things = [segment for segment in segments.things if not segment.is_crowd]
            if len(things) <= MAX_OBJECTS:
                objects = object_map(sample, segments, things)
                picture = png_file(objects, palette=self._object_palette)
                write_file(self.folder / "SegmentationObject" / name, picture)
            else:
                self._num_crowded += 1
        xml = self._annotation(sample, things, file_name=image)
        write_file(self.folder / "Annotations" / f"{sample.key}.xml", xml)
        self._lists[sample.split].write(f"{sample.key}\n")
        if sample.split in ("train", "val"):
            self._lists["trainval"].write(f"{sample.key}\n")

    def _annotation(self, sample: ExportSample, things: list[Segment], *, file_name: str) -> bytes:
        """Return the XML file of a sample: boxes with corners from 1, as VOC counts pixels."""
        root = ET.Element("annotation")

        def add(parent: ET.Element, name: str, text: object = "") -> ET.Element:
            element = ET.SubElement(parent, name)
            element.text = str(text)
            return element

        add(root, "folder", "VOC")
        add(root, "filename", file_name)
        size = add(root, "size")
        for name, value in (("width", sample.width), ("height", sample.height), ("depth", 3)):
            add(size, name, value)
        add(root, "segmented", 1)
        for segment in things:
            left, top, width, height = segment.box
            thing = add(root, "object")
            add(thing, "name", self.job.selection.taxonomy[segment.train_id].name)
            for name in ("pose", "truncated", "difficult"):
                add(thing, name, "Unspecified" if name == "pose" else 0)
            box = add(thing, "bndbox")
            corners = (left + 1, top + 1, left + width, top + height)
            for name, value in zip(("xmin", "ymin", "xmax", "ymax"), corners, strict=True):
                add(box, name, value)
        ET.indent(root)
        return ET.tostring(root, encoding="utf-8")

    def finish(self) -> list[str]:
        """Write the class list."""
        self.close()
        lines = ["# label:color_rgb:parts:actions"]
        for c in self.job.selection.taxonomy:
            color = ",".join(map(str, self.job.selection.colors[c.train_id].tolist()))
            lines.append(f"{c.name.replace(':', ' ')}:{color}::")
        write_file(self.folder / "labelmap.txt", ("\n".join(lines) + "\n").encode())
        if not self._num_crowded:
            return []
        return [
            f"{self._num_crowded} images have more than {MAX_OBJECTS} instances, which a VOC PNG "
            "can't hold: they have no SegmentationObject"
        ]

    def close(self) -> None:
        """Give up the lists."""
        for file in self._lists.values():
            file.close()


def voc_colors() -> np.ndarray:
    """Return VOC's colour map, uint8 [256, 3]: the bits of an index dealt out to red, green, blue.

    The colour of 255, void, is (224, 224, 192).
    """
    index = np.arange(256)[:, None] >> np.arange(3)
    bits = [(index >> 3 * k & 1) << 7 - k for k in range(3)]
    return np.sum(bits, axis=0).astype(np.uint8)


def object_map(sample: ExportSample, segments: SegmentMap, things: list[Segment]) -> np.ndarray:
    """Return uint8 [H, W]: k for the k-th thing, 255 where a pixel is ignored or of a crowd."""
    numbers = np.zeros(len(segments.segments) + 1, np.uint8)
    for segment in segments.segments:
        numbers[segment.id] = IGNORE_INDEX if segment.is_crowd else 0
    numbers[[segment.id for segment in things]] = np.arange(1, len(things) + 1)
    return np.where(sample.segmentation_map == IGNORE_INDEX, IGNORE_INDEX, numbers[segments.ids])
