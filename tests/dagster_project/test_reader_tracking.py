"""What Dagster shows of a stage's log: how far it is, and its page in MLflow."""

import re
from pathlib import Path

import pytest

from dagster_dvc.graph import StageNode
from dagster_project.reader import SegGenReader
from seggen_core.config import RuntimeConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.tracking import track_stage
from seggen_core.tracking.follow import replay


@pytest.fixture
def node() -> StageNode:
    """The stage `text2mask`, of which only the name counts here."""
    empty = dict.fromkeys(("cmd", "template", "deps", "outs", "metrics", "plots", "upstream"), ())
    return StageNode(
        name="text2mask",
        group="text2mask",
        key=None,
        dimensions={},
        params={},
        desc=None,
        meta={},
        **empty,
    )


def test_progress_and_the_page_of_the_newest_run(
    tmp_path: Path, node: StageNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    reader, paths = SegGenReader(), ProjectPaths(tmp_path)
    assert reader.progress(tmp_path, node) is None
    for loss in (2.0, 1.0):
        with track_stage(
            "text2mask",
            item=None,
            params={"num_steps": 40, "decoder_steps": 90},
            runtime=RuntimeConfig(),
            paths=paths,
        ) as run:
            run.log_metrics({"train/loss": loss}, step=10)
            line = f"text2mask: step 10 of 40, train/loss {loss:.4g}"
            assert reader.progress(tmp_path, node) == line
            assert "took" not in reader.metadata(tmp_path, node) or loss == 1.0
            run.log_metrics({"train/loss": loss}, step=30)
            line = str(reader.progress(tmp_path, node))
            pattern = r"text2mask: step 30 of 40, about \d+ s left, train/loss [12]"
            assert re.fullmatch(pattern, line), line
            run.log_metrics({"decoder/loss": loss}, step=10)
            assert "step 10 of 90, decoder/loss" in str(reader.progress(tmp_path, node))
            assert "mlflow_run" not in reader.metadata(tmp_path, node)
    assert {"finished", "took"} <= reader.metadata(tmp_path, node).keys()
    assert not replay(paths, RuntimeConfig()).problems
    assert "/#/runs/" in str(reader.metadata(tmp_path, node)["mlflow_run"].value)
