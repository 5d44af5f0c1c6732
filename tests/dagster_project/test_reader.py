"""What Dagster shows of a stage, read from files."""

from pathlib import Path

import pytest
from PIL import Image

from dagster_dvc.graph import StageNode
from dagster_project.reader import SegGenReader
from seggen_core.project.digests import json_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.cache import RecordCache
from seggen_core.store.records import Record


def make_node(group: str, *, key: str | None, out: str) -> StageNode:
    nothing = dict.fromkeys(("cmd", "template", "deps", "metrics", "plots", "upstream"), ())
    return StageNode(
        name=group if key is None else f"{group}@{key}",
        group=group,
        key=key,
        dimensions={},
        outs=(out,),
        params={},
        desc=None,
        meta={},
        **nothing,
    )


def test_progress_counts_the_samples_that_a_running_stage_has_made(tmp_path: Path) -> None:
    reader = SegGenReader()
    node = make_node("masksyn", key="car", out="data/synthetic/masksyn/car")
    assert reader.progress(tmp_path, node) is None
    with RecordCache(ProjectPaths(tmp_path).record_cache("masksyn", "car")) as cache:
        assert reader.progress(tmp_path, node) is None
        for index in range(3):
            cache.add(json_digest([index], length=32), Record({}))
        assert reader.progress(tmp_path, node) == "masksyn@car: 3 samples made"
    alone = make_node("ablation", key=None, out="data/reports/ablation")
    assert reader.progress(tmp_path, alone) is None


@pytest.mark.parametrize("stage", ["foundation", "text2mask", "mask2img"])
def test_the_preview_of_a_model_lies_beside_its_folder(tmp_path: Path, stage: str) -> None:
    node = make_node(stage, key=None, out=f"data/models/{stage}")
    (tmp_path / "data" / "models" / stage).mkdir(parents=True)
    assert "previews" not in SegGenReader().metadata(tmp_path, node)
    preview = tmp_path / ".seggen" / "previews" / f"{stage}.png"
    preview.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(preview)
    assert "previews" in SegGenReader().metadata(tmp_path, node)
