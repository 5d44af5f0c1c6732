"""The comparison of ablation arms as a Markdown report."""

from collections.abc import Sequence

import pandas as pd

from seggen_core.reports.ablation import (
    BOUNDARY,
    CONTROL,
    FURTHER_SCORES,
    OTHER_CLASSES,
    OTHER_MODEL,
    UPPER_BOUND,
    judge_table,
)
from seggen_core.reports.scores import JudgeScores
from seggen_core.reports.tables import (
    NO_VALUE,
    escape_markdown,
    format_figure,
    markdown_table,
    with_spread,
)
from seggen_core.taxonomy import Taxonomy

HOW_TO_READ = (
    "Percent on the held-out test split; mean ± sample standard deviation over seeds. Δ is the "
    "difference to the baseline, its spread that of the differences seed by seed."
)
"""Says what the figures of the tables are."""


def ablation_markdown(
    table: pd.DataFrame,
    *,
    per_class: pd.DataFrame,
    judges: Sequence[JudgeScores],
    taxonomy: Taxonomy,
    title: str,
) -> str:
    """Return the report: the comparison, IoU per class, the judge's scores, and the marks' meaning.

    Args:
        table: `ablation.ablation_table`.
        per_class: `ablation.per_class_table`.
        judges: scores of the methods that were judged.
        taxonomy: gives the order and names of the classes.
        title: the heading.
    """
    arms = [_arm_row(row, judges=judges) for _, row in table.iterrows()]
    per_class_rows = [
        {"Arm": f"{name} {mark}".strip()}
        | {c.name: format_figure(per_class.loc[name, c.slug]) for c in taxonomy}
        for name, mark in zip(table["variant"], table["mark"], strict=True)
    ]
    parts = [
        f"# {escape_markdown(title)}",
        HOW_TO_READ,
        markdown_table(arms, text_columns=3),
        _notes(table),
        "m.s.: mIoU of several scales and mirrored images." if "miou_ms" in table else "",
        "Seen, Unseen: mIoU of the classes with and without real labels (`zero_shot`)."
        if "miou_harmonic" in table
        else "",
        "Boundary: mean boundary IoU (docs/segmentation.md), which sees outlines alone."
        if BOUNDARY in table
        else "",
        "## IoU per class",
        markdown_table(per_class_rows),
    ]
    if judges:
        parts += [
            "## Synthetic pairs, scored by the segmenter trained on all real samples",
            markdown_table(_judge_rows(judges, taxonomy=taxonomy)),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _arm_row(row: "pd.Series", *, judges: Sequence[JudgeScores]) -> dict[str, str]:
    judged = [f"{judge.method} {format_figure(row[f'judge_{judge.method}'])}" for judge in judges]
    scores = ", ".join(text for text in judged if not text.endswith(NO_VALUE))
    further = [name for name in row.index if name in FURTHER_SCORES or "/" in str(name)]
    further = [name for name in further if not str(name).endswith("_std")]
    return {
        "Arm": f"{row['variant']} {row['mark']}".strip(),
        "Real": row["real"],
        "Synthetic": str(row["methods"]).replace("+", " + ") or NO_VALUE,
        "Seeds": str(row["num_seeds"]),
        "mIoU": with_spread(row["miou"], row["miou_std"]),
        **{
            FURTHER_SCORES.get(name, name): with_spread(row[name], row[f"{name}_std"])
            for name in further
        },
        "Δ": with_spread(row["delta_miou"], row["delta_miou_std"], sign=True),
        "Things": with_spread(row["miou_things"], row["miou_things_std"]),
        "Stuff": with_spread(row["miou_stuff"], row["miou_stuff_std"]),
        "Pixel acc.": with_spread(row["pixel_accuracy"], row["pixel_accuracy_std"]),
        **(
            {"Boundary": with_spread(row[BOUNDARY], row[f"{BOUNDARY}_std"])}
            if BOUNDARY in row.index
            else {}
        ),
        "Judge on its pairs": scores or NO_VALUE,
    }


def _notes(table: pd.DataFrame) -> str:
    """Return the meaning of each mark in the table, one line for each."""
    marks = "".join(table["mark"])
    others = table["mark"].str.contains(OTHER_MODEL) | table["mark"].str.contains(OTHER_CLASSES)
    is_reference = table["compared_with"].isna() & ~others
    model = table.loc[is_reference, "model"].iloc[0]
    notes = {
        OTHER_MODEL: f"trains another model than {model}; Δ is to the same model on the baseline's "
        "data.",
        CONTROL: "the control: synthetic images with the masks of other samples.",
        UPPER_BOUND: "the upper bound: trains on all real samples.",
        OTHER_CLASSES: "knows some classes only, and one more of all other pixels; its mIoU is "
        "over these.",
    }
    return "\n".join(f"{mark} {note}  " for mark, note in notes.items() if mark in marks)


def _judge_rows(judges: Sequence[JudgeScores], *, taxonomy: Taxonomy) -> list[dict[str, str]]:
    names = {c.slug: c.name for c in taxonomy}
    return [
        {"Method": str(method)}
        | {str(n): f"{v:.0f}" if n == "samples" else format_figure(v) for n, v in row.items()}
        for method, row in judge_table(judges, taxonomy=taxonomy).rename(columns=names).iterrows()
    ]
