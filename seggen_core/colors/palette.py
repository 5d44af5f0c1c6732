"""The colours of classes, as far apart in the RGB cube as possible.

The first eight colours are the corners of the cube, the largest set at mutual distance 255. A
blurred edge between two of them passes near no third colour until it is half of each. Mid grey
stays free: it shows ignored pixels, and half-blends of opposite corners fall there.

More colours are a packing problem. `tools/pack_palettes.py` holds the corners and grey and moves
the other colours until the smallest distance stops growing. That takes seconds and rounds
differently on different machines, so the results for 9 to 255 classes are shipped in
`class_palettes.npy`.

Palettes of different sizes share no prefix, because prefix-stable palettes waste a fifth of the
distance. A model of another number of classes is retrained anyway.
"""

from functools import cache
from pathlib import Path

import numpy as np

from seggen_core.taxonomy import IGNORE_INDEX

CORNERS = (
    (0, 0, 255),
    (0, 255, 0),
    (0, 0, 0),
    (255, 0, 0),
    (255, 255, 0),
    (0, 255, 255),
    (255, 0, 255),
    (255, 255, 255),
)
IGNORE_COLOR = (128, 128, 128)
_FILE = Path(__file__).with_name("class_palettes.npy")


@cache
def _shipped() -> np.ndarray:
    return np.load(_FILE, allow_pickle=False)


def class_palette(num_classes: int) -> np.ndarray:
    """Return the colours of train ids 0..num_classes-1, uint8 [num_classes, 3].

    The first eight are the corners of the cube, the others are packed between them.
    """
    if not 1 <= num_classes <= IGNORE_INDEX:
        raise ValueError(f"num_classes must be 1 to {IGNORE_INDEX}, got {num_classes}")
    corners = np.array(CORNERS[:num_classes], np.uint8)
    if num_classes <= len(CORNERS):
        return corners
    extra = num_classes - len(CORNERS)
    start = extra * (extra - 1) // 2
    return np.concatenate([corners, _shipped()[start : start + extra]])
