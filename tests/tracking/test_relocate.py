"""A database of MLflow whose project was moved."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from seggen_core.tracking.relocate import relocate


@pytest.fixture
def database(tmp_path: Path) -> Path:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file)) as opened:
        opened.executescript(
            """
            CREATE TABLE experiments (artifact_location TEXT);
            CREATE TABLE runs (artifact_uri TEXT);
            CREATE TABLE model_versions (source TEXT, storage_location TEXT);
            INSERT INTO experiments VALUES ('file:///old/mlruns'), ('s3://bucket/mlruns');
            INSERT INTO runs VALUES
                ('file:///old/mlruns/1/artifacts'), ('file:///old/mlruns2/1'), ('s3://bucket/x');
            INSERT INTO model_versions VALUES ('models:/m-1', 'file:///old/mlruns/m-1');
            """
        )
    return file


def values(file: Path, table: str) -> list[tuple[str, ...]]:
    with closing(sqlite3.connect(file)) as opened:
        return opened.execute(f"SELECT * FROM {table}").fetchall()


def test_places_below_the_old_folder_move_and_no_others(database: Path, tmp_path: Path) -> None:
    new = (tmp_path / "mlruns").as_uri()
    assert relocate(database, folder=tmp_path / "mlruns") == 3
    assert values(database, "experiments") == [(new,), ("s3://bucket/mlruns",)]
    assert values(database, "runs") == [
        (f"{new}/1/artifacts",),
        ("file:///old/mlruns2/1",),
        ("s3://bucket/x",),
    ]
    assert values(database, "model_versions") == [("models:/m-1", f"{new}/m-1")]
    assert relocate(database, folder=tmp_path / "mlruns") == 0
