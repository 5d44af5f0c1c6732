"""From masks of classes and instances to segments: one a thing, one a stuff class."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from seggen_core.taxonomy import IGNORE_INDEX

_NO_INSTANCE = 0
_IDS = 1 << 16


@dataclass(frozen=True)
class Segment:
    """One segment of an image.

    Attributes:
        id: its value in `SegmentMap.ids`, from 1.
        train_id: its class.
        is_thing: one object, or, if `is_crowd`, several that nothing tells apart.
        is_crowd: pixels of a thing class in an image with instances that belong to none of them.
        box: left, top, width and height in pixels.
        area: pixels.
    """

    id: int
    train_id: int
    is_thing: bool
    is_crowd: bool
    box: tuple[int, int, int, int]
    area: int


@dataclass(frozen=True, eq=False)
class SegmentMap:
    """The segments of an image.

    Attributes:
        ids: int32 [H, W], 0 where a pixel is ignored.
        segments: in the order of their ids.
    """

    ids: np.ndarray
    segments: tuple[Segment, ...]

    @property
    def things(self) -> list[Segment]:
        """The segments of things."""
        return [segment for segment in self.segments if segment.is_thing]

    def mask(self, segment: Segment) -> np.ndarray:
        """Return where a segment is in its box, bool [height, width]."""
        left, top, width, height = segment.box
        return self.ids[top : top + height, left : left + width] == segment.id

    def full_mask(self, segment: Segment) -> np.ndarray:
        """Return where a segment is in the image, bool [H, W]."""
        return self.ids == segment.id


def find_segments(
    segmentation_map: np.ndarray,
    instance_map: np.ndarray | None,
    *,
    things: Collection[int],
    components: bool = False,
) -> SegmentMap:
    """Return the segments of a sample.

    A stuff class is one segment. A thing class has a segment for each instance. An instance that
    two classes share, as resizing can leave it, is a segment of each.

    Args:
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        instance_map: uint16 [H, W], 0 where there is no instance; None where instances are unknown.
        things: train ids of the classes that have instances.
        components: where there is no instance map, each 8-connected part of a thing class is
            a thing; else all pixels of the class are one crowd. Pixels of things that an instance
            map leaves out are a crowd in both cases.
    """
    classes = segmentation_map.astype(np.int64)
    is_thing = np.isin(classes, list(things))
    if instance_map is not None:
        instances = np.where(is_thing, instance_map.astype(np.int64), _NO_INSTANCE)
    else:
        instances = np.zeros_like(classes)
        if components:
            _number_components(classes, instances, things=things)
    codes = np.where(classes == IGNORE_INDEX, -1, classes * _IDS + instances)
    present, ids = np.unique(codes, return_inverse=True)
    ids = ids.reshape(codes.shape) + (1 if present[0] >= 0 else 0)
    present = present[present >= 0]
    areas = np.bincount(ids.ravel(), minlength=len(present) + 1)
    segments = []
    for segment_id, (code, place) in enumerate(
        zip(present.tolist(), ndimage.find_objects(ids), strict=True), start=1
    ):
        train_id, instance = divmod(code, _IDS)
        rows, columns = place
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        thing = train_id in things
        crowd = thing and instance == _NO_INSTANCE
        segments.append(Segment(segment_id, train_id, thing, crowd, box, int(areas[segment_id])))
    return SegmentMap(ids.astype(np.int32), tuple(segments))


def _number_components(
    classes: np.ndarray, instances: np.ndarray, *, things: Collection[int]
) -> None:
    """Number the 8-connected parts of each thing class from 1, in place."""
    for train_id in sorted(set(np.unique(classes).tolist()) & set(things)):
        parts, _ = ndimage.label(classes == train_id, structure=np.ones((3, 3)))
        instances += parts
