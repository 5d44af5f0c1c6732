"""Measures what boundary IoU adds to the scoring of a semantic segmenter.

    python benchmarks/boundary_speed.py --count 20

Draws pairs of predicted and true class maps with ragged borders and void, and counts them three
ways: the confusion matrix (mIoU), the boundaries of all classes at once
(`metrics.boundary.count_boundaries`), and each class eroded by itself, as Boundary IoU is defined.
Checks that both ways to count boundaries are equal, then prints the milliseconds of a pair.
"""

import argparse
import time
from collections.abc import Callable

import numpy as np
from scipy import ndimage

from seggen_core.metrics.boundary import boundary_width, count_boundaries
from seggen_core.metrics.semantic import confusion_matrix
from seggen_core.taxonomy import IGNORE_INDEX

ROUNDS = 5


def draw_pair(
    rng: np.random.Generator, *, size: tuple[int, int], num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return a prediction that differs from the truth in a third of its columns, and the truth."""
    height, width = size
    y, x = np.mgrid[:height, :width] + rng.normal(0, 0.5, (2, height, width))
    maps = []
    for _ in range(2):
        points = rng.random((20, 2)) * size
        cell = np.stack([(y - py) ** 2 + (x - px) ** 2 for py, px in points]).argmin(0)
        classes = rng.integers(0, num_classes, len(points))
        classes[0] = IGNORE_INDEX
        maps.append(classes.astype(np.uint8)[cell])
    truth, other = maps
    prediction = np.where(truth == IGNORE_INDEX, np.uint8(0), truth)
    columns = slice(0, width // 3)
    prediction[:, columns] = np.where(other == IGNORE_INDEX, np.uint8(0), other)[:, columns]
    return prediction, truth


def eroded(prediction: np.ndarray, truth: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return what `count_boundaries` returns, class by class."""
    width, counts = boundary_width(truth.shape), np.zeros((2, num_classes), np.int64)
    for k in np.union1d(np.unique(prediction), np.unique(truth)):
        if k == IGNORE_INDEX:
            continue
        rims = []
        for mask in (truth == k, prediction == k):
            inside = ndimage.binary_erosion(mask, np.ones((3, 3), bool), iterations=width)
            rims.append(mask & ~inside & (truth != IGNORE_INDEX))
        counts[:, k] = (rims[0] & rims[1]).sum(), (rims[0] | rims[1]).sum()
    return counts


def milliseconds(function: Callable[[], None], *, count: int) -> float:
    """Return the processor time of one of `count` pairs, the best of ROUNDS."""
    times = []
    for _ in range(ROUNDS):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return 1000 * min(times) / count


def compare(*, size: tuple[int, int], num_classes: int, count: int) -> str:
    """Return a row of the table."""
    rng = np.random.default_rng(0)
    pairs = [draw_pair(rng, size=size, num_classes=num_classes) for _ in range(count)]

    def confusions() -> None:
        for prediction, truth in pairs:
            confusion_matrix(prediction, truth=truth, num_classes=num_classes)

    def boundaries() -> np.ndarray:
        options = {"num_classes": num_classes, "width": boundary_width(size)}
        return sum(count_boundaries(p, truth=t, **options) for p, t in pairs)

    def erosions() -> np.ndarray:
        return sum(eroded(p, t, num_classes=num_classes) for p, t in pairs)

    np.testing.assert_array_equal(boundaries(), erosions())
    times = [milliseconds(f, count=count) for f in (confusions, boundaries, erosions)]
    cells = " | ".join(f"{value:.2f}" for value in times)
    return f"| {size[1]}x{size[0]}, {num_classes} classes | {cells} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=20, help="pairs of maps of each size")
    options = parser.parse_args()
    print("| maps | confusion matrix, ms | boundaries, ms | eroded by class, ms |")
    print("|---|---:|---:|---:|")
    for size, num_classes in (((64, 64), 8), ((512, 683), 150), ((1024, 2048), 19)):
        count = max(2, options.count * 64 * 64 // (size[0] * size[1]))
        print(compare(size=size, num_classes=num_classes, count=count))


if __name__ == "__main__":
    main()
