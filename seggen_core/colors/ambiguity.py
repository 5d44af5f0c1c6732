"""Decides which colours a drawn colour map shows, and which of them an ambiguous pixel gets.

SegGen takes the nearest colour of every pixel (A.2). That is exact on clean maps. But an
autoencoder blends the colours of both sides of an outline, and overshoots. With 150 classes, the
colours are 59 apart, so a blend of two colours is near a third one. Then the nearest colours of a
map that went through an autoencoder show dozens of classes that are not in the map. Therefore a
colour counts only if the map shows it as an area. A pixel between colours takes the nearest of the
colours around it.
"""

from collections.abc import Collection

import numpy as np

from seggen_core.colors.decoding import nearest_ids, palette_distances

BLOCKS = ((3, 0.35), (5, 0.5))
"""(side, share): a colour is present if squares with `side` pixels a side are within `share` of its
distance to the next colour. The small squares are close to the colour; the larger ones were shifted
as a whole.
"""
WIDE_MARGIN = 96
"""In 8-bit steps. Blends of other colours rarely have such a margin (docs/color_maps.md)."""
WIDE_PER_SIDE = 1 / 20
"""A colour is present if this many pixels per pixel of the side have it with WIDE_MARGIN."""
REACH = 2
"""Distance within which an ambiguous pixel looks for colours, in pixels along each axis."""


def resolve_colors(
    color_map: np.ndarray,
    *,
    colors: np.ndarray,
    block_share: float,
    always: Collection[int] = (),
    never_thin: Collection[int] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Decode a colour map to the ids of colours.

    1. Every pixel takes the nearest colour; of two equally near ones, that with the smaller id. If
       all pixels have exactly these colours, the map is decoded.
    2. The margin of a pixel is the distance from its colour to the colour nearest to that colour,
       minus twice the distance of the pixel to its colour. The second-best colour is further away
       than the best one by at least the margin.
    3. A colour is present if blocks of 3x3 pixels within 0.35 of its distance to the next colour,
       or of 5x5 within 0.5, lie at `block_share` of the map's pixels, or if as many pixels as a
       20th of the map's side have it by a margin of `WIDE_MARGIN`. The colours of 150 classes are
       59 apart, so there only blocks count. Those of 11 classes are 142 apart, and things one pixel
       thin keep theirs.
    4. Pixels with a present colour and a margin of at least 0 keep it. All others are ambiguous:
       they take the nearest of the colours that such pixels have within `REACH` pixels. Along an
       outline, these are the colours of its two sides.
    5. No colour explains an ambiguous pixel that has no such pixel around it.

    Args:
        color_map: uint8 [H, W, 3].
        colors: uint8 [2 to 256, 3].
        block_share: share of the map's pixels (at least one) that begin blocks of a present colour.
        always: ids of colours that count as present in every map: edges are thinner than any block.
        never_thin: ids of colours that need blocks: grey, since blends of all others come near it.

    Returns:
        ids, uint8 [H, W], and bool [H, W]: no colour explains the pixel; its id is the nearest's.
    """
    # 1. The nearest colours.
    ids = nearest_ids(color_map, palette=colors)
    distance = palette_distances(color_map, palette=colors, ids=ids)
    unexplained = np.zeros(ids.shape, bool)
    if not distance.any():
        return ids, unexplained

    # 2. Margins.
    spacing = _spacing(colors)
    margin = spacing[ids] - 2 * distance

    # 3. Colours that are present.
    blocks = _blocks_per_color(ids, margin=margin, spacing=spacing)
    wide = np.bincount(ids[margin >= WIDE_MARGIN], minlength=len(colors))
    wide[list(never_thin)] = 0
    enough_wide = wide >= max(1.0, WIDE_PER_SIDE * ids.size**0.5)
    present = enough_wide | (blocks >= max(1.0, block_share * ids.size))
    present[list(always)] = True

    # 4. Ambiguous pixels look around.
    ambiguous = (margin < 0) | ~present[ids]
    nearby = _nearest_around(color_map, colors=colors, ids=np.where(ambiguous, np.int16(-1), ids))
    unexplained[ambiguous] = nearby < 0
    ids[ambiguous] = np.where(nearby < 0, ids[ambiguous], nearby)
    return ids, unexplained


def _nearest_around(color_map: np.ndarray, *, colors: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return, for each pixel of id -1, the nearest colour among those of the pixels around it.

    Args:
        color_map: uint8 [H, W, 3].
        colors: uint8 [N, 3].
        ids: int16 [H, W], -1 for the M pixels that look around.

    Returns:
        int32 [M], in the order of `np.nonzero`: an id, or -1 where all pixels around are -1, too.
    """
    rows, columns = np.nonzero(ids < 0)
    pixels = color_map[rows, columns].astype(np.int32)
    width = ids.shape[1] + 2 * REACH
    around = np.pad(ids, REACH, constant_values=-1).ravel()
    first = rows * width + columns
    palette, nobody = colors.astype(np.int32), np.iinfo(np.int32).max
    best = np.full(len(rows), nobody, np.int32)
    for y in range(2 * REACH + 1):
        for x in range(2 * REACH + 1):
            near = around[first + (y * width + x)]
            apart = palette[near] - pixels
            score = ((apart * apart).sum(1) << 8) | near  # squared distance, then the smaller id
            np.minimum(best, score, out=best, where=near >= 0)
    return np.where(best == nobody, -1, best & 255)


def _blocks_per_color(ids: np.ndarray, *, margin: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    """Return the number of blocks of each colour, int64 [N]: the larger count of the two kinds."""
    counts = [
        _count_blocks(ids, counted=margin >= (1 - 2 * share) * spacing[ids], side=side)
        for side, share in BLOCKS
    ]
    size = len(spacing)
    return np.max([np.pad(count, (0, size - len(count))) for count in counts], axis=0)


def _spacing(colors: np.ndarray) -> np.ndarray:
    """Return each colour's distance to the colour nearest to it, float32 [N]."""
    points = colors.astype(np.int64)
    squared = ((points[:, None] - points[None]) ** 2).sum(-1)
    np.fill_diagonal(squared, np.iinfo(np.int64).max)
    return np.sqrt(squared.min(1)).astype(np.float32)


def _count_blocks(ids: np.ndarray, *, counted: np.ndarray, side: int) -> np.ndarray:
    """Count the squares of `side` x `side` pixels with one id whose pixels are all `counted`.

    Returns:
        int64, by id, up to the largest id of such a square.
    """
    whole, corner = counted, ids
    for axis in (1, 0):
        length = max(0, ids.shape[axis] - side + 1)
        # Runs of `side` pixels from each one on, along rows; then runs of such runs along columns.
        windows = [np.s_[:, k : k + length] if axis else np.s_[k : k + length] for k in range(side)]
        start = corner[windows[0]]
        runs = whole[windows[0]].copy()
        for window in windows[1:]:
            runs &= whole[window] & (corner[window] == start)
        whole, corner = runs, start
    return np.bincount(corner[whole])
