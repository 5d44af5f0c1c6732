"""Paint a scene layout: image, semantic map and instance ids.

Scenes have textures, shadows, occlusion, light and noise. Images are anti-aliased; maps are not.
"""

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from seggen_core.scenes.layout import SCENES_TAXONOMY, SceneLayout
from seggen_core.scenes.things import PAINTERS, PAINTS, SUPERSAMPLE, Canvas

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


def _smooth_noise(rng: np.random.Generator, size: int, cells: int) -> np.ndarray:
    """Return bicubic value noise, float32 [size, size], roughly in [-1, 1]."""
    grid = Image.fromarray(rng.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(grid.resize((size, size), Image.Resampling.BICUBIC))


def _backdrop(
    layout: SceneLayout, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Paint sky, grass and road.

    Returns:
        Textured colours float32 [size, size, 3], train ids uint8 [size, size], and where the ground
        is, bool [size, size].
    """
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
    on_road, line = _road(layout, xx, yy, rng)
    road = np.where((line & (rng.random() < 0.8))[..., None], 224, road)
    stuff = np.where(~ground, _ID["sky"], np.where(on_road, _ID["road"], _ID["grass"])).astype(
        np.uint8
    )
    colours = np.where(~ground[..., None], sky, np.where(on_road[..., None], road, grass))
    return colours.astype(np.float32), stuff, ground


def _road(
    layout: SceneLayout, xx: np.ndarray, yy: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the masks of the road and of its line, bool [size, size] each.

    Args:
        layout: the scene.
        xx, yy: float32 [size, size], coordinates in fractions of the side.
        rng: of the scene.
    """
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
        on_road = line = np.zeros(xx.shape, bool)
    return on_road, line


def paint(layout: SceneLayout, *, size: int) -> PaintedScene:
    """Paint `layout` at `size` x `size` pixels.

    The scene is a function of the layout, whose seeds decide the looks.
    """
    rng = np.random.default_rng(layout.look)
    colours, stuff, ground = _backdrop(layout, size, rng)
    canvas, shadow = _draw_things(layout, size=size, lean=rng.uniform(-0.5, 0.5))
    image = _light_up(layout, colours=colours, ground=ground, canvas=canvas, shadow=shadow, rng=rng)
    centre = slice(SUPERSAMPLE // 2, None, SUPERSAMPLE)
    index_map = np.asarray(canvas.index)[centre, centre]
    ids = np.array([0] + [_ID[t.name] for t in layout.things], np.uint8)
    segmentation_map = np.where(index_map > 0, ids[index_map], stuff).astype(np.uint8)
    return PaintedScene(
        np.clip(image, 0, 255).astype(np.uint8), segmentation_map, index_map.astype(np.uint8)
    )


def _draw_things(layout: SceneLayout, *, size: int, lean: float) -> tuple[Canvas, Image.Image]:
    """Draw the things back to front, so that each hides what stands behind it.

    Args:
        layout: the scene.
        size: of the scene in pixels.
        lean: reach of shadows to the side, in heights of the thing.

    Returns:
        The canvas, and the shadows at `size`, 255 where one falls.
    """
    canvas = Canvas(size)
    shadow = Image.new("L", (size, size))
    pencil = ImageDraw.Draw(shadow)
    for index, thing in enumerate(layout.things, start=1):
        look = np.random.default_rng(thing.look)
        colour = PAINTS[int(look.integers(len(PAINTS)))] * look.uniform(0.8, 1.15)
        colour = colour + look.uniform(-12, 12, 3)
        PAINTERS[thing.name](canvas, thing, index, look, colour)
        box = (
            thing.x - thing.width * 0.55 + min(lean, 0) * thing.height,
            thing.y - 0.06 * thing.height - 0.015,
            thing.x + thing.width * 0.55 + max(lean, 0) * thing.height,
            thing.y + 0.09 * thing.height,
        )
        pencil.ellipse([v * size for v in box], fill=255)
    return canvas, shadow


def _light_up(
    layout: SceneLayout,
    *,
    colours: np.ndarray,
    ground: np.ndarray,
    canvas: Canvas,
    shadow: Image.Image,
    rng: np.random.Generator,
) -> np.ndarray:
    """Lay shadows and things over the backdrop, light them and add noise.

    Returns:
        float64 [size, size, 3], about 0 to 255.
    """
    size = len(colours)
    cover = canvas.index.point(lambda v: 255 if v else 0).reduce(SUPERSAMPLE)
    alpha = np.asarray(cover, np.float32)[..., None] / 255
    # Premultiplied: the canvas starts black.
    things = np.asarray(canvas.colour.reduce(SUPERSAMPLE), np.float32)
    glow = np.asarray(canvas.glow.reduce(SUPERSAMPLE), np.float32)

    # 1. Shadows fall on the ground only.
    strength = {"day": 0.45, "sunset": 0.5, "night": 0.3, "cloudy": 0.18}[layout.light]
    dark = np.asarray(shadow, np.float32)[..., None] / 255 * ground[..., None]
    surface = colours * (1 - strength * dark)
    shading = 1 + 0.06 * _smooth_noise(rng, size, 10)[..., None]

    # 2. Light falls on everything except the sky; lamps and windows glow in the dark.
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
    return image + rng.uniform(1.0, 4.0) * rng.standard_normal(image.shape)
