"""The report on an ablation in Markdown, and its chart, with names of any kind."""

import io
import re

import numpy as np
import pytest

from seggen_core.reports.ablation import (
    CONTROL,
    OTHER_MODEL,
    ablation_table,
    arm_figures,
    flat_metrics,
    per_class_delta,
    per_class_table,
    seed_table,
)
from seggen_core.reports.ablation_markdown import ablation_markdown
from seggen_core.reports.figures import per_class_figure
from seggen_core.reports.scores import SeedScores
from seggen_core.taxonomy import Taxonomy
from tests.reports.test_ablation import ARMS, JUDGES, TAXONOMY, arm, tables


def test_markdown_is_a_table_with_the_marks_explained():
    seeds, table, _ = tables()
    per_class = per_class_table(ARMS, seeds=seeds, taxonomy=TAXONOMY)
    text = ablation_markdown(
        table, per_class=per_class, judges=JUDGES, taxonomy=TAXONOMY, title="Ablation: tiny"
    )
    lines = text.splitlines()
    first = next(line for line in lines if line.startswith("| masksyn"))
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[:6] == ["masksyn", "subset", "masksyn", "3", "58.0 ± 1.0", "+10.5 ± 3.1"]
    assert cells[-1] == "masksyn 61.2"
    assert all(len(line) == len(first) for line in lines[4:12] if line.startswith("|"))
    assert f"m2f {OTHER_MODEL}" in text and f"{OTHER_MODEL} trains another model than hrnet" in text
    assert "potted plant" in text and "ambiguous" in text and "nan" not in text
    plain = tables([ARMS[0], ARMS[1]], [])
    text = ablation_markdown(
        plain[1], per_class=per_class[:2], judges=[], taxonomy=TAXONOMY, title="x"
    )
    assert OTHER_MODEL not in text and CONTROL not in text and "Synthetic pairs" not in text


HOSTILE = ["<img src=x onerror=alert(1)>", "a|b", "**bold** `code`", "[x](javascript:y)", "$5{x$"]


@pytest.mark.filterwarnings("error")
def test_names_of_classes_are_neither_markdown_nor_html_nor_math():
    taxonomy = Taxonomy.from_names(stuff=HOSTILE[:2], things=HOSTILE[2:])
    iou = dict.fromkeys(taxonomy.slugs, 50.0)
    arms = [arm("baseline", SeedScores(miou=50.0, pixel_accuracy=80.0, per_class_iou=iou))]
    seeds = seed_table(arms, taxonomy=taxonomy)
    table = ablation_table(arms, seeds=seeds, judges=[], baseline="baseline")
    per_class = per_class_table(arms, seeds=seeds, taxonomy=taxonomy)
    text = ablation_markdown(
        table, per_class=per_class, judges=[], taxonomy=taxonomy, title="Ablation: <b>x</b>"
    )
    header = next(line for line in text.splitlines() if "onerror" in line)
    for name in HOSTILE:
        escaped = re.sub(r"([\\`*\[\]<>|$])", r"\\\1", name)
        assert escaped in header
    assert len(re.findall(r"(?<!\\)\|", header)) == len(HOSTILE) + 2
    assert re.search(r"(?<!\\)[<`*$\[]", text) is None
    figure = per_class_figure(
        per_class,
        delta=per_class_delta(per_class, table=table),
        table=table,
        taxonomy=taxonomy,
        title="$",
    )
    figure.savefig(io.BytesIO())


def test_boundary_iou_is_the_last_score_and_old_reports_have_none():
    values = (20.0, 22.0, 24.0)
    newer = [
        s.model_copy(update={"boundary_miou": value})
        for s, value in zip(ARMS[0].seeds.values(), values, strict=True)
    ]
    seeds = seed_table([arm("baseline", *newer), ARMS[1]], taxonomy=TAXONOMY)
    table = ablation_table(
        [arm("baseline", *newer), ARMS[1]], seeds=seeds, judges=[], baseline="baseline"
    )
    text = ablation_markdown(
        table,
        per_class=per_class_table(ARMS[:2], seeds=seeds, taxonomy=TAXONOMY),
        judges=[],
        taxonomy=TAXONOMY,
        title="x",
    )
    lines = [line for line in text.splitlines() if line.startswith(("| Arm", "| baseline"))]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[:2]]
    assert dict(zip(*cells, strict=True))["Boundary"] == "22.0 ± 2.0"
    assert cells[0][-3:] == ["Pixel acc.", "Boundary", "Judge on its pairs"]
    assert arm_figures(table)["baseline"]["boundary"] == 22.0
    assert "boundary" not in arm_figures(table)["masksyn"]
    assert flat_metrics(table, judges=[])["baseline.boundary_miou"] == 22.0
    seeds = seed_table(ARMS[:2], taxonomy=TAXONOMY)
    plain = ablation_table(ARMS[:2], seeds=seeds, judges=[], baseline="baseline")
    assert "boundary_miou" not in plain and "boundary" not in arm_figures(plain)["baseline"]


def test_scores_of_several_scales_get_a_column_if_there_are_any():
    several = [
        s.model_copy(update={"miou_ms": value})
        for s, value in zip(ARMS[0].seeds.values(), (50.0, 52.0, 54.0), strict=True)
    ]
    tested = [arm("baseline", *several), ARMS[1]]
    seeds, table, _ = tables(tested, [])
    assert table["miou_ms"].tolist()[0] == 52.0 and table["miou_ms_std"].tolist()[0] == 2.0
    assert np.isnan(table["miou_ms"].tolist()[1])
    per_class = per_class_table(tested, seeds=seeds, taxonomy=TAXONOMY)
    text = ablation_markdown(table, per_class=per_class, judges=[], taxonomy=TAXONOMY, title="x")
    assert "| 52.0 ± 2.0 |" in text and "m.s.: mIoU of several scales" in text
    _, plain, _ = tables()
    assert "miou_ms" not in plain
