"""Comparison of ablation arms as tables.

They hold means and spreads over seeds, differences to the baseline, and the judge's scores. All
scores are in percent. A spread is the sample standard deviation over seeds (ddof 1); it is NaN for
a single seed.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from seggen_core.reports.scores import Arm, ArmData, JudgeScores
from seggen_core.taxonomy import Taxonomy

OTHER_MODEL, CONTROL, UPPER_BOUND, OTHER_CLASSES = "†", "‡", "§", "¶"
"""Marks of arms that need another reading than the rest."""

FURTHER_SCORES = {
    "miou_ms": "m.s.",
    "miou_seen": "Seen",
    "miou_unseen": "Unseen",
    "miou_harmonic": "Harmonic",
}
"""Headings of the columns of `SeedScores.further`; groups of classes have their own names."""

BOUNDARY = "boundary_miou"
"""Column of boundary IoU, which reports of an earlier seggen don't have."""


def seed_table(arms: Sequence[Arm], *, taxonomy: Taxonomy) -> pd.DataFrame:
    """Return one row per arm and seed.

    Columns: variant, seed, miou, miou_things, miou_stuff, pixel_accuracy, boundary_miou if any arm
    has it, those of `SeedScores.further` that any arm has, and iou_<slug>.
    """
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
                    **({} if scores.boundary_miou is None else {BOUNDARY: scores.boundary_miou}),
                }
                | scores.further
                | {f"iou_{slug}": value for slug, value in iou.items()}
            )
    return pd.DataFrame(rows)


def further_names(arms: Sequence[Arm]) -> list[str]:
    """Return the columns of scores that not every project has (`SeedScores.further`)."""
    names = (name for arm in arms for scores in arm.seeds.values() for name in scores.further)
    return list(dict.fromkeys(names))


def arm_mark(arm: ArmData, *, model: str) -> str:
    """Return the marks of an arm; `model` is the baseline's."""
    mark = OTHER_MODEL * (arm.model != model) + CONTROL * arm.shuffle_masks
    mark += UPPER_BOUND * (arm.real == "all" and not arm.methods)
    return mark + OTHER_CLASSES * bool(arm.known_classes)


def comparison_arm(arm: ArmData, *, arms: Sequence[ArmData], baseline: str) -> str | None:
    """Return the arm that `arm` is compared with; None if there is none, or if it is `arm`.

    That is the baseline. An arm with another model is compared with the arm that has this model and
    the baseline's data. An arm that knows other classes than the baseline is compared with none.
    """
    reference = next(a for a in arms if a.variant == baseline)
    if arm.known_classes != reference.known_classes:
        return None
    wanted = (arm.model, reference.real, reference.methods, reference.shuffle_masks)
    alike = [a.variant for a in arms if (a.model, a.real, a.methods, a.shuffle_masks) == wanted]
    compared = baseline if arm.model == reference.model else next(iter(alike), None)
    return None if compared == arm.variant else compared


def arm_row(
    arm: ArmData, scores: pd.DataFrame, *, names: Sequence[str], model: str
) -> dict[str, object]:
    """Return what the tables of all tasks say of an arm: who it is, and means and spreads.

    Args:
        arm: the arm.
        scores: a row for each of its seeds.
        names: columns of `scores` to average.
        model: the baseline's.
    """
    row: dict[str, object] = {
        "variant": arm.variant,
        "mark": arm_mark(arm, model=model),
        "model": arm.model,
        "real": arm.real,
        "methods": "+".join(arm.methods),
        "num_seeds": len(scores),
    }
    for name in names:
        row |= {name: scores[name].mean(), f"{name}_std": scores[name].std(ddof=1)}
    return row


def ablation_table(
    arms: Sequence[Arm], *, seeds: pd.DataFrame, judges: Sequence[JudgeScores], baseline: str
) -> pd.DataFrame:
    """Return one row per arm, in the order of `arms`.

    Columns: variant, mark (other model, control, upper bound), model, real, methods, num_seeds;
    mean and spread of miou, miou_things, miou_stuff, pixel_accuracy, boundary_miou if any arm has
    it, and of what `further_names` returns; compared_with, and the
    differences of those means (delta_*), with the spread of delta_miou over the seeds that both
    arms have; judge_<method>, the mIoU of the judge on the pairs the arm was trained on.
    """
    by_variant = {str(name): group.set_index("seed") for name, group in seeds.groupby("variant")}
    judged = {judge.method: judge.miou for judge in judges}
    names = ["miou", "miou_things", "miou_stuff", "pixel_accuracy"]
    names += [BOUNDARY] * (BOUNDARY in seeds) + further_names(arms)
    baseline_model = next(a.model for a in arms if a.variant == baseline)
    rows = []
    for arm in arms:
        scores = by_variant[arm.variant]
        row = arm_row(arm, scores, names=names, model=baseline_model)
        row["compared_with"] = comparison_arm(arm, arms=arms, baseline=baseline)
        if row["compared_with"] is not None:
            other = by_variant[str(row["compared_with"])]
            for name in ("miou", "miou_things", "miou_stuff"):
                row[f"delta_{name}"] = scores[name].mean() - other[name].mean()
            row["delta_miou_std"] = (scores["miou"] - other["miou"]).dropna().std(ddof=1)
        if not arm.shuffle_masks:
            row |= {f"judge_{m}": judged[m] for m in arm.methods if m in judged}
        rows.append(row)
    columns = ["variant", "mark", "model", "real", "methods", "num_seeds"]
    columns += [f"{n}{s}" for n in names for s in ("", "_std")]
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
    """Return each arm's per-class IoU minus that of the arm it is compared with.

    Arms that are compared with no other are left out.
    """
    compared = table.set_index("variant")["compared_with"].dropna()
    return per_class.loc[compared.index] - per_class.loc[compared].to_numpy()


def judge_table(judges: Sequence[JudgeScores], *, taxonomy: Taxonomy) -> pd.DataFrame:
    """Return one row per method (index): samples, miou, further scores, a column per class slug."""
    rows = {j.method: {"samples": j.samples, "miou": j.miou, **j.further} for j in judges}
    scores = pd.DataFrame.from_dict(rows, orient="index")
    classes = pd.DataFrame.from_dict(
        {j.method: j.per_class_iou for j in judges}, orient="index"
    ).reindex(columns=taxonomy.slugs)
    return scores.join(classes.astype(float))


def arm_figures(table: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the figures that `dvc metrics` shows, by arm.

    They are miou, std, delta, things, stuff and boundary. A figure without a value is left out.

    Args:
        table: `ablation_table`.
    """
    columns = {
        "miou": "miou",
        "std": "miou_std",
        "delta": "delta_miou",
        "things": "miou_things",
        "stuff": "miou_stuff",
        **({"boundary": BOUNDARY} if BOUNDARY in table else {}),
    }
    return {
        str(row["variant"]): {
            name: round(float(row[column]), 2)
            for name, column in columns.items()
            if pd.notna(row[column])
        }
        for _, row in table.iterrows()
    }


def flat_metrics(table: pd.DataFrame, *, judges: Sequence[JudgeScores]) -> dict[str, float]:
    """Return all metrics in one mapping, as metrics.json and MLflow have them.

    Names are "<variant>.miou", ".miou_std", ".delta", ".things", ".stuff", ".boundary_miou" and
    "judge.<method>".
    """
    names = {
        "miou": "miou",
        "miou_std": "miou_std",
        "delta": "delta_miou",
        "things": "miou_things",
        "stuff": "miou_stuff",
        **({BOUNDARY: BOUNDARY} if BOUNDARY in table else {}),
    }
    values = {
        f"{row['variant']}.{name}": float(row[column])
        for _, row in table.iterrows()
        for name, column in names.items()
    }
    values |= {f"judge.{judge.method}": judge.miou for judge in judges}
    return {name: round(value, 4) for name, value in values.items() if not np.isnan(value)}
