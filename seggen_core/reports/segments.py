"""Comparison of the arms of one task that tells instances apart, panoptic or instance.

The columns are those of `reports.ablation`, with the figures of the task.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from seggen_core.config import Task
from seggen_core.metrics.tasks import CLASS_FIGURE, FIGURES, PRIMARY
from seggen_core.reports.ablation import arm_row, comparison_arm
from seggen_core.reports.scores import SegmentArm
from seggen_core.reports.tables import NO_VALUE, format_figure, markdown_table, with_spread
from seggen_core.taxonomy import Taxonomy


@dataclass(frozen=True, eq=False)
class TaskTables:
    """The tables of a task.

    Attributes:
        task: "panoptic" or "instance".
        baseline: the arm that the others are compared with.
        table: one row per arm: variant, mark, model, real, methods, num_seeds; mean and spread of
            each figure; compared_with, delta_<score> and delta_<score>_std of the task's score.
        seeds: one row per arm and seed: variant, seed and the figures.
        per_class: the mean score of each class, one row per arm (index), a column per class slug.
    """

    task: Task
    baseline: str
    table: pd.DataFrame
    seeds: pd.DataFrame
    per_class: pd.DataFrame

    @property
    def score(self) -> str:
        """The figure that arms are compared by."""
        return PRIMARY[self.task]

    def figures(self) -> dict[str, dict[str, float]]:
        """Return the figures of each arm for `dvc metrics`; those without a value are left out."""
        columns = {name: name for name in FIGURES[self.task]}
        columns |= {"std": f"{self.score}_std", "delta": f"delta_{self.score}"}
        return {
            str(row["variant"]): {
                name: round(float(row[column]), 2)
                for name, column in columns.items()
                if pd.notna(row[column])
            }
            for _, row in self.table.iterrows()
        }

    def markdown(self, taxonomy: Taxonomy) -> str:
        """Return the sections of the report: the figures, and the score of each class."""
        headings = FIGURES[self.task]
        rows = [
            {
                "Arm": f"{row['variant']} {row['mark']}".strip(),
                "Model": str(row["model"]),
                "Synthetic": str(row["methods"]).replace("+", " + ") or NO_VALUE,
                "Seeds": str(row["num_seeds"]),
                headings[self.score]: with_spread(row[self.score], row[f"{self.score}_std"]),
                "Δ": with_spread(
                    row[f"delta_{self.score}"], row[f"delta_{self.score}_std"], sign=True
                ),
                **{
                    heading: with_spread(row[name], row[f"{name}_std"])
                    for name, heading in headings.items()
                    if name != self.score
                },
            }
            for _, row in self.table.iterrows()
        ]
        classes = [
            {"Arm": str(name)}
            | {c.name: format_figure(self.per_class.loc[name, c.slug]) for c in shown}
            for name in self.per_class.index
            for shown in [self._shown(taxonomy)]
        ]
        parts = [
            f"## {self.task.capitalize()} segmentation",
            f"Δ is the difference in {headings[self.score]} to {self.baseline}, or to the same "
            "model on its data.",
            markdown_table(rows, text_columns=3),
            f"### {CLASS_FIGURE[self.task]} per class",
            markdown_table(classes),
        ]
        return "\n\n".join(parts) + "\n"

    def _shown(self, taxonomy: Taxonomy) -> list:
        """Return the classes that the task is about."""
        return [c for c in taxonomy if c.is_thing or self.task == "panoptic"]


def task_tables(
    arms: Sequence[SegmentArm], *, task: Task, taxonomy: Taxonomy, baseline: str
) -> TaskTables:
    """Compare the arms of a task.

    Args:
        arms: of this task, at least one.
        task: "panoptic" or "instance".
        taxonomy: the classes.
        baseline: the project's; if it is of another task, the first arm without synthetic samples
            stands for it.
    """
    names = [arm.variant for arm in arms]
    if baseline not in names:
        plain = [a.variant for a in arms if not a.methods and a.real == "subset"]
        baseline = (plain or [a.variant for a in arms if not a.methods] or names)[0]
    figures, score = list(FIGURES[task]), PRIMARY[task]
    seeds = pd.DataFrame(
        [
            {"variant": arm.variant, "seed": seed, **{n: scores.figures[n] for n in figures}}
            for arm in arms
            for seed, scores in sorted(arm.seeds.items())
        ]
    )
    by_variant = {str(name): group.set_index("seed") for name, group in seeds.groupby("variant")}
    model = next(a.model for a in arms if a.variant == baseline)
    rows = []
    for arm in arms:
        scores = by_variant[arm.variant]
        row = arm_row(arm, scores, names=figures, model=model)
        other = comparison_arm(arm, arms=arms, baseline=baseline)
        row |= {"compared_with": other, f"delta_{score}": None, f"delta_{score}_std": None}
        if other is not None:
            difference = scores[score] - by_variant[other][score]
            row[f"delta_{score}"] = scores[score].mean() - by_variant[other][score].mean()
            row[f"delta_{score}_std"] = difference.dropna().std(ddof=1)
        rows.append(row)
    table = pd.DataFrame(rows)
    for name in (f"delta_{score}", f"delta_{score}_std"):
        table[name] = table[name].astype(float)
    per_class = pd.DataFrame.from_dict(
        {
            arm.variant: pd.DataFrame([s.per_class for s in arm.seeds.values()], dtype=float).mean()
            for arm in arms
        },
        orient="index",
    ).reindex(columns=taxonomy.slugs)
    return TaskTables(task, baseline, table, seeds, per_class)
