"""Paint a scene layout: image, semantic map and instance ids, with textures, shadows, occlusion, light and noise.

Things take their colours from one shared palette, so that shape and not colour tells a car from a
bus or a house. Pixels are painted at `SUPERSAMPLE` times the size and reduced: anti-aliased images,
crisp maps.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from seggen_core.scenes.layout import SCENES_TAXONOMY, SceneLayout, Thing

SUPERSAMPLE = 4

_PAINTS = np.array([
    (196, 52, 48), (52, 96, 188), (228, 188, 60), (226, 226, 220), (70, 70, 78), (64, 140, 76), (150, 92, 56), (178, 120, 180),
    (232, 136, 52), (96, 172, 184), (128, 150, 60), (204, 168, 132),
])  # fmt: skip
_ID = {c.name: c.train_id for c in SCENES_TAXONOMY}


@dataclass(frozen=True)
class PaintedScene:
    """Pixels of one scene.

    Attributes:
        image: uint8 [size, size, 3], RGB.
        segmentation_map: uint8 [size, size], train ids.
        instance_map: uint8 [size, size], 0 on stuff, 1..n on things (back to front).
    """

    image: np.ndarray
    segmentation_map: np.ndarray
    instance_map: np.ndarray


class _Canvas:
    """Three aligned layers at supersampled size: colour, lamp light (what glows at night) and object index."""

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
        """Fill a polygon given in fractions; it hides what was below it, lamps included. `index` None leaves the map."""
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


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return bicubic value noise, float32 [size, size], roughly in [-1, 1]."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


_LAMP = (255, 214, 130)


def _paint_car(
    canvas: _Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
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
    canvas: _Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
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
    canvas: _Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
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
    canvas: _Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
) -> None:
    x0, x1, y0, y1 = t.x - t.width / 2, t.x + t.width / 2, t.y - t.height, t.y
    w, h = t.width, t.height
    flat = rng.random() < 0.2
    eaves = y0 + (0.08 if flat else rng.uniform(0.32, 0.45)) * h
    canvas.rectangle((x0 + 0.05 * w, eaves, x1 - 0.05 * w, y1), _rgb(paint), index)
    roof = _PAINTS[int(rng.integers(len(_PAINTS)))] * 0.8
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
    canvas: _Canvas, t: Thing, index: int, rng: np.random.Generator, paint: np.ndarray
) -> None:
    x0, x1, y0, y1 = t.x - t.width / 2, t.x + t.width / 2, t.y - t.height, t.y
    w, h = t.width, t.height
    skin = np.array([(236, 196, 166), (198, 146, 108), (120, 84, 62)][int(rng.integers(3))])
    legs = _PAINTS[int(rng.integers(len(_PAINTS)))] * 0.7
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


_PAINTERS = {
    "car": _paint_car,
    "bus": _paint_bus,
    "tree": _paint_tree,
    "house": _paint_house,
    "person": _paint_person,
}


def _backdrop(
    layout: SceneLayout, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return textured stuff colours float32 [size, size, 3], stuff ids uint8 [size, size] and the ground mask."""
    yy, xx = np.mgrid[0:size, 0:size].astype(np.float32) / size
    wave = layout.horizon + 0.02 * _smooth_noise(rng, size, 4)[0][None, :]
    ground = yy >= wave
    fall = np.clip(yy / layout.horizon, 0, 1)[..., None]
    zenith, rim = {
        "day": ((88, 146, 214), (190, 216, 238)),
        "sunset": ((96, 84, 140), (246, 158, 92)),
        "night": ((14, 18, 44), (36, 40, 74)),
        "cloudy": ((150, 156, 164), (196, 200, 204)),
    }[layout.light]
    sky = np.array(zenith) * (1 - fall) + np.array(rim) * fall
    cloud = np.clip(_smooth_noise(rng, size, 5) + rng.uniform(-0.6, 0.3), 0, 1)[..., None]
    cloud_colour = {"day": 250, "sunset": 225, "night": 60, "cloudy": 228}[layout.light]
    sky = sky * (1 - 0.6 * cloud) + cloud_colour * 0.6 * cloud
    if layout.light == "night":
        sky = sky + 150 * (rng.random((size, size, 1)) > 0.988)
    grass_base = np.array(
        [(88, 140, 62), (128, 150, 70), (162, 150, 84), (62, 112, 58)][int(rng.integers(4))]
    )
    grass = (
        grass_base
        + 14 * _smooth_noise(rng, size, 12)[..., None]
        + 5 * rng.standard_normal((size, size, 1))
    )
    road_base = np.array(
        [(104, 104, 108), (126, 122, 116), (84, 84, 90), (150, 136, 118)][int(rng.integers(4))]
    )
    road = (
        road_base
        + 8 * _smooth_noise(rng, size, 8)[..., None]
        + 3 * rng.standard_normal((size, size, 1))
    )
    if layout.road == "band":
        top = rng.uniform(layout.horizon + 0.05, 0.75)
        slope, width = rng.uniform(-0.12, 0.12), rng.uniform(0.16, 0.3)
        across = yy - (top + slope * (xx - 0.5))
        on_road = (across > 0) & (across < width)
        line = (np.abs(across - width / 2) < 0.012) & ((xx * 8 + rng.uniform(0, 1)) % 1 < 0.55)
    elif layout.road == "perspective":
        near = np.clip((yy - layout.horizon) / (1 - layout.horizon), 0, 1)
        centre = rng.uniform(0.3, 0.7) * (1 - near) + rng.uniform(0.25, 0.75) * near
        half = 0.015 + rng.uniform(0.22, 0.42) * near
        on_road = np.abs(xx - centre) < half
        line = (np.abs(xx - centre) < 0.012 + 0.012 * near) & (
            (1 / (0.15 + near) * 2.2 + rng.uniform(0, 1)) % 1 < 0.5
        )
    else:
        on_road = line = np.zeros((size, size), bool)
    road = np.where((line & (rng.random() < 0.8))[..., None], 224, road)
    stuff = np.where(~ground, _ID["sky"], np.where(on_road, _ID["road"], _ID["grass"])).astype(
        np.uint8
    )
    colours = np.where(~ground[..., None], sky, np.where(on_road[..., None], road, grass))
    return colours.astype(np.float32), stuff, ground


def paint(layout: SceneLayout, *, size: int) -> PaintedScene:
    """Paint `layout` at `size` x `size` pixels (deterministic: all looks come from the seeds in the layout)."""
    rng = np.random.default_rng(layout.look)
    colours, stuff, ground = _backdrop(layout, size, rng)

    # 1. Things, back to front; each hides what stands behind it.
    canvas = _Canvas(size)
    shadow = Image.new("L", (size, size))
    pencil = ImageDraw.Draw(shadow)
    lean = rng.uniform(-0.5, 0.5)
    for index, thing in enumerate(layout.things, start=1):
        look = np.random.default_rng(thing.look)
        colour = _PAINTS[int(look.integers(len(_PAINTS)))] * look.uniform(0.8, 1.15) + look.uniform(
            -12, 12, 3
        )
        _PAINTERS[thing.name](canvas, thing, index, look, colour)
        left, right = (
            thing.x - thing.width * 0.55 + min(lean, 0) * thing.height,
            thing.x + thing.width * 0.55 + max(lean, 0) * thing.height,
        )
        pencil.ellipse(
            [
                v * size
                for v in (
                    left,
                    thing.y - 0.06 * thing.height - 0.015,
                    right,
                    thing.y + 0.09 * thing.height,
                )
            ],
            fill=255,
        )
    index_map = np.asarray(canvas.index)[
        SUPERSAMPLE // 2 :: SUPERSAMPLE, SUPERSAMPLE // 2 :: SUPERSAMPLE
    ]
    cover = canvas.index.point(lambda v: 255 if v else 0).reduce(SUPERSAMPLE)
    alpha = np.asarray(cover, np.float32)[..., None] / 255
    things = np.asarray(
        canvas.colour.reduce(SUPERSAMPLE), np.float32
    )  # premultiplied: the canvas starts black
    glow = np.asarray(canvas.glow.reduce(SUPERSAMPLE), np.float32)

    # 2. Shadows fall on the ground only; then things are laid over it.
    strength = {"day": 0.45, "sunset": 0.5, "night": 0.3, "cloudy": 0.18}[layout.light]
    dark = np.asarray(shadow, np.float32)[..., None] / 255 * ground[..., None]
    surface = colours * (1 - strength * dark)
    shading = 1 + 0.06 * _smooth_noise(rng, size, 10)[..., None]

    # 3. Light: the sky has its own colours, everything else is lit; lamps and windows glow in the
    # dark.
    tint, lamps = {
        "day": ((1.0, 1.0, 0.97), 0.0),
        "sunset": ((1.02, 0.78, 0.62), 0.25),
        "night": ((0.34, 0.38, 0.55), 0.85),
        "cloudy": ((0.82, 0.84, 0.87), 0.0),
    }[layout.light]
    light = np.array(tint, np.float32) * rng.uniform(0.88, 1.12)
    lit_surface = np.where(ground[..., None], surface * light, surface)
    image = lit_surface * (1 - alpha) + things * light * shading
    image = image * (1 - lamps * (glow > 40)) + lamps * glow
    image = image + rng.uniform(1.0, 4.0) * rng.standard_normal(image.shape)

    # 4. Maps.
    ids = np.array([0] + [_ID[t.name] for t in layout.things], np.uint8)
    segmentation_map = np.where(index_map > 0, ids[index_map], stuff).astype(np.uint8)
    return PaintedScene(
        np.clip(image, 0, 255).astype(np.uint8), segmentation_map, index_map.astype(np.uint8)
    )
