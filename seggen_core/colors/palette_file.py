"""palette.json: the colours of a generator's colour maps, for programs that have no seggen."""

from typing import Any

from seggen_core.colors.class_colors import colored_classes
from seggen_core.colors.code import ColorCode
from seggen_core.colors.palette import IGNORE_COLOR
from seggen_core.colors.panoptic import EDGE_COLOR
from seggen_core.config import ColorMapKind
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

PALETTE = "palette.json"


def describe_palette(taxonomy: Taxonomy, *, kind: ColorMapKind) -> dict[str, Any]:
    """Return what palette.json holds; all colours are RGB, 0 to 255.

    Args:
        taxonomy: the classes.
        kind: what the colour maps show.

    Returns:
        "color_map": "semantic" or "panoptic"; "classes": rows with "train_id", "name", "is_thing"
        and "color"; "void": "train_id" and "color" of pixels without a class; "edge": "color" of
        the outlines of segments, None where colour maps have none.

    Raises:
        ConfigError: as `ColorCode`.
    """
    palette = ColorCode(taxonomy, kind=kind).palette
    return {
        "color_map": kind,
        "classes": colored_classes(taxonomy, palette),
        "void": {"train_id": IGNORE_INDEX, "color": list(IGNORE_COLOR)},
        "edge": {"color": list(EDGE_COLOR)} if kind == "panoptic" else None,
    }
