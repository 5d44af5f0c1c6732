"""Converts masks to the colour maps that generators see, and back.

Colour maps are semantic, or panoptic with outlines.
"""

from dataclasses import dataclass

import numpy as np

from seggen_core.colors.palette import class_palette
from seggen_core.colors.panoptic import (
    MAX_CLASSES,
    PanopticMap,
    decode_panoptic_colors,
    join_segments,
    panoptic_palette,
    panoptic_to_color,
)
from seggen_core.colors.semantic import color_to_mask, mask_to_color
from seggen_core.config import ColorMapKind
from seggen_core.errors import ConfigError
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy


@dataclass(frozen=True, eq=False)
class DecodedMasks:
    """B colour maps turned back into masks.

    Attributes:
        segmentation_maps: uint8 [B, H, W], train ids or IGNORE_INDEX.
        instance_maps: one per map, uint16 [H, W], 0 where there is no instance; None with semantic
            colour maps.
        ambiguous: bool [B, H, W], pixels that no colour explains; they are IGNORE_INDEX.
    """

    segmentation_maps: np.ndarray
    instance_maps: list[np.ndarray] | None
    ambiguous: np.ndarray


class ColorCode:
    """Masks to colour maps and back, for one taxonomy.

    Attributes:
        kind: "semantic" or "panoptic".
        palette: uint8 [num_classes, 3].
        things: bool [num_classes].
    """

    def __init__(self, taxonomy: Taxonomy, *, kind: ColorMapKind) -> None:
        """Raise ConfigError if the taxonomy has so many classes that edges get no colour."""
        if kind == "panoptic" and len(taxonomy) > MAX_CLASSES:
            raise ConfigError(
                f"dataset.color_map is 'panoptic', which codes {MAX_CLASSES} classes; there are "
                f"{len(taxonomy)}: set it to 'semantic'"
            )
        self.kind: ColorMapKind = kind
        self.palette = (
            class_palette(len(taxonomy)) if kind == "semantic" else panoptic_palette(len(taxonomy))
        )
        self.things = np.array([c.is_thing for c in taxonomy])

    def encode(
        self, segmentation_map: np.ndarray, *, instance_map: np.ndarray | None
    ) -> np.ndarray:
        """Return the colour map of one mask, uint8 [H, W, 3].

        Args:
            segmentation_map: uint8 [H, W].
            instance_map: uint16 [H, W]; semantic colour maps do not need it.

        Raises:
            ConfigError: instances are unknown and the colour maps are panoptic.
            DatasetError: the mask holds an id that the taxonomy does not have.
        """
        if self.kind == "semantic":
            return mask_to_color(segmentation_map, palette=self.palette)
        if instance_map is None:
            raise ConfigError(
                "dataset.color_map is 'panoptic', but a sample has no instance map, only classes; "
                "expected instances for every sample: set dataset.color_map to 'semantic'"
            )
        panoptic = PanopticMap(segmentation_map, instance_map)
        return panoptic_to_color(panoptic, palette=self.palette, things=self.things)

    def decode(self, color_maps: np.ndarray) -> DecodedMasks:
        """Decode colour maps, uint8 [B, H, W, 3]."""
        if self.kind == "semantic":
            decoded = [color_to_mask(color_map, palette=self.palette) for color_map in color_maps]
            return DecodedMasks(
                np.stack([d.segmentation_map for d in decoded]),
                None,
                np.stack([d.ambiguous for d in decoded]),
            )
        pixels = [
            decode_panoptic_colors(color_map, palette=self.palette) for color_map in color_maps
        ]
        maps = [join_segments(p.ids, things=self.things) for p in pixels]
        classes = np.stack([m.segmentation_map for m in maps])
        # `join_segments` gave fragments of ambiguous pixels to the segments around them.
        ambiguous = np.stack([p.ambiguous for p in pixels]) & (classes == IGNORE_INDEX)
        return DecodedMasks(classes, [m.instance_map for m in maps], ambiguous)
