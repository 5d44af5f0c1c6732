"""From a sample of any size to the size that the pipeline works on.

This module alone decides the size and the aspect of stored samples. The store takes any.
"""

from dataclasses import replace

import numpy as np
from PIL import Image

from seggen_core.config import DatasetConfig
from seggen_core.datasets.sample import RawSample

Box = tuple[float, float, float, float]
"""Left, top, right and bottom of a part of an image, in pixels."""


def fit_sample(sample: RawSample, *, config: DatasetConfig) -> RawSample:
    """Return `sample` at the size that `config.image_size` and `config.fit` ask for.

    The image is resized by Lanczos, the maps by nearest neighbour.

    "stretch" squashes the whole frame and can be undone, so that every labelled pixel is trained on
    and evaluated; "center_crop" keeps proportions and loses the sides. On CamVid the central square
    holds 57% of the pavement, 58% of the bicyclist, 69% of the car and 73% of the pedestrian
    pixels, which is why stretching is the default.

    Nearest neighbour keeps the area of thin classes without bias. A majority vote was measured on
    CamVid (92 training masks, stretched to 64 pixels): it raises the round-trip mIoU from 78.6 to
    79.1 but keeps 47% of the pole area (nearest: 94%) and loses poles entirely in 17% of the images
    that have them (nearest: 3%).
    """
    height, width = sample.segmentation_map.shape
    size = (config.image_size, config.image_size)
    if (width, height) == size:
        return sample
    box = (0.0, 0.0, float(width), float(height))
    return _resize(sample, size=size, box=box if config.fit == "stretch" else _center(*box[2:]))


def _center(width: float, height: float) -> Box:
    """Return the largest central square."""
    side = min(height, width)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def _resize(sample: RawSample, *, size: tuple[int, int], box: Box) -> RawSample:
    """Return the part `box` of a sample at `size` (width, height)."""

    def resize(array: np.ndarray, method: Image.Resampling) -> np.ndarray:
        return np.asarray(Image.fromarray(array).resize(size, method, box=box))

    instances = sample.instance_map
    nearest = Image.Resampling.NEAREST
    return replace(
        sample,
        image=resize(sample.image, Image.Resampling.LANCZOS),
        segmentation_map=resize(sample.segmentation_map, nearest),
        # Pillow resizes 32-bit integers; uint16 fits.
        instance_map=None
        if instances is None
        else resize(instances.astype(np.int32), nearest).astype(np.uint16),
    )
