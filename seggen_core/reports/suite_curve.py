"""Curves of suites. They are drawn without pyplot, so they need no display."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from seggen_core.config import SuiteFile
from seggen_core.reports.suite_table import RowScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _FAINT = "#1f2933", "#6b7785", "#dfe4ea"
_LINES = ("#8a94a0", "#2f6db5", "#c9a227", "#2e8b57", "#9b6bb3")


def suite_figure(rows: Sequence[RowScores], *, suite: SuiteFile, score: str) -> "Figure":
    """Draw a score along the curve's axis: ours with its spread and, beside it, the paper's.

    Rows without a place on the axis are horizontal lines.

    Args:
        rows: `suite_table.read_rows`.
        suite: with a curve.
        score: the score to draw.
    """
    from matplotlib.figure import Figure

    assert suite.curve is not None
    has_paper = any(row.row.paper.get(score) is not None for row in rows)
    figure = Figure(figsize=(11 if has_paper else 6.5, 4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2 if has_paper else 1, squeeze=False)[0]
    groups = list(dict.fromkeys(row.row.group for row in rows))
    for panel, title in zip(panels, ("ours", f"paper: {suite.place}"), strict=False):
        for index, group in enumerate(groups):
            members = [row for row in rows if row.row.group == group]
            _draw_line(panel, members, score, color=_color(index, groups), ours=title == "ours")
        panel.set_xlabel(suite.curve.x, color=_SOFT)
        panel.set_ylabel(f"{suite.scores[score]} (%)", color=_SOFT)
        if has_paper:
            panel.set_title(title, loc="left", color=_SOFT, fontsize=10, parse_math=False)
        if suite.curve.log:
            panel.set_xscale("log")
            places = sorted({row.row.x for row in rows if row.row.x is not None})
            panel.set_xticks(places, labels=[f"{place:g}" for place in places])
            panel.set_xticks([], minor=True)  # a logarithmic axis labels its own places, too
        _tidy(panel)
    figure.suptitle(
        suite.title, x=0.01, ha="left", color=_INK, fontsize=12, fontweight="bold", parse_math=False
    )
    return figure


def _draw_line(
    axes: "Axes", rows: Sequence[RowScores], score: str, *, color: str, ours: bool
) -> None:
    values = [row.mean(score) if ours else row.row.paper.get(score) for row in rows]
    known = [
        (row, value)
        for row, value in zip(rows, values, strict=True)
        if value is not None and value == value  # noqa: PLR0124 (NaN)
    ]
    placed = sorted(
        (row.row.x, value, row.spread(score)) for row, value in known if row.row.x is not None
    )
    for row, value in known:
        if row.row.x is None:
            axes.axhline(
                value, color=color, linewidth=1.1, linestyle=(0, (4, 3)), label=row.row.label
            )
    if not placed:
        return
    xs, ys, spreads = zip(*placed, strict=True)
    label = rows[0].row.group
    axes.plot(xs, ys, color=color, marker="o", markersize=4, linewidth=1.6, label=label)
    if ours:
        axes.errorbar(xs, ys, yerr=spreads, fmt="none", ecolor=color, capsize=3, linewidth=1.1)
        for row, _ in known:
            if row.row.x is not None:
                seeds = [*row.seeds[score].values()]
                axes.scatter(
                    [row.row.x] * len(seeds),
                    seeds,
                    s=10,
                    facecolor="white",
                    edgecolor=color,
                    zorder=3,
                )


def history_figure(histories: Mapping[str, pd.DataFrame], *, title: str) -> "Figure":
    """Draw training loss and validation mIoU of several arms by step, as means over their seeds.

    Args:
        histories: by arm, history.csv of `train_seg`.
        title: the heading.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4), dpi=150, layout="constrained")
    panels = figure.subplots(1, 2)
    for index, (arm, history) in enumerate(histories.items()):
        means = history.groupby("step")[["loss", "val_miou"]].mean()
        for panel, column in zip(panels, ("loss", "val_miou"), strict=True):
            curve = means[column].dropna()
            panel.plot(
                curve.index, curve, color=_LINES[index % len(_LINES)], linewidth=1.4, label=arm
            )
    for panel, name in zip(panels, ("training loss", "validation mIoU (%)"), strict=True):
        panel.set_xlabel("step", color=_SOFT)
        panel.set_ylabel(name, color=_SOFT)
        _tidy(panel)
    figure.suptitle(
        title, x=0.01, ha="left", color=_INK, fontsize=12, fontweight="bold", parse_math=False
    )
    return figure


def _color(index: int, groups: Sequence[str | None]) -> str:
    return _LINES[1] if len(groups) == 1 else _LINES[index % len(_LINES)]


def _tidy(axes: "Axes") -> None:
    for name, spine in axes.spines.items():
        spine.set_visible(name in ("left", "bottom"))
        spine.set_color(_FAINT)
    axes.grid(color=_FAINT, linewidth=0.8, zorder=0)
    axes.tick_params(which="both", length=0, labelcolor=_INK, labelsize=9)
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, fontsize=8.5, labelcolor=_SOFT)
