"""One real sample as arrays: what every reader returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from seggen_core.errors import DatasetError
from seggen_core.taxonomy import IGNORE_INDEX

CHECK = "(run: seggen validate)"
"""How a message about a bad sample ends."""

RgbEncoding = Literal["ids", "colours"]
"""What an RGB mask holds: ids, in grey, or the colours of the classes."""


@dataclass(frozen=True)
class RawSample:
    """One real sample.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
        instance_map: uint16 [H, W], 0 where there is no instance; None where the dataset has none.
        metadata: JSON-ready facts about the sample. "instance_ids" lists the dataset's own ids of
            instances 1, 2, ...
        unlisted_share: share of the pixels that are ignored though nothing in the user's files says
            so: by a convention of the format alone, 0 to 1.
        colors: (r, g, b) that the mask's file gives each id in it; empty where it gives none.
        rgb_encoding: what the mask was taken to hold if it is RGB; None of others.
    """

    image: np.ndarray
    segmentation_map: np.ndarray
    instance_map: np.ndarray | None
    metadata: dict
    unlisted_share: float = 0.0
    colors: Mapping[int, tuple[int, int, int]] = field(default_factory=dict)
    rgb_encoding: RgbEncoding | None = None


def check_labelled(segmentation_map: np.ndarray, *, where: str) -> None:
    """Raise DatasetError where no pixel of uint8 [H, W] `segmentation_map` belongs to a class."""
    if segmentation_map.min() == IGNORE_INDEX:
        raise DatasetError(
            f"{where} has no labelled pixel; expected at least one that isn't ignored: "
            f"leave the sample out {CHECK}"
        )
