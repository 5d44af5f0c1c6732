"""Dataset dicts of Detectron2, for semantic, instance and panoptic training, as JSON.

    images/<split>/<key>.png
    sem_seg/<split>/<key>.png    train ids; 255 is ignored
    panoptic/<split>/<key>.png   segment ids as COCO panoptic writes them, if instances are known
    <split>.json                 list of dataset dicts
    metadata.json                what MetadataCatalog wants, and "root", the folder of the export
    register.py                  registers all splits, also after the folder was moved

`sem_seg` and the categories of `segments_info` are train ids. Categories of `annotations` are
numbered from 0 over the thing classes, in the order of their train ids.
Source: https://detectron2.readthedocs.io/en/latest/tutorials/datasets.html
"""

from pathlib import Path
from typing import Any

from seggen_core.exports.coco import run_lengths
from seggen_core.exports.coco_panoptic import segment_png
from seggen_core.exports.folder import GrowingJson
from seggen_core.exports.job import ExportJob, Writer, write_file
from seggen_core.exports.sample import ExportSample
from seggen_core.exports.segments import SegmentMap
from seggen_core.project.publish import write_json
from seggen_core.taxonomy import IGNORE_INDEX

XYWH_ABS = 1
"""detectron2.structures.BoxMode.XYWH_ABS."""

_REGISTER = '''"""Registers the splits of this folder with Detectron2: register()."""

import json
import os

ROOT = os.path.dirname(os.path.abspath(__file__))
_FILES = ("file_name", "sem_seg_file_name", "pan_seg_file_name")


def metadata():
    """Return classes, colours and ignore_label, for MetadataCatalog."""
    with open(os.path.join(ROOT, "metadata.json"), encoding="utf-8") as file:
        return json.load(file)


def load(split):
    """Return the dataset dicts of a split, with the paths of files where this folder is now."""
    root = metadata()["root"]
    with open(os.path.join(ROOT, split + ".json"), encoding="utf-8") as file:
        dicts = json.load(file)
    for entry in dicts:
        for name in _FILES:
            if name in entry:
                entry[name] = os.path.join(ROOT, os.path.relpath(entry[name], root))
    return dicts


def register(prefix="seggen_"):
    """Register every split as <prefix><split>."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    about = {key: value for key, value in metadata().items() if key not in ("root", "splits")}
    about["thing_dataset_id_to_contiguous_id"] = {
        int(key): value for key, value in about["thing_dataset_id_to_contiguous_id"].items()
    }
    for split in metadata()["splits"]:
        DatasetCatalog.register(prefix + split, lambda split=split: load(split))
        MetadataCatalog.get(prefix + split).set(**about)
'''


class Detectron2Dicts(Writer):
    """Writes Detectron2's dataset dicts."""

    opening = """```python
import json
from detectron2.data import DatasetCatalog

DatasetCatalog.register("seggen_{split}", lambda: json.load(open("{split}.json")))
```

`register.py` does this for all splits, with classes and colours, and wherever the folder is:
`from register import register; register()`."""

    def __init__(self, job: ExportJob, folder: Path) -> None:
        """Begin a JSON file for each split."""
        super().__init__(job, folder)
        self._has_instances = job.has_instances
        self._files = {
            split: GrowingJson(folder / f"{split}.json", lists=("dicts",))
            for split in job.selection.splits
        }
        self._num_images = 0

    def add(self, sample: ExportSample) -> None:
        """Write the files of one sample, and its dict."""
        self._num_images += 1
        image = self.job.write_image(self.folder / "images" / sample.split, sample)
        mask = f"{sample.key}.png"
        write_file(self.folder / "sem_seg" / sample.split / mask, sample.mask)
        entry: dict[str, Any] = {
            "file_name": self._place("images", sample.split, image),
            "height": sample.height,
            "width": sample.width,
            "image_id": self._num_images,
            "sem_seg_file_name": self._place("sem_seg", sample.split, mask),
        }
        if self._has_instances:
            segments = self.job.segments(sample)
            write_file(self.folder / "panoptic" / sample.split / mask, segment_png(segments))
            entry |= {
                "pan_seg_file_name": self._place("panoptic", sample.split, mask),
                "segments_info": segments_info(segments),
                "annotations": self._annotations(segments),
            }
        self._files[sample.split].append("dicts", entry)

    def _place(self, *parts: str) -> str:
        """Return where a file will be when the export is finished."""
        return str(self.job.out.joinpath(*parts))

    def _annotations(self, segments: SegmentMap) -> list[dict[str, Any]]:
        return [
            {
                "bbox": list(segment.box),
                "bbox_mode": XYWH_ABS,
                "category_id": self.job.things.index(segment.train_id),
                "segmentation": run_lengths(segments, segment),
                "iscrowd": int(segment.is_crowd),
            }
            for segment in segments.things
        ]

    def finish(self) -> list[str]:
        """Write the JSON files and register.py."""
        for file in self._files.values():
            file.finish(None)
        selection = self.job.selection
        about = {
            "root": str(self.job.out),
            "splits": list(selection.splits),
            "thing_classes": [c.name for c in self.job.thing_classes],
            "thing_colors": selection.colors[list(self.job.things)].tolist(),
            "thing_dataset_id_to_contiguous_id": {
                str(train_id): k for k, train_id in enumerate(self.job.things)
            },
            "stuff_classes": [c.name for c in selection.taxonomy],
            "stuff_colors": selection.colors.tolist(),
            "ignore_label": IGNORE_INDEX,
            "label_divisor": 1000,
        }
        write_json(self.folder / "metadata.json", about)
        write_file(self.folder / "register.py", _REGISTER.encode())
        if self._has_instances:
            return []
        return [
            "some samples have no instances, so the dicts are for semantic segmentation alone; "
            "--components makes things of connected parts"
        ]

    def close(self) -> None:
        """Give up the files."""
        for file in self._files.values():
            file.close()


def segments_info(segments: SegmentMap) -> list[dict[str, Any]]:
    """Return the segments as detectron2's dicts name them; categories are train ids."""
    return [
        {
            "id": segment.id,
            "category_id": segment.train_id,
            "isthing": segment.is_thing,
            "iscrowd": int(segment.is_crowd),
            "area": segment.area,
            "bbox": list(segment.box),
        }
        for segment in segments.segments
    ]
