"""Charts of the ablation.

They are drawn without pyplot, so they need no display and change no global state.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from seggen_core.reports.ablation import CONTROL, OTHER_MODEL, UPPER_BOUND
from seggen_core.reports.tables import NO_VALUE, format_figure
from seggen_core.taxonomy import Taxonomy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _FAINT = "#1f2933", "#6b7785", "#dfe4ea"
_SATURATED = 85
"""Percentile of the differences that gets the full colour.

Without it, the large difference of the upper bound would make all others pale.
"""

_TITLE: dict[str, Any] = {"fontsize": 12, "fontweight": "bold", "parse_math": False}
_CLEAR = {"boxstyle": "square,pad=0.15", "facecolor": "white", "edgecolor": "none"}
_COLORS = {
    "baseline": "#8a94a0",
    "with synthetic samples": "#2f6db5",
    "control: shuffled masks": "#c9a227",
    "upper bound: all real samples": "#2e8b57",
    "other model": "#9b6bb3",
}


def ablation_figure(
    table: pd.DataFrame,
    *,
    seeds: pd.DataFrame,
    baseline: str,
    title: str,
    score: tuple[str, str] = ("miou", "mIoU"),
) -> "Figure":
    """Draw the mean score of each arm as a bar, its spread as a whisker and each seed as a dot.

    Args:
        table: `ablation.ablation_table`.
        seeds: `ablation.seed_table`.
        baseline: the arm whose mean is drawn through all bars.
        title: above the chart.
        score: column of the tables that is drawn, and its name.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 1.5 + 0.46 * len(table)), dpi=150, layout="constrained")
    axes = figure.subplots()
    labelled: set[str] = set()
    right = 0.0
    names = {score[0]: "score", f"{score[0]}_std": "spread", f"delta_{score[0]}": "delta"}
    for y, (_, row) in enumerate(table.rename(columns=names).iterrows()):
        kind = _kind(row, baseline=baseline)
        scores = seeds.loc[seeds["variant"] == row["variant"], score[0]].to_numpy()
        label = None if kind in labelled else kind
        right = max(right, _draw_arm(axes, row, y=y, scores=scores, kind=kind, label=label))
        labelled.add(kind)
    reference = float(table.loc[table["variant"] == baseline, score[0]].iloc[0])
    axes.axvline(
        reference, color=_COLORS["baseline"], linewidth=1.1, linestyle=(0, (4, 3)), zorder=3
    )
    axes.set_yticks(
        range(len(table)),
        [f"{v} {m}".strip() for v, m in zip(table["variant"], table["mark"], strict=True)],
    )
    axes.invert_yaxis()
    axes.set_xlim(0, right * 1.2 or 1.0)
    num_seeds = table["num_seeds"].max()
    axes.set_xlabel(
        f"{score[1]} on the held-out test split (%), mean of up to "
        f"{num_seeds} seed{'s' if num_seeds > 1 else ''}; dots: seeds, whiskers: ± 1 std",
        color=_SOFT,
    )
    axes.set_title(title, loc="left", color=_INK, fontsize=12, fontweight="bold", parse_math=False)
    axes.grid(axis="x", color=_FAINT, linewidth=0.8, zorder=0)
    _tidy(axes)
    figure.legend(
        loc="outside lower center", ncols=3, frameon=False, fontsize=8.5, labelcolor=_SOFT
    )
    return figure


def _draw_arm(
    axes: "Axes", row: pd.Series, *, y: int, scores: np.ndarray, kind: str, label: str | None
) -> float:
    """Draw an arm's bar, whisker, dots and text; return the x position of the text.

    Args:
        axes: where to draw.
        row: of `ablation.ablation_table`, with score, spread and delta.
        y: position of the bar.
        scores: of each seed.
        kind: key of _COLORS.
        label: name in the legend; None if the legend has it already.
    """
    spread = 0.0 if pd.isna(row["spread"]) else float(row["spread"])
    axes.barh(y, row["score"], height=0.66, color=_COLORS[kind], label=label, zorder=2)
    if spread:
        axes.errorbar(
            row["score"], y, xerr=spread, color=_INK, linewidth=1.2, capsize=3.5, zorder=4
        )
    offsets = np.linspace(-0.16, 0.16, len(scores)) if len(scores) > 1 else np.zeros(1)
    axes.scatter(
        scores, y + offsets, s=17, facecolor="white", edgecolor=_INK, linewidth=0.8, zorder=5
    )
    end = max([*scores, float(row["score"]) + spread])
    delta = f"  ({format_figure(row['delta'], sign=True)})" if pd.notna(row["delta"]) else ""
    axes.annotate(
        f"{row['score']:.1f}{delta}",
        (end, y),
        (7, 0),
        textcoords="offset points",
        va="center",
        color=_INK,
        fontsize=9,
        bbox=_CLEAR,
        zorder=6,
    )
    return end


def per_class_figure(
    per_class: pd.DataFrame,
    *,
    delta: pd.DataFrame,
    table: pd.DataFrame,
    taxonomy: Taxonomy,
    title: str,
    score: str = "IoU",
) -> "Figure":
    """Draw the score per class and arm, and beside it the difference to the arm compared with.

    Args:
        per_class: `ablation.per_class_table`.
        delta: `ablation.per_class_delta`; arms that it lacks stay blank.
        table: `ablation.ablation_table`, for the marks.
        taxonomy: gives the order and names of the classes; a line parts stuff from things.
        title: above the chart.
        score: name of the score.
    """
    from matplotlib.figure import Figure

    width = 1.7 + 0.62 * len(taxonomy)
    figure = Figure(
        figsize=(2 * width + 1.2, 1.6 + 0.4 * len(per_class)), dpi=150, layout="constrained"
    )
    left, right = figure.subplots(1, 2, sharey=True)
    _heatmap(left, per_class, taxonomy=taxonomy, cmap="YlGnBu", limits=(0.0, 100.0), sign=False)
    marks = table.set_index("variant")["mark"]
    left.set_yticks(
        range(len(per_class)), [f"{name} {marks[name]}".strip() for name in per_class.index]
    )
    left.set_title(f"{score} per class (%)", loc="left", color=_SOFT, fontsize=10)
    known = np.abs(delta.to_numpy(float))
    span = (
        max(1.0, float(np.percentile(known[~np.isnan(known)], _SATURATED))) if known.size else 1.0
    )
    _heatmap(
        right,
        delta.reindex(per_class.index),
        taxonomy=taxonomy,
        cmap="RdBu",
        limits=(-span, span),
        sign=True,
    )
    right.set_title("difference to the baseline", loc="left", color=_SOFT, fontsize=10)
    right.tick_params(axis="y", labelleft=False)
    figure.suptitle(title, x=0.01, ha="left", color=_INK, **_TITLE)
    return figure


def _kind(row: pd.Series, *, baseline: str) -> str:
    if row["variant"] == baseline:
        return "baseline"
    for mark, kind in ((OTHER_MODEL, "other model"), (CONTROL, "control: shuffled masks")):
        if mark in row["mark"]:
            return kind
    return (
        "upper bound: all real samples" if UPPER_BOUND in row["mark"] else "with synthetic samples"
    )


def _heatmap(
    axes: "Axes",
    values: pd.DataFrame,
    *,
    taxonomy: Taxonomy,
    cmap: str,
    limits: tuple[float, float],
    sign: bool,
) -> None:
    cells = values[taxonomy.slugs].to_numpy(float)
    image = axes.imshow(cells, cmap=cmap, vmin=limits[0], vmax=limits[1], aspect="auto")
    for (row, column), value in np.ndenumerate(cells):
        text = format_figure(value, sign=True) if sign else f"{value:.0f}"
        if np.isnan(value):
            text = NO_VALUE
        red, green, blue, _ = (
            image.cmap(image.norm(value)) if not np.isnan(value) else (1.0, 1.0, 1.0, 1.0)
        )
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55  # luma of ITU-R BT.601
        color = _FAINT if np.isnan(value) else "white" if dark else _INK
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)
    axes.set_xticks(
        range(len(taxonomy)),
        [c.name for c in taxonomy],
        rotation=35,
        ha="right",
        rotation_mode="anchor",
        parse_math=False,  # a name may hold a "$"
    )
    axes.set_xticks(np.arange(len(taxonomy) - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(len(values) - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    axes.tick_params(which="minor", length=0)
    boundaries = [
        i for i in range(1, len(taxonomy)) if taxonomy[i].is_thing != taxonomy[i - 1].is_thing
    ]
    for boundary in boundaries:
        axes.axvline(boundary - 0.5, color=_INK, linewidth=1.4)
    _tidy(axes)


def _tidy(axes: "Axes") -> None:
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(which="major", length=0, labelcolor=_INK, labelsize=9)
