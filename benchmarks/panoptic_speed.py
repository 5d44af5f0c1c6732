"""Compares the speed of panoptic quality here and in panopticapi, on the same segments.

    PYTHONPATH=<folder with panopticapi> python benchmarks/panoptic_speed.py --count 50

Draws pairs of a true and a predicted panoptic map with ragged borders, void and crowds. Both count
them from memory: panopticapi's PNG files are replaced by the maps of segment ids that they would
decode to, so that decoding counts for neither. Checks that all counts are equal, then prints the
seconds of each and their ratio. panopticapi isn't on the package index; its repository is
cocodataset/panopticapi.
"""

import argparse
import contextlib
import io
import time
from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.metrics.panoptic import PanopticCounter, PanopticCounts
from seggen_core.taxonomy import IGNORE_INDEX

NUM_CLASSES = 133
NUM_THINGS = 80
ROUNDS = 15
Crowds = set[tuple[int, int]]


def draw_map(rng: np.random.Generator, *, size: tuple[int, int], num_segments: int) -> PanopticMap:
    """Return the cells of random points, with borders that bend and are ragged by half a pixel."""
    height, width = size
    y, x = np.mgrid[:height, :width] + rng.normal(0, 0.5, (2, height, width))
    y, x = y + 6 * np.sin(x / 17), x + 6 * np.sin(y / 23)
    points = rng.random((num_segments, 2)) * (height, width)
    distance = np.stack([(y - py) ** 2 + (x - px) ** 2 for py, px in points])
    cell = distance.argmin(0)
    classes = rng.integers(0, NUM_CLASSES, num_segments)
    classes[rng.random(num_segments) < 0.05] = IGNORE_INDEX
    instances = np.where(classes < NUM_THINGS, np.arange(num_segments) + 1, 0)
    return PanopticMap(classes.astype(np.uint8)[cell], instances.astype(np.uint16)[cell])


def draw_pair(
    rng: np.random.Generator, *, size: tuple[int, int], num_segments: int
) -> tuple[PanopticMap, PanopticMap, Crowds]:
    """Return a prediction that differs from the truth in a third of its columns, truth, crowds."""
    truth = draw_map(rng, size=size, num_segments=num_segments)
    other = draw_map(rng, size=size, num_segments=num_segments)
    planes = [truth.segmentation_map.copy(), truth.instance_map.copy()]
    columns = slice(0, size[1] // 3)
    planes[0][:, columns] = other.segmentation_map[:, columns]
    planes[1][:, columns] = other.instance_map[:, columns]
    things = np.unique(truth.segment_ids()[truth.segmentation_map < NUM_THINGS])
    crowds = {(int(s) >> 16, int(s) & 0xFFFF) for s in things[:1]}
    return PanopticMap(*planes), truth, crowds


def with_void_zero(panoptic: PanopticMap) -> np.ndarray:
    """Return panopticapi's ids, uint32 [H, W]: 0 is void, others are seggen's plus one class."""
    ids = panoptic.segment_ids() + (1 << 16)
    return np.where(panoptic.segmentation_map == IGNORE_INDEX, 0, ids).astype(np.uint32)


def annotation(ids: np.ndarray, *, name: str, crowds: Crowds) -> dict[str, Any]:
    """Return panopticapi's annotation of an image."""
    segments = [
        {
            "id": int(i),
            "category_id": (int(i) >> 16) - 1,
            "iscrowd": int(((int(i) >> 16) - 1, int(i) & 0xFFFF) in crowds),
            "area": int(area),
        }
        for i, area in zip(*np.unique(ids, return_counts=True), strict=True)
        if i
    ]
    return {"file_name": name, "image_id": name, "segments_info": segments}


@contextlib.contextmanager
def ids_for_files(maps: dict[str, np.ndarray]) -> Iterator[None]:
    """Let panopticapi read `maps`, by file name, where it opens and decodes PNG files."""
    from panopticapi import evaluation

    with (
        mock.patch.object(evaluation.Image, "open", lambda path: maps[path]),
        mock.patch.object(evaluation, "rgb2id", lambda ids: ids),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        yield


def as_arrays(stat: Any) -> list[np.ndarray]:
    """Return panopticapi's counts as those of `PanopticCounts`."""
    names = ("iou", "tp", "fp", "fn")
    return [np.array([getattr(stat[c], n) for c in range(NUM_CLASSES)]) for n in names]


def ours(pairs: list[tuple[PanopticMap, PanopticMap, Crowds]]) -> PanopticCounts:
    """Count all pairs with seggen."""
    counter = PanopticCounter(NUM_CLASSES)
    for prediction, truth, crowds in pairs:
        counter.add(prediction, truth=truth, crowds=crowds)
    return counter.counts()


def compare(*, size: tuple[int, int], num_segments: int, count: int) -> str:
    """Return a row of the table: both counters' times over `count` pairs, the best of ROUNDS."""
    from panopticapi.evaluation import pq_compute_single_core

    rng = np.random.default_rng(0)
    pairs = [draw_pair(rng, size=size, num_segments=num_segments) for _ in range(count)]
    maps: dict[str, np.ndarray] = {}
    annotations = []
    for k, (prediction, truth, crowds) in enumerate(pairs):
        maps |= {f"t/{k}": with_void_zero(truth), f"p/{k}": with_void_zero(prediction)}
        annotations.append(
            (
                annotation(maps[f"t/{k}"], name=f"{k}", crowds=crowds),
                annotation(maps[f"p/{k}"], name=f"{k}", crowds=set()),
            )
        )
    categories = {c: {"isthing": int(c < NUM_THINGS)} for c in range(NUM_CLASSES)}
    seconds: dict[str, list[float]] = {"seggen": [], "panopticapi": []}
    for _ in range(ROUNDS):
        start = time.process_time()
        counts = ours(pairs)
        seconds["seggen"].append(time.process_time() - start)
        with ids_for_files(maps):
            start = time.process_time()
            stat = pq_compute_single_core(0, annotations, "t", "p", categories)
            seconds["panopticapi"].append(time.process_time() - start)
    reference = as_arrays(stat)
    np.testing.assert_allclose(counts.iou, reference[0], rtol=1e-12)
    for counted, expected in zip(
        (counts.true_positives, counts.false_positives, counts.false_negatives),
        reference[1:],
        strict=True,
    ):
        np.testing.assert_array_equal(counted, expected)
    mine, theirs = (1000 * min(seconds[name]) / count for name in ("seggen", "panopticapi"))
    shape = f"{size[1]}x{size[0]}, {num_segments} segments"
    return f"| {shape} | {mine:.2f} | {theirs:.2f} | {theirs / mine:.1f} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=50, help="pairs of maps of 640x480")
    options = parser.parse_args()
    print("| maps | seggen, ms | panopticapi, ms | ratio |\n|---|---:|---:|---:|")
    for size, num_segments in (
        ((32, 32), 5),
        ((64, 64), 8),
        ((128, 128), 10),
        ((256, 256), 15),
        ((480, 640), 20),
        ((480, 640), 80),
        ((1024, 2048), 60),
    ):
        pixels = options.count * 480 * 640
        count = min(20 * options.count, max(2, pixels // (size[0] * size[1])))
        print(compare(size=size, num_segments=num_segments, count=count))


if __name__ == "__main__":
    main()
