"""Exact nearest-colour decoding by a two-level table over the RGB cube.

The cube is cut into 32^3 cells of 8x8x8 colours. Where one palette colour is nearest to all 512
colours of a cell, the cell holds its id. Any other cell points to a block of 512 ids, computed over
the few colours that are nearest somewhere in it.

Squared distances to two colours differ by a linear function of the pixel. Its extremes over a cell
lie in the cell's corners, so "nearest to all of the cell, ties included" is decided exactly, in
integers, without looking at the 512 colours.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

_SIDE = 8
_CELLS = 256 // _SIDE
_BLOCK = _SIDE**3
_CHUNK = 1 << 15
"""Pixels looked up at a time: their indexes stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class ColorTable:
    """The nearest palette colour of every RGB colour; of equally near ones, the smaller id.

    The id of colour (r, g, b) is
    ``ids[(c >> 1) + ((r & 7) << 6 | (g & 7) << 3 | b & 7) * (c & 1)]`` where
    ``c = cells[(r >> 3) << 10 | (g >> 3) << 5 | b >> 3]``.

    Attributes:
        cells: int32 [32768]: twice the cell's position in `ids`, plus 1 if the cell has a block.
        ids: uint8 [256 + 512 * blocks]: first the ids 0 to 255, then the blocks.
    """

    cells: np.ndarray
    ids: np.ndarray


def color_table(palette: np.ndarray) -> ColorTable:
    """Return the table of a palette, uint8 [1 to 256, 3]; the last eight tables are cached."""
    colors = np.ascontiguousarray(palette, np.uint8)
    if colors.ndim != 2 or colors.shape[1] != 3 or not 1 <= len(colors) <= 256:
        raise ValueError(f"the palette is {list(np.shape(palette))}; expected [1 to 256, 3]")
    return _color_table(colors.tobytes())


@lru_cache(maxsize=8)  # up to 16 MB each
def _color_table(palette: bytes) -> ColorTable:
    colors = np.frombuffer(palette, np.uint8).reshape(-1, 3).astype(np.int32)
    candidates, counts = _candidates(colors)
    uniform = counts == 1
    cells = np.zeros(_CELLS**3, np.int32)
    first = np.cumsum(counts) - counts
    cells[uniform] = 2 * candidates[first[uniform]]
    mixed = np.flatnonzero(~uniform)
    cells[mixed] = 2 * (256 + _BLOCK * np.arange(len(mixed), dtype=np.int32)) + 1
    ids = np.empty((len(mixed) + 1) * _BLOCK, np.uint8)[_BLOCK - 256 :]
    ids[:256] = np.arange(256)
    blocks = ids[256:].reshape(-1, _BLOCK)
    for count in np.unique(counts[mixed]):
        at = np.flatnonzero(counts[mixed] == count)
        listed = candidates[first[mixed[at], None] + np.arange(count)]
        for part in np.array_split(
            np.arange(len(at)), -(-len(at) * int(count) // 1024)
        ):  # 2 MB at a time stay in the cache
            blocks[at[part]] = _nearest_in_cells(
                mixed[at[part]], colors=colors, candidates=listed[part]
            )
    for array in (cells, ids):
        array.setflags(write=False)
    return ColorTable(cells, ids)


def _candidates(colors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find the colours that may be nearest somewhere in a cell.

    Args:
        colors: int32 [C, 3].

    Returns:
        Their ids, int64 [P], cell after cell and ascending within each, and how many each cell has,
        int64 [32768]: 1 exactly where one colour is nearest to the whole cell.
    """
    # 1. Bounds of the squared distance between a colour and a cell: keep what may undercut the best
    # upper bound.
    low = (
        _SIDE * np.arange(_CELLS, dtype=np.int32)[:, None, None]
    )  # [cells of an axis, 1, 1] against [1, C, 3]
    least = np.maximum(np.maximum(low - colors, colors - (low + _SIDE - 1)), 0) ** 2
    most = np.maximum(np.abs(low - colors), np.abs(low + _SIDE - 1 - colors)) ** 2
    middle = (low + _SIDE // 2 - colors) ** 2

    def whole(axes: np.ndarray) -> np.ndarray:
        planes = axes[:, None, :, 0] + axes[None, :, :, 1]
        return (planes[:, :, None] + axes[None, None, :, :, 2]).reshape(_CELLS**3, -1)

    cells, ids = np.nonzero(whole(least) <= whole(most).min(1, keepdims=True))

    # 2. If the colour nearest to the middle beats a candidate in all eight corners, that candidate
    # is nearest nowhere.
    best = whole(middle).argmin(1)[cells]
    apart = colors[ids] - colors[best]
    squares = (colors.astype(np.int32) ** 2).sum(1)
    corner = _SIDE * np.stack([cells >> 10, cells >> 5 & 31, cells & 31], axis=1).astype(np.int32)
    margin = (
        squares[ids]
        - squares[best]
        - 2 * (apart * corner + (_SIDE - 1) * np.maximum(apart, 0)).sum(1)
    )
    possible = (margin < 0) | ((margin == 0) & (ids <= best)) | (ids == best)
    cells, ids = cells[possible], ids[possible]
    return ids, np.bincount(cells, minlength=_CELLS**3)


def _nearest_in_cells(
    cells: np.ndarray, *, colors: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """Return the nearest of some colours for every colour of some cells, uint8 [n, 512].

    Args:
        cells: int64 [n].
        colors: int32 [C, 3].
        candidates: int64 [n, m], ascending in each row, so that the first of equals is the smaller
            id.
    """
    inside = np.indices((_SIDE, _SIDE, _SIDE), dtype=np.float32).reshape(3, -1)
    corner = _SIDE * np.stack([cells >> 10, cells >> 5 & 31, cells & 31], axis=1).astype(np.int32)
    offset = corner[:, None] - colors[candidates]
    # |offset + inside|^2 without the |inside|^2 that all share; whole numbers below 2^24, so
    # float32 is exact.
    scores = (2 * offset).astype(np.float32) @ inside + (offset**2).sum(-1, dtype=np.int32)[
        ..., None
    ].astype(np.float32)
    best, nearest = scores[:, 0], np.repeat(candidates[:, :1].astype(np.uint8), _BLOCK, axis=1)
    for k in range(1, candidates.shape[1]):
        closer = scores[:, k] < best
        np.copyto(nearest, candidates[:, k, None].astype(np.uint8), where=closer)
        best = np.minimum(best, scores[:, k])
    return nearest


def nearest_ids(pixels: np.ndarray, *, palette: np.ndarray) -> np.ndarray:
    """Return the id of the nearest palette colour of every pixel; of two, the smaller id.

    Args:
        pixels: uint8 [..., 3].
        palette: uint8 [1 to 256, 3].

    Returns:
        uint8 [...].
    """
    table, flat = color_table(palette), pixels.reshape(-1, 3)
    out = np.empty(len(flat), np.uint8)
    for start in range(0, len(flat), _CHUNK):
        r, g, b = flat[start : start + _CHUNK].T.astype(np.int32)
        # "clip" spares a check of every index; none is out of range.
        cell = table.cells.take((r >> 3) << 10 | (g >> 3) << 5 | b >> 3, mode="clip")
        inside = ((r & 7) << 6 | (g & 7) << 3 | b & 7) & -(cell & 1)
        table.ids.take((cell >> 1) + inside, out=out[start : start + _CHUNK], mode="clip")
    return out.reshape(pixels.shape[:-1])


def palette_distances(pixels: np.ndarray, *, palette: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return each pixel's Euclidean distance in RGB to the palette colour of its id, float32 [...].

    Args:
        pixels: uint8 [..., 3].
        palette: uint8 [1 to 256, 3].
        ids: uint8 [...], below the palette's length.
    """
    flat, flat_ids, axes = pixels.reshape(-1, 3), ids.reshape(-1), palette.T.astype(np.int32)
    out = np.empty(len(flat), np.float32)
    for start in range(0, len(flat), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        squared = np.zeros(len(flat_ids[chunk]), np.int32)
        for channel, axis in zip(flat[chunk].T, axes, strict=True):
            apart = axis.take(flat_ids[chunk], mode="clip")
            apart -= channel
            squared += apart * apart
        np.sqrt(squared, out=out[chunk], casting="same_kind", dtype=np.float32)
    return out.reshape(pixels.shape[:-1])
