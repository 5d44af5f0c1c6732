"""Comparison of ablation arms as tables: means and spreads over seeds, differences to the baseline, what the judge said.

All scores are percent. A spread is the sample standard deviation over seeds (ddof 1), NaN for a
single one.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from seggen_core.taxonomy import Taxonomy

OTHER_MODEL, CONTROL, UPPER_BOUND = "†", "‡", "§"
"""Marks of arms that aren't to be read like the rest."""

NO_VALUE = "\N{EN DASH}"
"""Stands for a figure that there isn't."""


def _nan_for_none(value: object) -> object:
    return math.nan if value is None else value


Score = Annotated[float, BeforeValidator(_nan_for_none)]
"""A percentage; null in JSON is NaN, a score that has no value."""


class SeedScores(BaseModel):
    """Scores of one trained segmenter."""

    model_config = ConfigDict(frozen=True)

    miou: Score
    pixel_accuracy: Score
    per_class_iou: dict[str, Score]


class Arm(BaseModel):
    """One ablation arm: what it was trained on, and its scores by seed.

    Attributes:
        variant: its name.
        model: the segmenter.
        real: the real samples it saw: "subset", "all" or "none".
        methods: where its synthetic samples came from.
        shuffle_masks: whether those had the masks of others (the control).
        seeds: scores by seed, at least one.
    """

    model_config = ConfigDict(frozen=True)

    variant: str
    model: str
    real: str
    methods: tuple[str, ...]
    shuffle_masks: bool
    seeds: dict[int, SeedScores] = Field(min_length=1)


class JudgeScores(BaseModel):
    """How well one method's pairs agree with the segmenter that was trained on all real samples.

    Attributes:
        method: name of the synthetic method.
        samples: pairs judged.
        further: other scores that the judge reports for this method.
    """

    model_config = ConfigDict(frozen=True)

    method: str
    samples: int
    miou: Score
    per_class_iou: dict[str, Score]
    further: dict[str, float] = {}


def seed_table(arms: Sequence[Arm], *, taxonomy: Taxonomy) -> pd.DataFrame:
    """Return one row per arm and seed: variant, seed, miou, miou_things, miou_stuff, pixel_accuracy, iou_<slug>."""
    groups = {
        "miou_things": [c.slug for c in taxonomy if c.is_thing],
        "miou_stuff": [c.slug for c in taxonomy if not c.is_thing],
    }
    rows = []
    for arm in arms:
        for seed, scores in sorted(arm.seeds.items()):
            iou = pd.Series(scores.per_class_iou, dtype=float).reindex(taxonomy.slugs)
            means = {name: iou[slugs].mean() for name, slugs in groups.items()}
            rows.append(
                {
                    "variant": arm.variant,
                    "seed": seed,
                    "miou": scores.miou,
                    **means,
                    "pixel_accuracy": scores.pixel_accuracy,
                }
                | {f"iou_{slug}": value for slug, value in iou.items()}
            )
    return pd.DataFrame(rows)


def comparison_arm(arm: Arm, *, arms: Sequence[Arm], baseline: str) -> str | None:
    """Return the arm whose score `arm` is measured against; None for that arm itself, and where there is none.

    It is the baseline; for an arm with another model, the arm with that model and the baseline's
    data.
    """
    reference = next(a for a in arms if a.variant == baseline)
    wanted = (arm.model, reference.real, reference.methods, reference.shuffle_masks)
    alike = [a.variant for a in arms if (a.model, a.real, a.methods, a.shuffle_masks) == wanted]
    found = baseline if arm.model == reference.model else next(iter(alike), None)
    return None if found == arm.variant else found


def ablation_table(
    arms: Sequence[Arm], *, seeds: pd.DataFrame, judges: Sequence[JudgeScores], baseline: str
) -> pd.DataFrame:
    """Return one row per arm, in the order of `arms`.

    Columns: variant, mark (other model, control, upper bound), model, real, methods, num_seeds;
    mean and spread of miou, miou_things, miou_stuff and pixel_accuracy; compared_with, and the
    differences of those means (delta_*), with the spread of delta_miou over the seeds that both
    arms have; judge_<method>, the mIoU of the judge on the pairs the arm was trained on.
    """
    by_variant = {str(name): group.set_index("seed") for name, group in seeds.groupby("variant")}
    judged = {judge.method: judge.miou for judge in judges}
    own_model = next(a.model for a in arms if a.variant == baseline)
    rows = []
    for arm in arms:
        own = by_variant[arm.variant]
        mark = OTHER_MODEL * (arm.model != own_model) + CONTROL * arm.shuffle_masks
        mark += UPPER_BOUND * (arm.real == "all" and not arm.methods)
        row: dict[str, object] = {
            "variant": arm.variant,
            "mark": mark,
            "model": arm.model,
            "real": arm.real,
            "methods": "+".join(arm.methods),
            "num_seeds": len(own),
        }
        for name in ("miou", "miou_things", "miou_stuff", "pixel_accuracy"):
            row |= {name: own[name].mean(), f"{name}_std": own[name].std(ddof=1)}
        row["compared_with"] = comparison_arm(arm, arms=arms, baseline=baseline)
        if row["compared_with"] is not None:
            other = by_variant[str(row["compared_with"])]
            for name in ("miou", "miou_things", "miou_stuff"):
                row[f"delta_{name}"] = own[name].mean() - other[name].mean()
            row["delta_miou_std"] = (own["miou"] - other["miou"]).dropna().std(ddof=1)
        if not arm.shuffle_masks:
            row |= {f"judge_{m}": judged[m] for m in arm.methods if m in judged}
        rows.append(row)
    columns = ["variant", "mark", "model", "real", "methods", "num_seeds"]
    columns += [
        f"{n}{s}"
        for n in ("miou", "miou_things", "miou_stuff", "pixel_accuracy")
        for s in ("", "_std")
    ]
    columns += [
        "compared_with",
        "delta_miou",
        "delta_miou_std",
        "delta_miou_things",
        "delta_miou_stuff",
    ]
    return pd.DataFrame(rows).reindex(
        columns=[*columns, *(f"judge_{judge.method}" for judge in judges)]
    )


def per_class_table(
    arms: Sequence[Arm], *, seeds: pd.DataFrame, taxonomy: Taxonomy
) -> pd.DataFrame:
    """Return the mean IoU over seeds, one row per arm (index) and one column per class slug."""
    table = seeds.groupby("variant")[[f"iou_{slug}" for slug in taxonomy.slugs]].mean()
    table.columns = pd.Index(taxonomy.slugs)
    return table.loc[[arm.variant for arm in arms]]


def per_class_delta(per_class: pd.DataFrame, *, table: pd.DataFrame) -> pd.DataFrame:
    """Return each arm's per-class IoU less that of the arm it is compared with; arms without one are left out."""
    compared = table.set_index("variant")["compared_with"].dropna()
    return per_class.loc[compared.index] - per_class.loc[compared].to_numpy()


def judge_table(judges: Sequence[JudgeScores], *, taxonomy: Taxonomy) -> pd.DataFrame:
    """Return one row per method (index): samples, miou, further scores, and one column per class slug."""
    rows = {j.method: {"samples": j.samples, "miou": j.miou, **j.further} for j in judges}
    scores = pd.DataFrame.from_dict(rows, orient="index")
    classes = pd.DataFrame.from_dict(
        {j.method: j.per_class_iou for j in judges}, orient="index"
    ).reindex(columns=taxonomy.slugs)
    return scores.join(classes.astype(float))


def flat_metrics(table: pd.DataFrame, *, judges: Sequence[JudgeScores]) -> dict[str, float]:
    """Return what `dvc metrics` shows: "<variant>.miou", ".miou_std", ".delta", ".things", ".stuff" and "judge.<method>"."""
    names = {
        "miou": "miou",
        "miou_std": "miou_std",
        "delta": "delta_miou",
        "things": "miou_things",
        "stuff": "miou_stuff",
    }
    values = {
        f"{row['variant']}.{name}": float(row[column])
        for _, row in table.iterrows()
        for name, column in names.items()
    }
    values |= {f"judge.{judge.method}": judge.miou for judge in judges}
    return {name: round(value, 4) for name, value in values.items() if not np.isnan(value)}


def ablation_markdown(
    table: pd.DataFrame,
    *,
    per_class: pd.DataFrame,
    judges: Sequence[JudgeScores],
    taxonomy: Taxonomy,
    title: str,
) -> str:
    """Return the report: the comparison, IoU per class, what the judge said, and what the marks mean."""
    arms = []
    for _, row in table.iterrows():
        judged = [f"{judge.method} {_number(row[f'judge_{judge.method}'])}" for judge in judges]
        arms.append(
            {
                "Arm": f"{row['variant']} {row['mark']}".strip(),
                "Real": row["real"],
                "Synthetic": str(row["methods"]).replace("+", " + ") or NO_VALUE,
                "Seeds": str(row["num_seeds"]),
                "mIoU": _with_spread(row["miou"], row["miou_std"]),
                "Δ": _with_spread(row["delta_miou"], row["delta_miou_std"], sign=True),
                "Things": _with_spread(row["miou_things"], row["miou_things_std"]),
                "Stuff": _with_spread(row["miou_stuff"], row["miou_stuff_std"]),
                "Pixel acc.": _with_spread(row["pixel_accuracy"], row["pixel_accuracy_std"]),
                "Judge on its pairs": ", ".join(
                    text for text in judged if not text.endswith(NO_VALUE)
                )
                or NO_VALUE,
            }
        )
    marks = "".join(table["mark"])
    reference = table.loc[
        table["compared_with"].isna() & ~table["mark"].str.contains(OTHER_MODEL), "model"
    ].iloc[0]
    notes = {
        OTHER_MODEL: f"trains another model than {reference}; Δ is to the same model on the baseline's data.",
        CONTROL: "the control: synthetic images with the masks of other samples.",
        UPPER_BOUND: "the upper bound: trains on all real samples.",
    }
    parts = [
        f"# {title}",
        "Percent on the held-out test split; mean ± sample standard deviation over seeds. Δ is the difference to the baseline, "
        "its spread that of the differences seed by seed.",
        markdown_table(arms, text_columns=3),
        "\n".join(f"{mark} {note}  " for mark, note in notes.items() if mark in marks),
        "## IoU per class",
        markdown_table(
            [
                {"Arm": f"{name} {mark}".strip()}
                | {c.name: _number(per_class.loc[name, c.slug]) for c in taxonomy}
                for name, mark in zip(table["variant"], table["mark"], strict=True)
            ]
        ),
    ]
    if judges:
        rows = judge_table(judges, taxonomy=taxonomy).rename(
            columns={c.slug: c.name for c in taxonomy}
        )
        parts += [
            "## Synthetic pairs, scored by the segmenter trained on all real samples",
            markdown_table(
                [
                    {"Method": str(method)}
                    | {str(n): f"{v:.0f}" if n == "samples" else _number(v) for n, v in row.items()}
                    for method, row in rows.iterrows()
                ]
            ),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _number(value: float, *, sign: bool = False) -> str:
    if pd.isna(value):
        return NO_VALUE
    return f"{round(value, 1) + 0.0:+.1f}" if sign else f"{value:.1f}"


def _with_spread(mean: float, spread: float, *, sign: bool = False) -> str:
    return _number(mean, sign=sign) + ("" if pd.isna(spread) else f" ± {spread:.1f}")


def markdown_table(rows: Sequence[Mapping[str, str]], *, text_columns: int = 1) -> str:
    """Return a Markdown table, padded so that it reads well as plain text; columns after the first few are right-aligned."""
    header = list(rows[0])
    widths = [max(len(name), 3, *(len(row[name]) for row in rows)) for name in header]
    align = [str.ljust] * text_columns + [str.rjust] * (len(header) - text_columns)
    rule = ["-" * w if i < text_columns else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    lines = [[pad(name, w) for pad, name, w in zip(align, header, widths, strict=True)], rule]
    lines += [
        [pad(row[name], w) for pad, name, w in zip(align, header, widths, strict=True)]
        for row in rows
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
