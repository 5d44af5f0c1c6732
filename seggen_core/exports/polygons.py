"""Masks as polygons that give the same mask back.

A ring runs along the edges of pixels: pixel (x, y) covers [x, x + 1] x [y, y + 1], as in COCO. Its
corners lie `INSET` inside of the mask. COCO's rasteriser (pycocotools) ignores so little. A reader
that cuts coordinates to whole numbers and fills with the outline (OpenCV's fillPoly, as Ultralytics
uses it) gets the pixels of the outline, and so the same mask, too. One that rounds coordinates
(supervision) gets up to a pixel more at the right and at the bottom.

COCO's polygons have no holes: several polygons of one object are united. So a hole is joined with
the ring around it by a cut of no width. The cut runs through the mask.
"""

from collections.abc import Iterator

import numpy as np

INSET = 0.05
"""Distance between a ring and the pixel edges, in pixels."""

Ring = list[tuple[float, float]]
"""Corners (x, y); the mask is on the right of the way from each to the next, y pointing down."""


def mask_to_polygons(mask: np.ndarray, *, left: int = 0, top: int = 0) -> list[np.ndarray]:
    """Return one polygon for each 4-connected part of a mask, float64 [N, 2], N at least 4.

    Args:
        mask: bool [H, W].
        left, top: where the mask lies in its image, in pixels.
    """
    outer: list[Ring] = []
    holes: list[Ring] = []
    for ring in _trace(mask):
        (outer if _is_outer(ring) else holes).append(_inset(ring))
    # A hole's ray to the left meets a ring that begins further left, so it is joined before.
    for hole in sorted(holes, key=lambda ring: min(ring)[0]):
        _join_hole(outer, hole)
    return [np.array(ring) + np.array([left, top]) for ring in outer]


def join_polygons(polygons: list[np.ndarray]) -> np.ndarray:
    """Return one polygon of several, joined by cuts of no width between their nearest corners.

    Args:
        polygons: float64 [N, 2] each, at least one.
    """
    joined = polygons[0]
    for polygon in polygons[1:]:
        distances = np.abs(joined[:, None] - polygon[None]).sum(-1)
        i, j = np.unravel_index(distances.argmin(), distances.shape)
        there = np.concatenate([polygon[j:], polygon[: j + 1]])
        joined = np.concatenate([joined[: i + 1], there, joined[i:]])
    return joined


def _trace(mask: np.ndarray) -> Iterator[list[tuple[int, int]]]:
    """Yield the closed rings of pixel edges around a mask, as corners (x, y).

    Where two pixels meet at a corner only, the rings turn right, so that they stay apart.
    """
    padded = np.pad(mask, 1)
    inside, outside = padded[1:-1, 1:-1], ~padded
    # Each pixel has up to four edges: on top to the right, on the right down, and so on.
    sides = [
        (inside & outside[:-2, 1:-1], (0, 0), (1, 0)),
        (inside & outside[1:-1, 2:], (1, 0), (0, 1)),
        (inside & outside[2:, 1:-1], (1, 1), (-1, 0)),
        (inside & outside[1:-1, :-2], (0, 1), (0, -1)),
    ]
    leaving: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for has_edge, (dx, dy), direction in sides:
        rows, columns = np.nonzero(has_edge)
        for x, y in zip((columns + dx).tolist(), (rows + dy).tolist(), strict=True):
            leaving.setdefault((x, y), []).append(direction)
    walked = set()
    for start, directions in leaving.items():
        for first in directions:
            if (start, first) in walked:
                continue
            ring, point, direction = [], start, first
            while (point, direction) not in walked:
                walked.add((point, direction))
                point = (point[0] + direction[0], point[1] + direction[1])
                right, onward = (-direction[1], direction[0]), leaving[point]
                turned = right if right in onward else onward[0]
                if turned != direction:
                    ring.append(point)
                direction = turned
            yield ring


def _is_outer(ring: list[tuple[int, int]]) -> bool:
    """Return whether a ring has the mask inside: then it runs clockwise on the screen."""
    x, y = np.array(ring).T
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum()) > 0


def _inset(ring: list[tuple[int, int]]) -> Ring:
    """Move the corners into the mask."""
    moved = []
    for k, (x, y) in enumerate(ring):
        (x0, y0), (x1, y1) = ring[k - 1], ring[(k + 1) % len(ring)]
        # The mask is to the right of the edge that comes and of the edge that goes.
        dx = np.sign(y0 - y) + np.sign(y - y1)
        dy = np.sign(x - x0) + np.sign(x1 - x)
        moved.append((float(x + INSET * dx), float(y + INSET * dy)))
    return moved


def _join_hole(outer: list[Ring], hole: Ring) -> None:
    """Join a hole with the ring that the way to the left of it meets, in place."""
    # A leftmost edge, from corner k - 1 down to corner k.
    k = min(range(len(hole)), key=lambda i: max(hole[i][0], hole[i - 1][0]))
    x, y = hole[k][0], round(hole[k - 1][1]) + 0.5
    ring, i = max(
        (
            (ring, i)
            for ring in outer
            for i in range(len(ring))
            if ring[i][0] == ring[i - 1][0] < x
            and min(ring[i][1], ring[i - 1][1]) < y < max(ring[i][1], ring[i - 1][1])
        ),
        key=lambda edge: edge[0][edge[1]][0],
    )
    cut, start = (ring[i][0], y), (x, y)
    ring[i:i] = [cut, start, *hole[k:], *hole[:k], start, cut]
