"""Samples of stores as detectron2's dataset dicts, and what its catalogue says of their classes.

The dicts name files within the shards (`shard_files`), so nothing is exported. The four tasks are
those that detectron2, Mask2Former and Mask DINO train on:

| task | labels of a dict |
|---|---|
| semantic | `sem_seg_file_name`: train ids |
| panoptic | that, `pan_seg_file_name`, and `segments_info` with train ids |
| instance | `annotations`: things, numbered from 0 in the order of their train ids |
| panoptic_separated | all of these, but `sem_seg_file_name` has 0 for things and stuff from 1 |

The last one is for detectron2's Panoptic FPN. This module needs no detectron2.
Source: https://detectron2.readthedocs.io/en/latest/tutorials/datasets.html
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from seggen_core.colors.class_colors import colors_of
from seggen_core.errors import ConfigError
from seggen_core.exports.coco import polygons, run_lengths
from seggen_core.exports.coco_panoptic import segment_png
from seggen_core.exports.detectron2 import XYWH_ABS, segments_info
from seggen_core.exports.segments import SegmentMap
from seggen_core.project.digests import content_digest, json_digest
from seggen_core.project.publish import publish, write_json
from seggen_core.segmentation.pairs import Pair
from seggen_core.segmentation.shard_files import ShardFile, taxonomy_of
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

DetectronTask = Literal["semantic", "panoptic", "instance", "panoptic_separated"]
TASKS: tuple[DetectronTask, ...] = ("semantic", "panoptic", "instance", "panoptic_separated")


@dataclass(frozen=True)
class DictFormat:
    """How samples become dicts.

    Attributes:
        task: which labels a dict has.
        things: train ids of the thing classes.
    """

    task: DetectronTask
    things: tuple[int, ...]

    def entry(self, pair: Pair, *, image_id: int) -> dict[str, Any]:
        """Return the dict of a sample.

        Args:
            pair: where its image and its labels are.
            image_id: unique in the dataset.

        Raises:
            SampleStoreError: the task needs instances, and the sample has none; or it is damaged.
        """
        store, key = pair.image
        size = store.read_size(key)
        label_store, label_key = pair.mask
        other = None if label_store.read_size(label_key) == size else size
        labels = ShardFile(
            label_store.folder.resolve(), label_key, "sem_seg", _changes(pair.table), other
        )
        entry: dict[str, Any] = {
            "file_name": ShardFile(store.folder.resolve(), key, "image").name,
            "height": size[0],
            "width": size[1],
            "image_id": image_id,
        }
        if self.task in ("semantic", "panoptic"):
            entry["sem_seg_file_name"] = labels.name
        if self.task == "panoptic_separated":
            entry["sem_seg_file_name"] = labels.shown_as("stuff").name
        if self.task == "semantic":
            return entry
        segments = labels.read_segments()
        if self.task != "instance":
            entry["pan_seg_file_name"] = labels.shown_as("panoptic").name
            entry["segments_info"] = segments_info(segments)
        if self.task != "panoptic":
            entry["annotations"] = self._annotations(segments)
        return entry

    def _annotations(self, segments: SegmentMap) -> list[dict[str, Any]]:
        annotations = []
        for segment in segments.things:
            # Polygons, which detectron2 reads under each ``INPUT.MASK_FORMAT``. A crowd is counted,
            # and no mapper reads its mask.
            convert = run_lengths if segment.is_crowd else polygons
            annotations.append(
                {
                    "bbox": list(segment.box),
                    "bbox_mode": XYWH_ABS,
                    "category_id": self.things.index(segment.train_id),
                    "segmentation": convert(segments, segment),
                    "iscrowd": int(segment.is_crowd),
                }
            )
        return annotations


def _changes(table: np.ndarray | None) -> tuple[tuple[int, int], ...]:
    """Return (value, label) of the values that a table of labels, uint8 [256], changes."""
    if table is None:
        return ()
    return tuple((int(v), int(table[v])) for v in np.flatnonzero(table != np.arange(256)))


def is_empty(entry: dict[str, Any]) -> bool:
    """Return whether detectron2 leaves out a dict: it has annotations, and all are crowds.

    It is what ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` does.
    """
    annotations = entry.get("annotations")
    return annotations is not None and all(a["iscrowd"] for a in annotations)


def store_dicts(
    stores: list[SampleStore], dict_format: DictFormat, *, cache: Path
) -> list[dict[str, Any]]:
    """Return the dicts of all samples of some stores.

    Dicts that tell segments or things take a look at every mask. So they are kept on disk, and made
    again when a store changes.

    Args:
        stores: in the order of the dicts; ids of images count from 1.
        dict_format: how they are written.
        cache: folder that they are kept in.
    """
    samples = ((store, key) for store in stores for key in store.keys())  # noqa: SIM118
    entries = (
        dict_format.entry(Pair(sample, sample), image_id=image_id)
        for image_id, sample in enumerate(samples, start=1)
    )
    if dict_format.task == "semantic":
        return list(entries)
    identity = [
        dict_format.task,
        dict_format.things,
        [[str(store.folder.resolve()), content_digest(store.folder)] for store in stores],
    ]
    file = cache / f"{dict_format.task}-{json_digest(identity)}.json"
    if file.is_file():
        return json.loads(file.read_text(encoding="utf-8"))
    rows = list(entries)
    cache.mkdir(parents=True, exist_ok=True)
    write_json(file, rows)
    return rows


@dataclass(frozen=True, eq=False)
class GroundTruth:
    """The labels of a store as COCO's files, for evaluators that read nothing else.

    Attributes:
        store: the samples.
        folder: where the files are, or will be: panoptic.json, panoptic/<key>.png, instances.json.
    """

    store: SampleStore
    folder: Path

    @classmethod
    def of(cls, store: SampleStore, *, cache: Path) -> "GroundTruth":
        """Return the files of a store, in a folder of `cache` that its contents name."""
        name = f"labels-{json_digest([content_digest(store.folder)])}"
        return cls(store, cache / name)

    def write(self) -> None:
        """Write the files, where that wasn't done before.

        Categories are numbered by train id plus 1, images from 1, as the dicts number them.

        Raises:
            SampleStoreError: a sample shows things and has no instances, or it is damaged.
        """
        if self.folder.is_dir():
            return
        new = self.folder.with_name(self.folder.name + ".new")
        (new / "panoptic").mkdir(parents=True, exist_ok=True)
        taxonomy = taxonomy_of(self.store)
        images: list[dict[str, Any]] = []
        panoptic: list[dict[str, Any]] = []
        instances: list[dict[str, Any]] = []
        for image_id, (key, segments) in enumerate(self._segments(), start=1):
            height, width = segments.ids.shape
            about = {"id": image_id, "file_name": f"{key}.png", "width": width, "height": height}
            images.append(about)
            (new / "panoptic" / f"{key}.png").write_bytes(segment_png(segments))
            rows = [
                {
                    "id": segment.id,
                    "image_id": image_id,
                    "category_id": segment.train_id + 1,
                    "iscrowd": int(segment.is_crowd),
                    "area": segment.area,
                    "bbox": list(segment.box),
                }
                for segment in segments.segments
            ]
            panoptic.append(
                {"image_id": image_id, "file_name": f"{key}.png", "segments_info": rows}
            )
            for row, segment in zip(rows, segments.segments, strict=True):
                if segment.is_thing:
                    new_id = {"id": len(instances) + 1}
                    mask = {"segmentation": run_lengths(segments, segment)}
                    instances.append(row | new_id | mask)
        categories = [
            {"id": c.train_id + 1, "name": c.name, "isthing": int(c.is_thing), "color": color}
            for c, color in zip(taxonomy, class_colors(self.store).tolist(), strict=True)
        ]
        head = {"info": {}, "images": images}
        tree = head | {"annotations": panoptic, "categories": categories}
        write_json(new / "panoptic.json", tree)
        things = [category for category in categories if category["isthing"]]
        write_json(new / "instances.json", head | {"annotations": instances, "categories": things})
        publish(new, self.folder)

    def _segments(self) -> Iterator[tuple[str, SegmentMap]]:
        folder = self.store.folder.resolve()
        for key in self.store.keys():  # noqa: SIM118
            yield key, ShardFile(folder, key, "sem_seg").read_segments()


def class_colors(store: SampleStore) -> np.ndarray:
    """Return the colours of a store's classes, uint8 [num_classes, 3]."""
    taxonomy_of(store)
    return colors_of(store.manifest["classes"])


def things_of(taxonomy: Taxonomy, *, task: DetectronTask) -> tuple[int, ...]:
    """Return the train ids of the things.

    Raises:
        ConfigError: the task is about things, and there is none.
    """
    things = tuple(c.train_id for c in taxonomy if c.is_thing)
    if task in ("instance", "panoptic_separated") and not things:
        raise ConfigError(
            f"the datasets of the task {task} are for things, and none of the {len(taxonomy)} "
            "classes is one; take those of the semantic task"
        )
    return things


def metadata(taxonomy: Taxonomy, *, colors: np.ndarray, task: DetectronTask) -> dict[str, Any]:
    """Return what detectron2's MetadataCatalog says of a dataset, without the places of files.

    Ids of the dataset are those of COCO's files: train id plus 1.

    Args:
        taxonomy: the classes.
        colors: uint8 [num_classes, 3].
        task: of the dataset.
    """
    things = things_of(taxonomy, task=task)
    stuff = tuple(c.train_id for c in taxonomy if not c.is_thing)
    every = tuple(range(len(taxonomy)))
    about: dict[str, Any] = {"ignore_label": IGNORE_INDEX, "label_divisor": 1000}

    def classes(kind: str, ids: tuple[int, ...]) -> dict[str, Any]:
        return {
            f"{kind}_classes": [taxonomy[i].name for i in ids],
            f"{kind}_colors": [tuple(color) for color in colors[list(ids)].tolist()],
        }

    if task == "semantic":
        return about | classes("stuff", every) | {"evaluator_type": "sem_seg"}
    if task == "instance":
        numbered = {i + 1: place for place, i in enumerate(things)}
        about |= classes("thing", things) | {"evaluator_type": "coco"}
        return about | {"thing_dataset_id_to_contiguous_id": numbered}
    if task == "panoptic_separated":
        about |= classes("thing", things) | classes("stuff", stuff)
        about["stuff_classes"].insert(0, "things")
        about["stuff_colors"].insert(0, (82, 18, 128))
        about["thing_dataset_id_to_contiguous_id"] = {i + 1: k for k, i in enumerate(things)}
        numbered = {0: 0} | {i + 1: k for k, i in enumerate(stuff, start=1)}
        return about | {
            "stuff_dataset_id_to_contiguous_id": numbered,
            "evaluator_type": "coco_panoptic_seg",
        }
    # COCOEvaluator wants things to come first; without that, AP needs the scripts' own evaluator,
    # which they take for ADE20K.
    comes_first = things == tuple(range(len(things)))
    return (
        about
        | classes("thing", every)
        | classes("stuff", every)
        | {
            "thing_dataset_id_to_contiguous_id": {i + 1: i for i in things},
            # All classes, as detectron2 has it for COCO: the semantic evaluator asks for things.
            "stuff_dataset_id_to_contiguous_id": {i + 1: i for i in every},
            "evaluator_type": "coco_panoptic_seg" if comes_first else "ade20k_panoptic_seg",
        }
    )
