"""Endless streams of scenes for pretraining the embedded foundation: images and captions, no masks.

The random streams have other names than those of the dataset's splits. So a stream never draws a
held-out scene.
"""

import numpy as np
from PIL import Image, ImageDraw

from seggen_core.project.rng import numpy_rng
from seggen_core.scenes.layout import sample_layout, training_caption
from seggen_core.scenes.painter import paint
from seggen_core.scenes.things import SUPERSAMPLE


def stream_scene(
    index: int, *, seed: int, size: int, single_object_share: float, stuff_only_share: float
) -> tuple[np.ndarray, str]:
    """Return scene `index` of the stream: image uint8 [size, size, 3] and its caption."""
    rng = numpy_rng(seed, "pretraining-stream", index)
    kind = rng.random()
    layout = sample_layout(
        rng,
        single_object=kind < single_object_share,
        stuff_only=kind > 1 - stuff_only_share,
    )
    return paint(layout, size=size).image, training_caption(layout, rng)


def flat_colour_picture(index: int, *, seed: int, size: int) -> np.ndarray:
    """Return uint8 [size, size, 3]: random overlapping shapes in flat, saturated colours.

    They teach the autoencoder sharp edges between arbitrary colours, as in colour-coded masks.
    """
    rng = numpy_rng(seed, "flat-colour-stream", index)

    def colour() -> tuple[int, ...]:
        if rng.random() < 0.7:  # a corner of the RGB cube, as the palettes of small taxonomies are
            return tuple(int(v) for v in rng.integers(0, 2, 3) * 255)
        return tuple(int(v) for v in rng.integers(0, 256, 3))

    side = size * SUPERSAMPLE
    picture = Image.new("RGB", (side, side), colour())
    pencil = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(3, 14))):
        cx, cy = rng.uniform(0, side, 2)
        rx, ry = side * np.exp(rng.uniform(np.log(0.02), np.log(0.5), 2))
        kind = rng.integers(3)
        if kind == 0:
            pencil.ellipse((cx - rx, cy - ry, cx + rx, cy + ry), fill=colour())
        elif kind == 1:
            pencil.rectangle((cx - rx, cy - ry, cx + rx, cy + ry), fill=colour())
        else:
            angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 8))))
            pencil.polygon(
                [(cx + rx * np.cos(a), cy + ry * np.sin(a)) for a in angles], fill=colour()
            )
    return np.asarray(picture)[
        SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE
    ].copy()
