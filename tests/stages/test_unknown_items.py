"""Every stage with items says which there are, if it is given one that is unknown."""

import json
import shutil
from pathlib import Path

import pytest

from seggen_core.cli import _ITEMS, main
from seggen_core.config import SYNTHESIS_METHODS
from seggen_core.scenes.layout import SCENES_TAXONOMY

ROOT = Path(__file__).parents[2]


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """The parameters of a project that only has a taxonomy."""
    (tmp_path / "data" / "real").mkdir(parents=True)
    taxonomy = tmp_path / "data" / "real" / "taxonomy.json"
    taxonomy.write_text(json.dumps(SCENES_TAXONOMY.to_json()), encoding="utf-8")
    return Path(shutil.copy(ROOT / "params.yaml", tmp_path))


@pytest.mark.parametrize("stage", _ITEMS)
def test_an_unknown_item_is_said_with_the_known_ones(
    params: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = {
        "class slug": "sky, grass",
        "variant": "baseline, masksyn",
        "method": "masksyn, imgsyn",
        "suite": "suite",  # params.yaml lists none: the message names the key
        "transfer": "transfer",
        "mask recipe": "mask_recipe",
    }
    for item in ("nothing", f"{stage}@nothing"):
        assert main(["--params", str(params), stage, "--item", item]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"seggen {stage}: there is no ")
        assert "'nothing'" in message and known[_ITEMS[stage]] in message
    assert not (params.parent / ".seggen" / "metrics").exists(), "no run was begun"


@pytest.mark.parametrize("stage", SYNTHESIS_METHODS)
def test_a_class_of_params_that_the_dataset_lacks_is_said(
    params: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = params.read_text(encoding="utf-8")
    params.write_text(text.replace("classes: [sky,", "classes: [cat, sky,"), encoding="utf-8")
    assert main(["--params", str(params), stage, "--item", "cat"]) == 2
    message = capsys.readouterr().err
    assert "the dataset has no class 'cat'" in message and "sky, grass" in message
