"""The options of SeeDiff that `attention_quality.py` compares."""

from collections.abc import Iterable, Mapping
from typing import Any

PLAIN = {"strategy": "ca", "pamr": False}


EVERY_LAYER: dict[str, Any] = {
    "cross_attention_layers": None,
    "class_cross_attention_layers": {},
}


def options(
    layer_sides: Mapping[str, int], *, resolution: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the tables of options: title, then name to changes of params.yaml's `seediff`.

    Args:
        layer_sides: side of each cross-attention layer's maps.
        resolution: the side that params.yaml chooses.
    """
    sides = sorted(set(layer_sides.values()))
    layers = layer_options([name for name, side in layer_sides.items() if side == resolution])
    return {
        "Modules (Table 2 of SeeDiff)": {
            "CAA": {"strategy": "ca"},
            "CAA + CRE": {"expansion": "once", "background_expansion": False},
            "CAA + CRE + IRE": {"background_expansion": False},
            "CAA + CRE + IRE + BE": {},
        },
        "Cross-attention resolution (Table 4; all layers of it)": {
            f"{r}": {"cross_attention_resolution": r, **EVERY_LAYER} for r in sides
        },
        "Strategy (Table 5, S4)": strategy_options(),
        "Affinity (equation 7)": {
            f"{a}{', no background' * (not b)}": {"affinity": a, "background_expansion": b}
            for a in ("rows", "columns", "cosine")
            for b in (True, False)
        },
        "Normalisation": {n: {"normalization": n} for n in ("min_max", "max")},
        "Seeds (equations 6 and 9)": {
            **{f"alpha {a}": {"alpha": a} for a in (0.3, 0.4, 0.5, 0.6, 0.7)},
            "Otsu": {"seed_threshold": "otsu"},
        },
        "Annotation (equation 12)": {f"beta {b}": {"beta": b} for b in (0.2, 0.3, 0.4, 0.5, 0.6)},
        "Dilations of PAMR": {
            str(d): {"pamr": True, "pamr_dilations": d}
            for d in ((1,), (1, 2), (1, 2, 4), (1, 2, 4, 8))
        },
        "Cross-attention layers": layers,
        "Cross-attention layers, plain threshold 0.5": {
            name: {**PLAIN, "beta": 0.5, **c} for name, c in layers.items()
        },
    }


def strategy_options() -> dict[str, dict[str, Any]]:
    """Return SeeDiff and the strategies that it is compared with."""
    thresholds = (0.3, 0.4, 0.5, 0.6)
    propagated = {"strategy": "ca_sa", "pamr": False}
    return {
        **{f"CA, threshold {b}": {**PLAIN, "beta": b} for b in thresholds},
        **{
            f"CA, threshold {b}, PAMR": {"strategy": "ca", "beta": b, "pamr": True}
            for b in thresholds
        },
        **{f"CA x SA^4, threshold {b}": {**propagated, "beta": b} for b in (0.3, 0.6)},
        **{f"CA x SA, threshold {b}": {**propagated, "power": 1, "beta": b} for b in (0.3, 0.6)},
        "CA x SA^4, threshold 0.6, PAMR": {"strategy": "ca_sa", "beta": 0.6, "pamr": True},
        "SeeDiff": {"pamr": False},
        "SeeDiff, PAMR": {"pamr": True},
    }


def layer_options(names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the layers of params.yaml, all of its resolution (`names`), and each alone."""
    layers: dict[str, dict[str, Any]] = {
        "as in params.yaml": {},
        "all of the resolution": EVERY_LAYER,
    }
    for name in names:
        short = name.removesuffix(".transformer_blocks.0.attn2")
        layers[short] = EVERY_LAYER | {"cross_attention_layers": (name,)}
    return layers
