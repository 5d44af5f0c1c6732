"""Datasets of the Hugging Face Hub as Parquet files."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from seggen_core.errors import DatasetError
from tests.datasets.damage import FILES_OF_SAMPLES, STEM, bad_samples, open_, rotate
from tests.datasets.layouts import WRITERS
from tests.datasets.tool_layouts import change_parquet


@pytest.mark.parametrize("case", FILES_OF_SAMPLES)
@pytest.mark.parametrize("column", ["image", "label"])
def test_a_bad_picture_in_a_row_is_reported(tmp_path: Path, column: str, case: str) -> None:
    section = WRITERS["huggingface"](tmp_path)
    spoil, words, in_header = FILES_OF_SAMPLES[case]

    def edit(row: dict[str, Any]) -> None:
        if row["image"]["path"] == f"{STEM}.jpg":
            path = tmp_path / f"{STEM}{'.jpg' if column == 'image' else '.png'}"
            path.write_bytes(row[column]["bytes"])
            spoil(path, tmp_path)
            row[column]["bytes"] = path.read_bytes()
            path.unlink()

    change_parquet(tmp_path, edit)
    reader = open_(tmp_path, section)
    reports = bad_samples(reader)
    assert list(reports) == [STEM] and re.search(words, reports[STEM]), reports
    assert f"{column} of {STEM}" in reports[STEM]
    if in_header is not None:
        assert list(bad_samples(reader, headers=True)) == [STEM]


def test_rows_are_called_by_what_names_them(tmp_path: Path) -> None:
    section = WRITERS["huggingface"](tmp_path)
    reader = open_(tmp_path, section)
    before = reader.read("test", "c_000000").image

    def forget(row: dict[str, Any]) -> None:
        row["image"]["path"] = None

    change_parquet(tmp_path, forget)
    reader = open_(tmp_path, section)
    keys = reader.keys("test")
    assert all(re.fullmatch("[0-9a-f]{16}", key) for key in keys)
    np.testing.assert_array_equal(reader.read("test", keys[0]).image, before)

    numbers = iter([1, 2, 1, 3, 4])

    def some_the_same(row: dict[str, Any]) -> None:
        row["image"]["path"] = f"{next(numbers)}.jpg"

    change_parquet(tmp_path, some_the_same)
    reports = bad_samples(open_(tmp_path, section))
    assert list(reports) == ["1"] and "has 2 rows called 1: train-" in reports["1"]

    def absent(row: dict[str, Any]) -> None:
        row["label"] = None

    change_parquet(tmp_path, absent)
    assert "has no label; expected its bytes" in bad_samples(open_(tmp_path, section))["4"]


def test_columns_with_other_names_are_named_by_the_user(tmp_path: Path) -> None:
    section = WRITERS["huggingface"](tmp_path)
    for path in (tmp_path / "data").glob("*.parquet"):
        table = pq.read_table(path)
        pq.write_table(table.rename_columns(["photo", "truth"]), path)
    with pytest.raises(DatasetError, match=r"has the columns photo, truth, .* dataset\.columns"):
        open_(tmp_path, section)
    columns = {"image": "photo", "mask": "truth"}
    assert bad_samples(open_(tmp_path, section | {"columns": columns})) == {}
    with pytest.raises(DatasetError, match=r"no column 'x' for dataset\.columns\.mask"):
        open_(tmp_path, section | {"columns": columns | {"mask": "x"}})
    (tmp_path / "id2label.json").unlink()
    with pytest.raises(DatasetError, match=r"has no id2label\.json"):
        open_(tmp_path, section | {"columns": columns})


def test_a_damaged_parquet_file_is_reported(tmp_path: Path) -> None:
    section = WRITERS["huggingface"](tmp_path)
    path = next((tmp_path / "data").glob("train*"))
    data = path.read_bytes()
    for cut in (0, 4, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:cut])
        with pytest.raises(DatasetError, match=r"train-.*parquet can't be read"):
            open_(tmp_path, section)


def test_half_turns_of_packed_pictures(tmp_path: Path) -> None:
    section = WRITERS["huggingface"](tmp_path)

    def edit(row: dict[str, Any]) -> None:
        path = tmp_path / "x.jpg"
        path.write_bytes(row["image"]["bytes"])
        rotate(path)
        row["image"]["bytes"] = path.read_bytes()
        path.unlink()

    change_parquet(tmp_path, edit)
    assert "EXIF orientation 3" in bad_samples(open_(tmp_path, section))[STEM]
