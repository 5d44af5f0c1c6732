"""The texts that MLflow shows: tables with room between columns, and nothing cut in the middle."""

import pytest

from seggen_core.tracking.describe import (
    HOW_TO_READ,
    MAX_NOTE,
    experiment_text,
    model_text,
    note,
)

HEAD = "| source | path | md5 |\n|---|---:|---|\n"
ROW = "| [car](#/runs/1)   | data/synthetic/car | `{}` |\n"


def test_columns_of_a_table_are_kept_apart_and_nothing_else_changes() -> None:
    text = f"Made from:\n\n{HEAD}{ROW.format('a')}| a\\|b | c | d |\n\nA | B\n"
    assert note(text) == (
        "Made from:\n\n| source&#8199; | path&#8199; | md5 |\n|---|---:|---|\n"
        "| [car](#/runs/1)&#8199; | data/synthetic/car&#8199; | `a` |\n"
        "| a\\|b&#8199; | c&#8199; | d |\n\nA | B\n"
    )


def test_a_text_that_is_too_long_ends_with_a_whole_row_and_says_so() -> None:
    rows = [ROW.format(f"{n:032}") for n in range(300)]
    shown = note(HEAD + "".join(rows))
    assert MAX_NOTE - 200 < len(shown) <= MAX_NOTE
    table, _, rest = shown.partition("\n\n")
    assert table.endswith("` |") and "seggen lineage" in rest


def test_how_to_read_the_page_stands_above_what_may_be_cut() -> None:
    table = f"# Arms\n\nPercent.\n\n{HEAD}\n## IoU per class\n\n{HEAD}{ROW.format('x' * 9000)}"
    pages = {"panoptic": "#/p", "semantic": "#/s"}
    shown = note(experiment_text(table, arms="#/a", comparisons=pages))
    assert shown.splitlines()[2] == (
        "[All arms with their scores](#/a) · [The arms compared](#/s) · "
        "[The panoptic arms compared](#/p)"
    )
    assert HOW_TO_READ in shown
    assert shown.index(HOW_TO_READ) < shown.index("### IoU per class") < len(shown) <= MAX_NOTE
    assert "IoU per class" in experiment_text(table, arms="", comparisons={})


@pytest.mark.parametrize(
    "tags, text",
    [
        ({"miou": "50.8321", "seed": "2"}, "test mIoU 50.8, seed 2"),
        ({"pq": "32.41", "seed": "0"}, "test PQ 32.4, seed 0"),
        ({"ap": "9.96", "seed": "0"}, "test AP 10.0, seed 0"),
        ({"ap": "None", "seed": "0"}, "seed 0"),
    ],
)
def test_a_model_is_described_by_the_score_of_its_task(tags: dict[str, str], text: str) -> None:
    assert model_text(tags) == text
