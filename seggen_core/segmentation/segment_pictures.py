"""Pictures of segments and instances, with outlines."""

from typing import TYPE_CHECKING, Any

import numpy as np

from seggen_core.colors.palette import IGNORE_COLOR
from seggen_core.colors.panoptic import PanopticMap, panoptic_to_color
from seggen_core.reports.grids import overlay
from seggen_core.taxonomy import IGNORE_INDEX

if TYPE_CHECKING:
    from seggen_core.metrics.instance import Instances

MIN_SHOWN = 0.5
"""Score from which on instances are drawn."""

_SIDE_OF_A_PIXEL = 400
"""Outlines get a pixel wider with so many pixels of the picture's short side."""


def painted_segments(predicted: dict[str, Any]) -> PanopticMap:
    """Return what `predict_segments.predict_sample` gave as one map, for pictures.

    Instances are painted over each other, the best in front; those with low scores are left out.
    """
    if predicted.get("panoptic") is not None:
        panoptic: PanopticMap = predicted["panoptic"]
        return panoptic
    instances: Instances = predicted["instances"]
    assert instances.scores is not None
    classes = np.full(instances.masks.shape[1:], IGNORE_INDEX, np.uint8)
    numbers = np.zeros(classes.shape, np.uint16)
    for instance_id, place in enumerate(np.argsort(instances.scores), start=1):
        if instances.scores[place] >= MIN_SHOWN:
            classes[instances.masks[place]] = instances.class_ids[place]
            numbers[instances.masks[place]] = instance_id
    return PanopticMap(classes, numbers)


def segment_overlay(
    image: np.ndarray,
    segments: PanopticMap,
    *,
    palette: np.ndarray,
    things: np.ndarray,
    opacity: float,
) -> np.ndarray:
    """Return an image with the colours of its segments and their outlines, uint8 [H, W, 3].

    Args:
        image: uint8 [H, W, 3].
        segments: of the image; where there is none, the image stays as it is.
        palette: uint8 [C, 3].
        things: bool [C].
        opacity: of the colours, in [0, 1].
    """
    width = 1 + min(image.shape[:2]) // _SIDE_OF_A_PIXEL
    colors = panoptic_to_color(segments, palette=palette, things=things, edge_width=width)
    is_empty = (segments.segmentation_map == IGNORE_INDEX) & (colors == IGNORE_COLOR).all(-1)
    return np.where(is_empty[..., None], image, overlay(image, colors, opacity))
