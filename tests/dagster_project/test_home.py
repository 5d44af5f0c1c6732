"""A fresh Dagster home: several processes at once make one, and none breaks it."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from tests.dagster_project.live import ROOT

NUM_PROCESSES = 12
PROGRAM = """
import sys
from pathlib import Path
import dagster as dg
from dagster_project.home import make_home
make_home(Path(sys.argv[1]))
with dg.DagsterInstance.get() as instance:
    instance.report_runless_asset_event(dg.AssetMaterialization("asset", partition=sys.argv[2]))
"""


def test_twelve_processes_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(home), str(index)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(NUM_PROCESSES)
    ]
    errors = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * NUM_PROCESSES, errors
    monkeypatch.setenv("DAGSTER_HOME", str(home))
    with dg.DagsterInstance.get() as instance:
        records = instance.fetch_materializations(dg.AssetKey("asset"), limit=100).records
    assert {record.partition_key for record in records} == set(map(str, range(NUM_PROCESSES)))


def test_settings_are_made_once_and_then_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dagster_project.home import make_home

    monkeypatch.setenv("DAGSTER_HOME", "")  # it is set by the function, and put back afterwards
    make_home(tmp_path, runs=3, slots=2)
    settings = tmp_path / "dagster.yaml"
    assert "max_concurrent_runs: 3" in settings.read_text()
    settings.write_text(settings.read_text().replace("enabled: true", "enabled: false"))
    make_home(tmp_path, runs=5)
    assert "max_concurrent_runs: 3" in settings.read_text()
    assert "enabled: true" not in settings.read_text()
