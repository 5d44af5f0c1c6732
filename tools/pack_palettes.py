"""Search for class palettes: colours as far apart as possible. Some 20 minutes of one core.

`python tools/pack_palettes.py` writes seggen_core/colors/class_palettes.npy.
"""

from pathlib import Path

import numpy as np

from seggen_core.colors.palette import CORNERS, IGNORE_COLOR
from seggen_core.taxonomy import IGNORE_INDEX

FILE = Path(__file__).parent.parent / "seggen_core" / "colors" / "class_palettes.npy"


def smallest_distance(colors: np.ndarray, *, metric: np.ndarray | None = None) -> float:
    """Return the smallest distance between two of some colours.

    Args:
        colors: [N, 3].
        metric: positive definite [3, 3]; the distance is sqrt((a - b)^T metric (a - b)), Euclidean
            where there is none. With the inverse covariance of a noise it is the Mahalanobis
            distance, in standard deviations.
    """
    points = colors.astype(np.float64) @ _root(metric)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    return float(np.sqrt((squared + np.diag(np.full(len(points), np.inf))).min()))


def separate_colors(
    num_classes: int, *, metric: np.ndarray | None = None, num_steps: int = 500
) -> np.ndarray:
    """Search for colours that are as far apart as possible, uint8 [num_classes, 3].

    Maximises the smallest distance among all colours and grey by descending (sum of d^-p)^(1/p), p
    growing from 8 to 100, from three starts; then moves the closest pairs on the integer grid.
    Seconds for 255 colours; the same on one machine, but rounding differs between machines.

    Args:
        num_classes: 9 to 255.
        metric: as in `smallest_distance`; with the inverse covariance of an autoencoder's noise,
            colours that it confuses are moved further apart than others.
        num_steps: of the descent, per start.
    """
    root, extra = _root(metric), num_classes - len(CORNERS)
    held = np.array([*CORNERS, IGNORE_COLOR], np.float64)
    rng = np.random.default_rng(num_classes)
    starts = [
        _farthest_points(extra, held=held, root=root),
        _lattice(extra, held=held),
        rng.uniform(0, 255, (extra, 3)),
    ]
    candidates = [
        _polish(
            np.round(_descend(s, held=held, root=root, num_steps=num_steps)), held=held, root=root
        )
        for s in starts
    ]
    best = max(
        candidates,
        key=lambda colors: smallest_distance(np.concatenate([held, colors]), metric=metric),
    )
    return np.concatenate([held[:-1], best]).astype(np.uint8)


def _root(metric: np.ndarray | None) -> np.ndarray:
    """Return R with metric = R R^T, so that x -> x R makes the distance Euclidean."""
    return np.eye(3) if metric is None else np.linalg.cholesky(np.asarray(metric, np.float64))


def _farthest_points(count: int, *, held: np.ndarray, root: np.ndarray) -> np.ndarray:
    axis = np.round(np.linspace(0, 255, 18))
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), axis=-1).reshape(-1, 3)
    nearest = np.min([(((grid - color) @ root) ** 2).sum(1) for color in held], axis=0)
    chosen = []
    for _ in range(count):
        chosen.append(grid[nearest.argmax()])
        nearest = np.minimum(nearest, (((grid - chosen[-1]) @ root) ** 2).sum(1))
    return np.array(chosen)


def _lattice(count: int, *, held: np.ndarray) -> np.ndarray:
    """Return points of the coarsest face-centred cubic lattice that has enough of them.

    Points nearest to held ones are left out.
    """
    points = np.zeros((0, 3))
    side = 1
    while len(points) < count + len(held):
        side += 1
        steps = np.indices((side + 1,) * 3).reshape(3, -1).T
        points = steps[steps.sum(1) % 2 == 0] * (255 / side)
    clearance = np.min([((points - color) ** 2).sum(1) for color in held], axis=0)
    return points[np.argsort(-clearance, kind="stable")[:count]]


def _descend(
    start: np.ndarray, *, held: np.ndarray, root: np.ndarray, num_steps: int
) -> np.ndarray:
    """Minimise the energy by Adam; coordinates stay in [0, 255]."""
    colors, count = start.astype(np.float64).copy(), len(start)
    first, second = np.zeros_like(colors), np.zeros_like(colors)
    fixed = held @ root
    for step in range(num_steps):
        done = step / num_steps
        power, rate = 8 * 12.5**done, 4.0 * 0.02**done
        moved = colors @ root
        others = np.concatenate([moved, fixed])
        squared = (moved**2).sum(1)[:, None] + (others**2).sum(1) - 2 * moved @ others.T
        squared[np.arange(count), np.arange(count)] = np.inf
        squared = np.maximum(squared, 1.0)
        pull = (squared.min() / squared) ** (power / 2) / squared
        force = (pull.sum(1)[:, None] * moved - pull @ others) @ root.T
        force /= np.linalg.norm(force, axis=1).max() + 1e-30
        first = 0.8 * first + 0.2 * force
        second = 0.95 * second + 0.05 * force**2
        colors = np.clip(colors + rate * first / (np.sqrt(second) + 0.02), 0, 255)
    return colors


def _polish(colors: np.ndarray, *, held: np.ndarray, root: np.ndarray) -> np.ndarray:
    """Move ends of the closest pair to the best whole numbers within 2, while that helps."""
    moves = np.indices((5, 5, 5)).reshape(3, -1).T - 2.0
    colors = colors.copy()
    for _ in range(400):
        points = np.concatenate([colors, held])
        moved = points @ root
        squared = ((moved[:, None] - moved[None]) ** 2).sum(-1) + np.diag(
            np.full(len(points), np.inf)
        )
        smallest = squared.min()
        for k in dict.fromkeys(
            int(k) for k in np.argwhere(squared == smallest).ravel() if k < len(colors)
        ):
            tried = np.clip(colors[k] + moves, 0, 255)
            rest = np.delete(moved, k, axis=0)
            clearance = (((tried @ root)[:, None] - rest[None]) ** 2).sum(-1).min(1)
            if clearance.max() > smallest:
                colors[k] = tried[clearance.argmax()]
                break
        else:
            return colors
    return colors


def main() -> None:
    """Search all palettes and write them: some 20 minutes of one core."""
    rows = []
    for num_classes in range(len(CORNERS) + 1, IGNORE_INDEX + 1):
        palette = separate_colors(num_classes)
        rows.append(palette[len(CORNERS) :])
        print(num_classes, round(smallest_distance(palette), 1), flush=True)
    np.save(FILE, np.concatenate(rows), allow_pickle=False)


if __name__ == "__main__":
    main()
