"""What Dagster shows of a stage, read from files."""

from pathlib import Path

import pytest
from PIL import Image

from dagster_dvc.manifest import StageNode
from dagster_project.defs.reader import SegGenReader


@pytest.mark.parametrize("stage", ["foundation", "text2mask", "mask2img"])
def test_the_preview_of_a_model_lies_beside_its_folder(tmp_path: Path, stage: str) -> None:
    nothing = dict.fromkeys(("cmd", "template", "deps", "metrics", "plots", "upstream"), ())
    node = StageNode(
        name=stage,
        group=stage,
        key=None,
        dimensions={},
        outs=(f"data/models/{stage}",),
        params={},
        desc=None,
        meta={},
        **nothing,
    )
    (tmp_path / "data" / "models" / stage).mkdir(parents=True)
    assert "previews" not in SegGenReader().metadata(tmp_path, node)
    preview = tmp_path / ".seggen" / "previews" / f"{stage}.png"
    preview.parent.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(preview)
    assert "previews" in SegGenReader().metadata(tmp_path, node)
