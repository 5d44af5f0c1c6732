"""Panoptic masks as colour maps with outlined segments, and back (SegGen A.2).

The paper outlines each segment "with a special edge color" and calls the inverse an open question.
Here the edge colour is white, which no class has. The inverse decodes every pixel, takes the
connected parts of things as instances, and gives edges and fragments to the nearest segment.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from seggen_core.colors.ambiguity import resolve_colors
from seggen_core.colors.palette import CORNERS, IGNORE_COLOR, class_palette
from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

MAX_CLASSES = IGNORE_INDEX - 1
"""Classes that an instance-aware colour map can tell apart: one colour is the edges'."""
EDGE_COLOR = CORNERS[-1]
PANOPTIC_BLOCK_SHARE = 1 / 20_000
"""`block_share` of `resolve_colors`: small, because outlines take a part of every segment."""
MIN_INSIDE_SHARE = 1 / 3
"""Segments of whose pixels an outline would leave no more than this share have none
(docs/color_maps.md).
"""
Outline = Literal["segments", "things"]


@dataclass(frozen=True, eq=False)
class PanopticMap:
    """Classes and instances of one image. A segment's pixels share class and instance id.

    Attributes:
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        instance_map: uint16 [H, W], 0 where there is no instance.
    """

    segmentation_map: np.ndarray
    instance_map: np.ndarray

    def segment_ids(self) -> np.ndarray:
        """Return segment ids, int32 [H, W]: class * 65536 + instance; void has one id."""
        ids = self.segmentation_map.astype(np.int32) << 16
        return np.where(self.segmentation_map == IGNORE_INDEX, ids, ids | self.instance_map)


def panoptic_palette(num_classes: int) -> np.ndarray:
    """Return the colours of train ids 0..num_classes-1, uint8 [num_classes, 3], without white.

    Up to seven classes have the same colours as in semantic maps.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise ValueError(
            f"num_classes must be 1 to {MAX_CLASSES}, as edges need a colour; got {num_classes}"
        )
    colors = class_palette(max(num_classes + 1, len(CORNERS)))
    return np.delete(colors, len(CORNERS) - 1, axis=0)[:num_classes]


def panoptic_to_color(
    panoptic: PanopticMap,
    *,
    palette: np.ndarray,
    things: np.ndarray,
    edge_width: int = 2,
    outline: Outline = "segments",
) -> np.ndarray:
    """Paint classes in their colours, borders between segments white and ignored pixels grey.

    Thin segments, of which an outline would leave no more than `MIN_INSIDE_SHARE`, keep their
    colour, and their neighbours have no outline towards them, unless they are of the same class.

    Args:
        panoptic: the segments.
        palette: uint8 [num_classes, 3], from `panoptic_palette`.
        things: bool [num_classes].
        edge_width: width of outlines in pixels: 1 lies on one side of a border, 2 on both.
        outline: "segments" draws all borders (SegGen A.2), "things" leaves out those between stuff
            and stuff.

    Returns:
        uint8 [H, W, 3].

    Raises:
        DatasetError: a class is neither in the palette nor IGNORE_INDEX.
    """
    from scipy import ndimage

    classes, ids = panoptic.segmentation_map, panoptic.segment_ids()
    unknown = sorted({int(c) for c in np.unique(classes)} - {*range(len(palette)), IGNORE_INDEX})
    if unknown:
        raise DatasetError(
            f"mask holds ids {unknown}; expected 0-{len(palette) - 1} or {IGNORE_INDEX}"
        )
    edges = _borders(ids, width=edge_width)
    if outline == "things":
        is_thing = np.zeros(256, bool)
        is_thing[: len(things)] = things
        edges &= ndimage.maximum_filter(is_thing[classes], size=edge_width + 1, mode="nearest")
    thin = _thin_segments(ids, edges=edges)
    if thin.any():
        edges &= ~thin & _borders_beside(thin, ids=ids, width=edge_width)
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)], table[IGNORE_INDEX] = palette, IGNORE_COLOR
    color_map = table[classes]
    color_map[edges] = EDGE_COLOR
    return color_map


def _borders(ids: np.ndarray, *, width: int) -> np.ndarray:
    """Return the pixels of an outline of `width` pixels, bool [H, W]; `ids` are segments [H, W]."""
    from scipy import ndimage

    window = {"size": width + 1, "mode": "nearest"}
    return ndimage.maximum_filter(ids, **window) != ndimage.minimum_filter(ids, **window)


def _thin_segments(ids: np.ndarray, *, edges: np.ndarray) -> np.ndarray:
    """Return the pixels of the segments of which `edges`, bool [H, W], leave too little."""
    segments, position = np.unique(ids, return_inverse=True)
    position = position.reshape(ids.shape)
    areas = np.bincount(position.ravel(), minlength=len(segments))
    inside = np.bincount(position.ravel(), weights=~edges.ravel(), minlength=len(segments))
    return (inside <= MIN_INSIDE_SHARE * areas)[position]


def _borders_beside(thin: np.ndarray, *, ids: np.ndarray, width: int) -> np.ndarray:
    """Return the outlines that would be there without thin segments, bool [H, W].

    Outlines between segments of one class are among them: nothing else tells those apart.
    """
    from scipy import ndimage

    others = ids
    if not thin.all():
        # Thin segments become a part of the nearest other one.
        nearest = ndimage.distance_transform_edt(thin, return_distances=False, return_indices=True)
        others = ids[tuple(nearest)]
    edges = _borders(others, width=width)
    # The window of `_borders`: for an even size, SciPy's reaches further up and left.
    before, after = (width + 1) // 2, width // 2
    around = np.pad(ids, ((before, after), (before, after)), mode="edge")
    windows = np.lib.stride_tricks.sliding_window_view(around, (width + 1, width + 1))
    return edges | (
        (windows >> 16 == (ids >> 16)[..., None, None]) & (windows != ids[..., None, None])
    ).any((-2, -1))


@dataclass(frozen=True, eq=False)
class PanopticColors:
    """A colour map with outlines, decoded pixel by pixel.

    Attributes:
        ids: uint8 [H, W]: train ids, `num_classes` for edges, `num_classes + 1` for ignored pixels.
        ambiguous: bool [H, W], pixels that no colour explains; they are ignored.
    """

    ids: np.ndarray
    ambiguous: np.ndarray


def decode_panoptic_colors(color_map: np.ndarray, *, palette: np.ndarray) -> PanopticColors:
    """Decode each pixel to a class, an edge (white) or void (grey, or explained by no colour).

    Args:
        color_map: uint8 [H, W, 3].
        palette: uint8 [num_classes, 3], from `panoptic_palette`.
    """
    colors = np.concatenate([palette, np.array([EDGE_COLOR, IGNORE_COLOR], np.uint8)])
    edge, void = len(palette), len(palette) + 1
    ids, ambiguous = resolve_colors(
        color_map, colors=colors, block_share=PANOPTIC_BLOCK_SHARE, always=[edge], never_thin=[void]
    )
    ids[ambiguous] = void
    return PanopticColors(ids, ambiguous)


def color_to_panoptic(
    color_map: np.ndarray, *, palette: np.ndarray, things: np.ndarray, min_area: int | None = None
) -> PanopticMap:
    """Recover classes and instances from a colour map, uint8 [H, W, 3], with outlines.

    `decode_panoptic_colors` decodes the pixels and `join_segments` makes segments of them. The
    arguments are theirs.
    """
    ids = decode_panoptic_colors(color_map, palette=palette).ids
    return join_segments(ids, things=things, min_area=min_area)


def join_segments(
    ids: np.ndarray, *, things: np.ndarray, min_area: int | None = None
) -> PanopticMap:
    """Make segments of decoded pixels.

    1. Each connected part of a class (pixels that share a side) is a segment. Ignored pixels count
       as a class here.
    2. Parts below `min_area`, and thin ones, which hold no 2x2 square, are no segments: blends of
       two colours look like a third.
    3. Their pixels and those of edges go to the nearest segment (Euclidean distance).
    4. Parts of things are numbered 1, 2, ... in reading order; parts of one stuff class are one
       segment.

    Args:
        ids: uint8 [H, W]: train ids, `num_classes` for edges, `num_classes + 1` for ignored pixels.
        things: bool [num_classes].
        min_area: smallest segment in pixels; None is a 5000th of the map, at least 8
            (docs/color_maps.md). If no part is that large, the largest part stays.
    """
    from scipy import ndimage

    if min_area is None:
        min_area = max(8, ids.size // 5000)
    edge, void = len(things), len(things) + 1

    # 1. Connected parts.
    parts, class_of = _connected_parts(ids, edge=edge)
    if len(class_of) == 1:  # white all over
        return PanopticMap(
            np.full(ids.shape, IGNORE_INDEX, np.uint8), np.zeros(ids.shape, np.uint16)
        )

    # 2. Fragments.
    areas = np.bincount(parts.ravel(), minlength=len(class_of))
    areas[0] = 0
    is_segment = (areas >= min_area) & _holds_a_square(parts, num_parts=len(class_of))
    if not is_segment.any():
        is_segment[areas.argmax()] = True

    # 3. Edges and fragments go to the nearest segment.
    nearest = ndimage.distance_transform_edt(
        ~is_segment[parts], return_distances=False, return_indices=True
    )
    parts = parts[tuple(nearest)]

    # 4. Numbers.
    is_thing = np.append(np.asarray(things, bool), [False, False])
    part_classes = np.array(class_of)
    segments, first = np.unique(parts, return_index=True)
    instances = np.zeros(len(class_of), np.uint16)
    countable = segments[np.argsort(first)]
    countable = countable[is_thing[part_classes[countable]]]
    instances[countable] = np.arange(1, len(countable) + 1)
    classes = np.where(part_classes == void, IGNORE_INDEX, part_classes).astype(np.uint8)
    return PanopticMap(classes[parts], instances[parts])


def _connected_parts(ids: np.ndarray, *, edge: int) -> tuple[np.ndarray, list[int]]:
    """Return the connected parts of all classes, int32 [H, W], numbered from 1, and their classes.

    Edges are part 0.
    """
    from scipy import ndimage

    parts, class_of = np.zeros(ids.shape, np.int32), [edge]
    for class_id in np.unique(ids):
        if class_id != edge:
            labels, num_labels = ndimage.label(ids == class_id)
            parts += np.where(labels > 0, labels + len(class_of) - 1, 0).astype(np.int32)
            class_of += [int(class_id)] * num_labels
    return parts, class_of


def _holds_a_square(parts: np.ndarray, *, num_parts: int) -> np.ndarray:
    """Return which parts hold a square of 2x2 pixels, bool [num_parts]."""
    thick = np.zeros(num_parts, bool)
    corner = parts[:-1, :-1]
    same = (corner == parts[1:, :-1]) & (corner == parts[:-1, 1:]) & (corner == parts[1:, 1:])
    thick[corner[same]] = True
    return thick
