"""Pictures of how masks came about: image, attention maps and mask, a column for each sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from seggen_core.reports.grids import image_grid, overlay, picture_scale
from seggen_core.store.records import Record, pack_array, unpack_array
from seggen_core.taxonomy import IGNORE_INDEX

NUM_PICTURES = 8
_PICTURE_SIDE = 128
_TINT = np.array([255, 40, 40], np.uint8)


@dataclass(frozen=True, eq=False)
class MaskStory:
    """What one sample's mask came from.

    Attributes:
        maps: uint8 [s, s], grey values, by name, in the order they are shown.
        labels: uint8 [H, W], see `to_segmentation_map`.
    """

    maps: dict[str, np.ndarray]
    labels: np.ndarray

    @classmethod
    def from_soft_maps(cls, maps: Mapping[str, np.ndarray], labels: np.ndarray) -> "MaskStory":
        """Take maps float32 [s, s] in [0, 1]."""
        grey = {name: np.rint(values * 255).astype(np.uint8) for name, values in maps.items()}
        return cls(grey, labels)

    def to_record(self) -> Record:
        """Return the record that `from_record` reads."""
        arrays = {"labels": self.labels, **self.maps}
        return Record({}, {name: pack_array(array) for name, array in arrays.items()})

    @classmethod
    def from_record(cls, record: Record) -> "MaskStory":
        """Inverse of `to_record`."""
        arrays = {name: unpack_array(data) for name, data in record.members.items()}
        labels = arrays.pop("labels")
        return cls(arrays, labels)


def draw_previews(images: Sequence[np.ndarray], stories: Sequence[MaskStory]) -> Image.Image:
    """Lay samples out: a row for each kind of picture, a column for each sample.

    Args:
        images: uint8 [H, W, 3] each.
        stories: of each image. What is outside of the classes is darkened in the last row, what is
            uncertain is tinted.
    """
    columns = [_column(image, story) for image, story in zip(images, stories, strict=True)]
    rows = [[column[name] for column in columns] for name in columns[0]]
    scale = picture_scale(rows, side=_PICTURE_SIDE)
    return image_grid(rows, scale=scale, labels=list(columns[0]))


def _column(image: np.ndarray, story: MaskStory) -> dict[str, np.ndarray]:
    panels = {"image": image}
    for name, values in story.maps.items():
        grey = Image.fromarray(values).resize(image.shape[1::-1], Image.Resampling.NEAREST)
        panels[name.replace("_", " ")] = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    tinted = overlay(image, np.broadcast_to(_TINT, image.shape), 0.5)
    shown = np.where((story.labels == 0)[..., None], image // 4, image)
    panels["mask"] = np.where((story.labels == IGNORE_INDEX)[..., None], tinted, shown)
    return panels
