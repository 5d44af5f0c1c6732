"""Samples the layouts of procedural scenes, and writes their captions.

A layout depends only on a NumPy generator; `scenes.painter` turns it into pixels. All
coordinates are fractions of the image side, y pointing down.
"""

from dataclasses import asdict, dataclass, field

import numpy as np

from seggen_core.project.phrases import count_phrase, join_phrases
from seggen_core.taxonomy import Taxonomy

SCENES_TAXONOMY = Taxonomy.from_names(
    stuff=["sky", "grass", "road"], things=["car", "bus", "tree", "house", "person"]
)
"""The eight classes of the embedded dataset."""

LIGHTS = ("day", "sunset", "night", "cloudy")
LIGHT_PHRASES = {
    "day": "in daylight",
    "sunset": "at sunset",
    "night": "at night",
    "cloudy": "on a cloudy day",
}
THINGS = tuple(c.name for c in SCENES_TAXONOMY if c.is_thing)

# Full-size extent (width, height) of a thing that stands at the bottom edge, as (low, high)
# fractions of the image side.
_EXTENT = {
    "car": ((0.30, 0.44), (0.15, 0.20)),
    "bus": ((0.42, 0.62), (0.24, 0.32)),
    "tree": ((0.24, 0.40), (0.42, 0.66)),
    "house": ((0.36, 0.56), (0.34, 0.50)),
    "person": ((0.10, 0.15), (0.34, 0.46)),
}


@dataclass(frozen=True)
class Thing:
    """One object of a scene. Lengths are shares of the image's side."""

    name: str
    """Its class."""
    x: float
    """Centre of its foot."""
    y: float
    """Baseline of its foot."""
    width: float
    """Its extent."""
    height: float
    """Its extent."""
    look: int
    """Seed of its look."""


@dataclass(frozen=True)
class SceneLayout:
    """The full description of one scene; `to_json` makes it JSON-ready."""

    light: str
    horizon: float
    road: str
    things: list[Thing] = field(default_factory=list)
    look: int = 0

    def to_json(self) -> dict:
        """Return plain dicts and lists: the scene's description, stored with the sample."""
        return asdict(self)

    def counts(self) -> dict[str, int]:
        """Number of things per class name, in order of first appearance from the front."""
        counted: dict[str, int] = {}
        for thing in reversed(self.things):
            counted[thing.name] = counted.get(thing.name, 0) + 1
        return counted


def _thing(rng: np.random.Generator, *, name: str, horizon: float, solo: bool, look: int) -> Thing:
    (w_low, w_high), (h_low, h_high) = _EXTENT[name]
    y = rng.uniform(horizon + 0.25, 0.97) if solo else rng.uniform(horizon + 0.04, 0.98)
    # Perspective: a thing at the horizon has 0.42 of its full size; a lone thing fills more of the
    # picture.
    depth = 0.42 + 0.58 * (y - horizon) / (1.0 - horizon)
    scale = depth * (rng.uniform(1.0, 1.5) if solo else rng.uniform(0.85, 1.1))
    width = min(0.9, rng.uniform(w_low, w_high) * scale)
    height = min(y - 0.02, rng.uniform(h_low, h_high) * scale)
    return Thing(
        name,
        float(rng.uniform(0.08, 0.92) if not solo else rng.uniform(0.3, 0.7)),
        float(y),
        float(width),
        float(height),
        look,
    )


def sample_layout(
    rng: np.random.Generator, *, single_object: bool = False, stuff_only: bool = False
) -> SceneLayout:
    """Draw a layout.

    Args:
        rng: source of all choices.
        single_object: draw one large thing near the centre, as for 'a photo of a car'.
        stuff_only: draw no things.
    """
    horizon = float(rng.uniform(0.30, 0.55))
    light = LIGHTS[int(rng.choice(4, p=[0.4, 0.2, 0.2, 0.2]))]
    road = ["none", "band", "perspective"][int(rng.choice(3, p=[0.30, 0.35, 0.35]))]
    if stuff_only:
        return SceneLayout(light, float(rng.uniform(0.15, 0.7)), road, [], int(rng.integers(2**31)))
    num_things = 1
    if not single_object:
        num_things = int(rng.choice([1, 2, 3, 4, 5], p=[0.10, 0.25, 0.30, 0.22, 0.13]))
    # A scene repeats classes more often than chance would: a row of trees, a group of people.
    names: list[str] = []
    for _ in range(num_things):
        repeat = bool(names) and rng.random() < 0.3
        names.append(names[-1] if repeat else THINGS[int(rng.integers(len(THINGS)))])
    things = [
        _thing(rng, name=n, horizon=horizon, solo=single_object, look=int(rng.integers(2**31)))
        for n in names
    ]
    things.sort(key=lambda t: t.y)
    return SceneLayout(light, horizon, road, things, int(rng.integers(2**31)))


def compose_caption(*, things: dict[str, int], stuff: list[str], suffix: str = "") -> str:
    """Write a caption in the grammar of the `class_list` captioner.

    The embedded foundation's training captions have the same grammar: "a photo of a car and two
    trees on grass and road under sky at night". Counted things come first, then grounds after "on",
    then sky after "under". Without things it is "a photo of grass and sky".
    """
    grounds = [s for s in stuff if s != "sky"]
    sky = [s for s in stuff if s == "sky"]
    if things:
        text = "a photo of " + join_phrases([count_phrase(n, c) for n, c in things.items()])
        if grounds:
            text += " on " + join_phrases(grounds)
        if sky:
            text += " under sky"
    else:
        text = "a photo of " + join_phrases(grounds + sky)
    return f"{text} {suffix}".strip()


def training_caption(layout: SceneLayout, rng: np.random.Generator) -> str:
    """Write one of a layout's captions for pretraining the foundation.

    Things are always named, stuff and light sometimes.
    """
    counts = layout.counts()
    names = list(counts)
    rng.shuffle(names)
    stuff = ["grass"] + (["road"] if layout.road != "none" else []) + ["sky"]
    mention = {"grass": 0.7, "road": 0.85, "sky": 0.5}
    named_stuff = [s for s in stuff if rng.random() < mention[s]]
    if len(names) == 1 and counts[names[0]] == 1 and rng.random() < 0.5:
        named_stuff = []
    if not names and not named_stuff:
        named_stuff = [stuff[int(rng.integers(len(stuff)))]]
    suffix = LIGHT_PHRASES[layout.light] if rng.random() < 0.35 else ""
    return compose_caption(things={n: counts[n] for n in names}, stuff=named_stuff, suffix=suffix)
