"""COCO's polygons and run lengths as masks, pixel for pixel as its reference implementation (cocoapi, maskApi.c) draws them."""

from collections.abc import Sequence

import numpy as np

from seggen_core.errors import DatasetError

_SCALE = 5


def draw_segmentation(segmentation: object, *, height: int, width: int) -> np.ndarray:
    """Return the mask of one annotation, bool [height, width].

    Args:
        segmentation: a list of polygons [x0, y0, x1, y1, ...], or run lengths {"size": [H, W],
            "counts": list or str}.
        height, width: of the image.

    Raises:
        DatasetError: it is neither, or of another size.
    """
    if isinstance(segmentation, list) and segmentation:
        mask = np.zeros((height, width), bool)
        for polygon in segmentation:
            if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
                raise DatasetError(
                    f"a polygon is {str(polygon)[:60]}; expected at least three points as [x, y, x, y, ...]"
                )
            mask |= draw_polygon(polygon, height=height, width=width)
        return mask
    if isinstance(segmentation, dict) and "counts" in segmentation:
        if list(segmentation.get("size", ())) != [height, width]:
            raise DatasetError(
                f"run lengths are for size {segmentation.get('size')}; expected [{height}, {width}]"
            )
        counts = segmentation["counts"]
        return decode_runs(
            parse_counts(counts) if isinstance(counts, str) else counts, height=height, width=width
        )
    raise DatasetError(
        f"segmentation is {str(segmentation)[:60]}; expected polygons or run lengths"
    )


def draw_polygon(polygon: Sequence[float], *, height: int, width: int) -> np.ndarray:
    """Fill one polygon, bool [height, width] (maskApi.c, rleFrPoly).

    Its boundary is walked in fifths of a pixel; where it crosses the centre of a column, the
    filling of that column, from there down, is inverted.
    """
    # 1. Corners in fifths of a pixel, the first one again at the end. C rounds toward zero.
    points = (
        np.trunc(_SCALE * np.asarray(polygon, np.float64) + 0.5).astype(np.int64).reshape(-1, 2)
    )
    points = np.concatenate([points, points[:1]])

    # 2. Every point of the boundary.
    xs, ys = [], []
    for (x0, y0), (x1, y1) in zip(points[:-1].tolist(), points[1:].tolist(), strict=True):
        dx, dy = abs(x1 - x0), abs(y1 - y0)
        flip = (dx >= dy and x0 > x1) or (dx < dy and y0 > y1)
        if flip:
            x0, y0, x1, y1 = x1, y1, x0, y0  # noqa: PLW2901 (an edge is drawn from its lower end)
        steps = np.arange(max(dx, dy) + 1)
        steps = steps[::-1] if flip else steps
        if dx >= dy:
            slope = (y1 - y0) / dx if dx else 0.0
            xs.append(steps + x0)
            ys.append(np.trunc(y0 + slope * steps + 0.5).astype(np.int64))
        else:
            slope = (x1 - x0) / dy
            ys.append(steps + y0)
            xs.append(np.trunc(x0 + slope * steps + 0.5).astype(np.int64))
    u, v = np.concatenate(xs), np.concatenate(ys)

    # 3. Where it crosses column centres, and the first pixel below.
    moved = np.flatnonzero(u[1:] != u[:-1]) + 1
    x = (np.minimum(u[moved], u[moved - 1]) + 0.5) / _SCALE - 0.5
    kept = (np.floor(x) == x) & (x >= 0) & (x <= width - 1)
    x = x[kept].astype(np.int64)
    y = (np.minimum(v[moved], v[moved - 1])[kept] + 0.5) / _SCALE - 0.5
    y = np.ceil(np.clip(y, 0, height)).astype(np.int64)

    # 4. Inversions, summed down the columns.
    flips = np.bincount(x * height + y, minlength=width * height + 1)[: width * height]
    return (np.cumsum(flips) % 2).astype(bool).reshape(width, height).T


def decode_runs(counts: Sequence[int], *, height: int, width: int) -> np.ndarray:
    """Return the mask of run lengths, bool [height, width]: columns from the left, unset pixels first."""
    lengths = np.asarray(counts, np.int64)
    if lengths.ndim != 1 or (lengths < 0).any() or lengths.sum() != height * width:
        raise DatasetError(
            f"run lengths add up to {lengths.sum()}; expected {height * width} ({width}x{height})"
        )
    return np.repeat(np.arange(len(lengths)) % 2 == 1, lengths).reshape(width, height).T


def parse_counts(text: str) -> list[int]:
    """Decode COCO's compressed run lengths (maskApi.c, rleFrString): 5 bits a character, from the third on as differences."""
    counts: list[int] = []
    at = 0
    try:
        while at < len(text):
            value, shift, more = 0, 0, True
            while more:
                bits = ord(text[at]) - 48
                value |= (bits & 31) << shift
                more = bool(bits & 32)
                at, shift = at + 1, shift + 5
                if not more and bits & 16:
                    value -= 1 << shift
            counts.append(value + counts[-2] if len(counts) > 2 else value)
    except IndexError:
        raise DatasetError(
            f"compressed run lengths {text[:40]!r} end in the middle of a number"
        ) from None
    return counts
