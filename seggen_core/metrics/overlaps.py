"""Which segments of the truth and of the prediction share how many pixels, in several pictures."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.metrics.boundary import label_boundaries
from seggen_core.taxonomy import IGNORE_INDEX

PICTURE = 1 << 24
"""Step from a segment of one picture to the same segment, class * 65536 + instance, of the next."""


@dataclass(frozen=True, eq=False)
class Picture:
    """The pixels of one image, each [H * W].

    Attributes:
        planes: classes and instances of the truth, then of the prediction.
        edges: which pixels are in boundaries of the truth and of the prediction; empty if
            boundaries aren't compared.
        crowds: segment ids.
    """

    planes: tuple[np.ndarray, ...]
    edges: tuple[np.ndarray, ...]
    crowds: tuple[int, ...]

    @classmethod
    def of(
        cls,
        prediction: PanopticMap,
        *,
        truth: PanopticMap,
        crowds: Collection[tuple[int, int]],
        boundary: int | None,
    ) -> "Picture":
        """Take in an image; see `panoptic.count_panoptic`."""
        shapes = prediction.segmentation_map.shape, truth.segmentation_map.shape
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"the prediction is {shapes[0]}, the truth {shapes[1]}; expected one size"
            )
        maps = (truth, prediction)
        planes = tuple(
            plane.ravel() for m in maps for plane in (m.segmentation_map, m.instance_map)
        )
        edges: tuple[np.ndarray, ...] = ()
        if boundary is not None:
            edges = tuple(label_boundaries(m.segment_ids(), width=boundary).ravel() for m in maps)
        return cls(planes, edges, tuple(c << 16 | instance for c, instance in crowds))


class Memory:
    """Arrays that batches use again: the system clears new memory, which costs as much as the work.

    Each is overwritten by the next batch.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray] = {}

    def array(self, name: str, length: int, dtype: np.dtype | type) -> np.ndarray:
        """Return an array [length] of any content."""
        buffer = self._arrays.get(name)
        if buffer is None or len(buffer) < length or buffer.dtype != dtype:
            buffer = self._arrays[name] = np.empty(length, dtype)
        return buffer[:length]


@dataclass(frozen=True, eq=False)
class Overlaps:
    """The pairs of a true and a predicted segment that share pixels: int64 [P] each.

    An id is picture * PICTURE + class * 65536 + instance; all ignored pixels of a picture have one.
    """

    true_ids: np.ndarray
    """Ids of the true segments."""
    predicted_ids: np.ndarray
    """Ids of the predicted segments."""
    areas: np.ndarray
    """Pixels that they share."""
    true_boundary: np.ndarray
    """Those of them in the true segment's boundary; 0 if boundaries aren't compared."""
    predicted_boundary: np.ndarray
    """Those of them in the predicted segment's boundary; 0 if boundaries aren't compared."""
    both_boundaries: np.ndarray
    """Those of them in both boundaries; 0 if boundaries aren't compared."""


def find_overlaps(pictures: Sequence[Picture], memory: Memory) -> Overlaps:
    """Count the pixels of every pair of segments.

    It reads the first pixel of each run of equal pixels and weights it by the run's length, because
    pictures have far fewer runs than pixels.
    """
    planes = _joined([p.planes for p in pictures], memory, name="plane")
    edges = _joined([p.edges for p in pictures], memory, name="edge")
    ends = np.cumsum([len(p.planes[0]) for p in pictures])
    starts_run = memory.array("starts", len(planes[0]), bool)
    changes = memory.array("changes", len(planes[0]), bool)[1:]
    starts_run[:1] = True
    np.not_equal(planes[0][1:], planes[0][:-1], out=starts_run[1:])
    for plane in (*planes[1:], *edges):
        starts_run[1:] |= np.not_equal(plane[1:], plane[:-1], out=changes)
    starts_run[ends[:-1]] = True
    starts = np.flatnonzero(starts_run)
    lengths = np.diff(starts, append=len(starts_run)).astype(np.float64)  # weights of bincount
    runs = np.repeat(np.arange(len(ends)), np.diff(np.searchsorted(starts, ends), prepend=0))
    for plane, bits in zip(planes, (8, 16, 8, 16), strict=True):
        runs <<= bits
        runs |= plane.take(starts)
    # A hash table: three times as fast as the sort of np.unique.
    pair_of_run, pairs = pd.factorize(runs)

    def pixels(flags: np.ndarray) -> np.ndarray:
        return np.bincount(pair_of_run, lengths * flags, len(pairs)).astype(np.int64)

    none = np.zeros(len(pairs), np.int64)
    flagged = [none] * 3
    if edges:
        true, predicted = (plane.take(starts) for plane in edges)
        flagged = [pixels(true), pixels(predicted), pixels(true & predicted)]
    areas = np.bincount(pair_of_run, lengths).astype(np.int64)
    picture = pairs >> 48 << 24
    true_ids, predicted_ids = (
        _segment_ids(picture | pairs >> shift & 0xFFFFFF) for shift in (24, 0)
    )
    return Overlaps(true_ids, predicted_ids, areas, *flagged)


def _joined(rows: Sequence[Sequence[np.ndarray]], memory: Memory, *, name: str) -> list[np.ndarray]:
    """Return the planes of several pictures one after the other."""
    if len(rows) == 1:
        return list(rows[0])
    joined = []
    for place, planes in enumerate(zip(*rows, strict=True)):
        length = sum(len(plane) for plane in planes)
        out = memory.array(f"{name}{place}", length, planes[0].dtype)
        joined.append(np.concatenate(planes, out=out))
    return joined


def _segment_ids(ids: np.ndarray) -> np.ndarray:
    """Return ids with one id for all ignored pixels of a picture."""
    return np.where(ids >> 16 & 0xFF == IGNORE_INDEX, ids & ~0xFFFF, ids)
