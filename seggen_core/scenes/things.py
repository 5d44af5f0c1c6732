"""Draws the things of a scene (car, bus, tree, house, person) as polygons and ellipses.

All things share one palette of colours. So only the shape distinguishes a car from a bus or a
house.
"""

import numpy as np
from PIL import Image, ImageDraw

from seggen_core.scenes.layout import Thing

SUPERSAMPLE = 4
"""Factor by which scenes are painted larger before they are reduced."""

PAINTS = np.array([
    (196, 52, 48), (52, 96, 188), (228, 188, 60), (226, 226, 220), (70, 70, 78), (64, 140, 76),
    (150, 92, 56), (178, 120, 180), (232, 136, 52), (96, 172, 184), (128, 150, 60), (204, 168, 132),
])  # fmt: skip
"""Colours of things, int64 [12, 3], RGB."""


class Canvas:
    """Three aligned layers at supersampled size.

    Attributes:
        colour: RGB.
        glow: RGB of the lamp light, which is visible at night.
        index: number of the thing that each pixel shows, 0 for none.
    """

    def __init__(self, size: int) -> None:
        self.side = size * SUPERSAMPLE
        self.colour = Image.new("RGB", (self.side, self.side))
        self.glow = Image.new("RGB", (self.side, self.side))
        self.index = Image.new("L", (self.side, self.side))
        self._colour, self._glow, self._index = (
            ImageDraw.Draw(i) for i in (self.colour, self.glow, self.index)
        )

    def polygon(
        self,
        points: list[tuple[float, float]],
        fill: tuple,
        index: int | None,
        glow: tuple = (0, 0, 0),
    ) -> None:
        """Fill a polygon given in fractions; it hides what was below it, lamps included.

        Args:
            points: (x, y) of the corners.
            fill: its colour.
            index: of the thing; None leaves the index layer as it is.
            glow: its lamp light.
        """
        scaled = [(x * self.side, y * self.side) for x, y in points]
        self._colour.polygon(scaled, fill=fill)
        self._glow.polygon(scaled, fill=glow)
        if index is not None:
            self._index.polygon(scaled, fill=index)

    def ellipse(
        self, box: tuple[float, float, float, float], fill: tuple, index: int | None
    ) -> None:
        """Fill the ellipse in `box` (x0, y0, x1, y1), given in fractions."""
        scaled = [v * self.side for v in box]
        self._colour.ellipse(scaled, fill=fill)
        self._glow.ellipse(scaled, fill=(0, 0, 0))
        if index is not None:
            self._index.ellipse(scaled, fill=index)

    def rectangle(
        self, box: tuple, fill: tuple, index: int | None, glow: tuple = (0, 0, 0)
    ) -> None:
        """Fill the rectangle in `box` (x0, y0, x1, y1), given in fractions."""
        x0, y0, x1, y1 = box
        self.polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill, index, glow)


def _rgb(colour: np.ndarray) -> tuple[int, int, int]:
    return tuple(int(v) for v in np.clip(colour, 0, 255))  # type: ignore[return-value]


_LAMP = (255, 214, 130)


def _paint_car(
    canvas: Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
) -> None:
    x0, x1, y0, y1 = t.x - t.width / 2, t.x + t.width / 2, t.y - t.height, t.y
    w, h = t.width, t.height
    waist, floor = y0 + 0.48 * h, y1 - 0.14 * h
    front = rng.uniform(0.16, 0.28)
    cabin = [
        (x0 + 0.10 * w, waist),
        (x0 + 0.22 * w, y0),
        (x1 - (front + 0.1) * w, y0),
        (x1 - front * w, waist),
    ]
    body = [
        (x0, waist + 0.08 * h),
        (x0 + 0.06 * w, waist),
        (x1 - 0.10 * w, waist),
        (x1, waist + 0.16 * h),
        (x1, floor),
        (x0, floor),
    ]
    glass = [
        (x0 + 0.16 * w, waist - 0.02 * h),
        (x0 + 0.25 * w, y0 + 0.08 * h),
        (x1 - (front + 0.12) * w, y0 + 0.08 * h),
        (x1 - (front + 0.05) * w, waist - 0.02 * h),
    ]
    lamps = [
        (x1 - 0.05 * w, waist + 0.2 * h),
        (x1, waist + 0.2 * h),
        (x1, waist + 0.34 * h),
        (x1 - 0.05 * w, waist + 0.34 * h),
    ]
    if rng.random() < 0.5:  # the car looks the other way
        cabin, body, glass, lamps = (
            [(2 * t.x - x, y) for x, y in p] for p in (cabin, body, glass, lamps)
        )
    canvas.polygon(body, _rgb(paint), index)
    canvas.polygon(cabin, _rgb(paint * 0.9), index)
    canvas.polygon(glass, (150, 178, 196), index)
    canvas.polygon(lamps, (246, 240, 200), index, _LAMP)
    radius = 0.115 * w
    for centre in (x0 + 0.22 * w, x1 - 0.22 * w):
        canvas.ellipse((centre - radius, y1 - 2 * radius, centre + radius, y1), (28, 28, 30), index)
        canvas.ellipse(
            (centre - radius / 2, y1 - 1.5 * radius, centre + radius / 2, y1 - radius / 2),
            (150, 150, 152),
            index,
        )


def _paint_bus(
    canvas: Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
) -> None:
    x0, x1, y0, y1 = t.x - t.width / 2, t.x + t.width / 2, t.y - t.height, t.y
    w, h = t.width, t.height
    floor = y1 - 0.12 * h
    cut = 0.05 * w
    canvas.polygon(
        [(x0, y0 + cut), (x0 + cut, y0), (x1 - cut, y0), (x1, y0 + cut), (x1, floor), (x0, floor)],
        _rgb(paint),
        index,
    )
    if rng.random() < 0.6:
        canvas.rectangle((x0, y0 + 0.58 * h, x1, y0 + 0.68 * h), _rgb(255 - paint * 0.6), index)
    panes = int(rng.integers(4, 7))
    pitch = 0.92 * w / panes
    for i in range(panes):
        left = x0 + 0.04 * w + i * pitch
        canvas.rectangle(
            (left, y0 + 0.16 * h, left + 0.78 * pitch, y0 + 0.50 * h), (160, 186, 202), index, _LAMP
        )
    radius = 0.12 * h + 0.02 * w
    for centre in (x0 + 0.2 * w, x1 - 0.2 * w):
        canvas.ellipse((centre - radius, y1 - 2 * radius, centre + radius, y1), (26, 26, 28), index)


def _paint_tree(
    canvas: Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
) -> None:
    x0, x1, y0, y1 = t.x - t.width / 2, t.x + t.width / 2, t.y - t.height, t.y
    w, h = t.width, t.height
    canvas.rectangle((t.x - 0.07 * w, y0 + 0.5 * h, t.x + 0.07 * w, y1), (92, 64, 44), index)
    if rng.random() < 0.4:  # a conifer
        for k in range(3):
            top, base, half = y0 + 0.18 * k * h, y0 + (0.36 + 0.2 * k) * h, w * (0.28 + 0.11 * k)
            canvas.polygon(
                [(t.x, top), (t.x + half, base), (t.x - half, base)],
                _rgb(paint * (1 - 0.07 * k)),
                index,
            )
        return
    canvas.ellipse((x0 + 0.06 * w, y0, x1 - 0.06 * w, y0 + 0.66 * h), _rgb(paint * 0.92), index)
    for _ in range(5):
        cx, cy, r = (
            t.x + rng.uniform(-0.28, 0.28) * w,
            y0 + rng.uniform(0.18, 0.5) * h,
            rng.uniform(0.14, 0.24) * w,
        )
        canvas.ellipse(
            (cx - r, cy - r, cx + r, cy + r), _rgb(paint * rng.uniform(0.85, 1.12)), index
        )


def _paint_house(
    canvas: Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
) -> None:
    x0, x1, y0, y1 = t.x - t.width / 2, t.x + t.width / 2, t.y - t.height, t.y
    w, h = t.width, t.height
    flat = rng.random() < 0.2
    eaves = y0 + (0.08 if flat else rng.uniform(0.32, 0.45)) * h
    canvas.rectangle((x0 + 0.05 * w, eaves, x1 - 0.05 * w, y1), _rgb(paint), index)
    roof = PAINTS[int(rng.integers(len(PAINTS)))] * 0.8
    if flat:
        canvas.rectangle((x0, y0, x1, eaves), _rgb(roof), index)
    else:
        inset = rng.choice([0.0, 0.22])
        canvas.polygon(
            [(x0, eaves), (t.x - inset * w, y0), (t.x + inset * w, y0), (x1, eaves)],
            _rgb(roof),
            index,
        )
    columns = int(rng.integers(2, 4))
    pitch = 0.84 * w / columns
    door = int(rng.integers(columns))
    for i in range(columns):
        left = x0 + 0.08 * w + (i + 0.2) * pitch
        if i == door:
            canvas.rectangle(
                (left, eaves + 0.35 * (y1 - eaves), left + 0.5 * pitch, y1), _rgb(roof * 0.7), index
            )
        else:
            box = (
                left,
                eaves + 0.2 * (y1 - eaves),
                left + 0.6 * pitch,
                eaves + 0.58 * (y1 - eaves),
            )
            canvas.rectangle(
                box, (152, 176, 194), index, _LAMP if rng.random() < 0.7 else (0, 0, 0)
            )


def _paint_person(
    canvas: Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
) -> None:
    x0, x1, y0, y1 = t.x - t.width / 2, t.x + t.width / 2, t.y - t.height, t.y
    w, h = t.width, t.height
    skin = np.array([(236, 196, 166), (198, 146, 108), (120, 84, 62)][int(rng.integers(3))])
    legs = PAINTS[int(rng.integers(len(PAINTS)))] * 0.7
    stride = rng.uniform(0.05, 0.3) * w
    hip, shoulder = y0 + 0.56 * h, y0 + 0.22 * h
    for side in (-1, 1):
        foot = t.x + side * (0.16 * w + stride)
        canvas.polygon(
            [
                (t.x + side * 0.02 * w, hip),
                (t.x + side * 0.34 * w, hip),
                (foot + 0.17 * w, y1),
                (foot - 0.17 * w, y1),
            ],
            _rgb(legs),
            index,
        )
        arm = t.x + side * 0.42 * w
        canvas.polygon(
            [
                (t.x + side * 0.26 * w, shoulder),
                (arm, shoulder + 0.04 * h),
                (arm + side * 0.06 * w, hip),
                (arm - side * 0.14 * w, hip),
            ],
            _rgb(paint * 0.85),
            index,
        )
    canvas.polygon(
        [
            (x0 + 0.18 * w, shoulder),
            (x1 - 0.18 * w, shoulder),
            (x1 - 0.2 * w, hip + 0.03 * h),
            (x0 + 0.2 * w, hip + 0.03 * h),
        ],
        _rgb(paint),
        index,
    )
    head = 0.105 * h
    canvas.ellipse((t.x - 0.85 * head, y0, t.x + 0.85 * head, y0 + 2 * head), _rgb(skin), index)
    canvas.polygon(
        [
            (t.x - 0.8 * head, y0 + 0.7 * head),
            (t.x - 0.5 * head, y0),
            (t.x + 0.5 * head, y0),
            (t.x + 0.8 * head, y0 + 0.7 * head),
        ],
        _rgb(skin * 0.35),
        index,
    )


PAINTERS = {
    "car": _paint_car,
    "bus": _paint_bus,
    "tree": _paint_tree,
    "house": _paint_house,
    "person": _paint_person,
}
