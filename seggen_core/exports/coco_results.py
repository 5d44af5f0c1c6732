"""COCO's formats for what a segmenter gives of one image.

The id of a category is the train id plus 1. Source: https://cocodataset.org/#format-results
"""

from typing import Any

import numpy as np

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.exports.segments import SegmentMap, find_segments
from seggen_core.metrics.instance import Instances, encode_masks
from seggen_core.taxonomy import Taxonomy


def category_rows(taxonomy: Taxonomy) -> list[dict[str, Any]]:
    """Return the classes as COCO's categories, things and stuff."""
    return [
        {
            "id": c.train_id + 1,
            "name": c.name,
            "supercategory": "thing" if c.is_thing else "stuff",
            "isthing": int(c.is_thing),
        }
        for c in taxonomy
    ]


def instance_rows(instances: Instances) -> list[dict[str, Any]]:
    """Return a row with category_id and segmentation (run lengths) for each instance.

    Predicted ones have their score, too.
    """
    rows: list[dict[str, Any]] = []
    encoded = encode_masks(instances.masks)
    for place, (mask, class_id) in enumerate(zip(encoded, instances.class_ids, strict=True)):
        counts = mask["counts"].decode("ascii")
        row: dict[str, Any] = {
            "category_id": int(class_id) + 1,
            "segmentation": {"size": list(mask["size"]), "counts": counts},
        }
        if instances.scores is not None:
            row["score"] = float(instances.scores[place])
        rows.append(row)
    return rows


def panoptic_segment_map(panoptic: PanopticMap, *, things: np.ndarray) -> SegmentMap:
    """Return the segments of an image, numbered from 1 by class and instance.

    Args:
        panoptic: its masks.
        things: bool [C].
    """
    ids = np.flatnonzero(things).tolist()
    return find_segments(panoptic.segmentation_map, panoptic.instance_map, things=ids)


def segment_rows(segments: SegmentMap, *, with_crowds: bool = True) -> list[dict[str, Any]]:
    """Return COCO's `segments_info` of an image.

    Args:
        segments: of the image.
        with_crowds: things without an instance are crowds; a segmenter predicts none.
    """
    return [
        {
            "id": segment.id,
            "category_id": segment.train_id + 1,
            "iscrowd": int(segment.is_crowd and with_crowds),
            "area": segment.area,
            "bbox": list(segment.box),
        }
        for segment in segments.segments
    ]
