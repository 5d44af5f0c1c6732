"""examples/dagster_dvc, as its README says: loaded, run, and up to date afterwards."""

import importlib.util
import json
import shutil
import subprocess
from pathlib import Path

import dagster as dg
import pytest

from dagster_dvc.repro import main
from dagster_dvc.status import changed_stages

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "dagster_dvc"


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example as git has it."""
    root = tmp_path / "example"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=EXAMPLE, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for file in listed.stdout.splitlines():
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(EXAMPLE / file, root / file)
    subprocess.run(["git", "init", "--quiet"], cwd=root, check=True)
    return root


def load(root: Path) -> dg.Definitions:
    spec = importlib.util.spec_from_file_location("example_definitions", root / "definitions.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.defs


def test_it_runs_in_dagster(example: Path) -> None:
    defs = load(example)
    assert {key.to_user_string() for key in defs.resolve_asset_graph().get_all_asset_keys()} == {
        "words",
        "report",
    }
    with dg.DagsterInstance.ephemeral() as instance:
        result = defs.resolve_job_def("repro").execute_in_process(instance=instance)
        events = result.filter_events(lambda event: event.is_step_materialization)
        assert [event.partition for event in events].count(None) == 1
        assert len(events) == 3
        partition = defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("words")], partition_key="de"
        )
        (event,) = partition.get_asset_materialization_events()
        assert str(event.materialization.metadata["dvc/outcome"].value).startswith("unchanged")
    assert json.loads((example / "data" / "report.json").read_text())["num_words"] > 10
    assert changed_stages(example) == {}


def test_it_runs_in_a_shell(example: Path) -> None:
    assert main(["--cd", str(example), "-j", "2"]) == 0
    assert changed_stages(example) == {}
