"""What lies beside a trained segmenter's weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from seggen_core.errors import FoundationError
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.input_size import InputSize
from seggen_core.stages import train_seg
from tests.segmentation.conftest import SIZE
from tests.segmentation.test_stages import settings

NAMES = ["README.md", "config.json", "history.csv", "metrics.json", "model.safetensors"]


@pytest.mark.parametrize("variant", ["synthetic_only", "mask2former"])
def test_a_folder_says_what_the_model_is(project: ProjectPaths, variant: str) -> None:
    train_seg.run(settings(), paths=project, item=variant)
    folder = project.checkpoint(variant) / "seed0"
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = [p.name for p in files if p.parent == folder]
    assert names == sorted([*NAMES, "preprocessor_config.json"])
    assert {p.stat().st_mode & 0o777 for p in files} == {0o644}, "others can read all of it"
    assert InputSize.read(folder) == InputSize(square=SIZE)
    card, metrics = (
        (folder / "README.md").read_text(),
        json.loads((folder / "metrics.json").read_text()),
    )
    library = "timm" if variant == "synthetic_only" else "transformers"
    for text in (
        f"library_name: {library}",
        variant.replace("_", "\\_") + ", seed 0",
        f"| mIoU on the validation split | {metrics['val_miou']:.1f}% |",
        f"| images are brought to | {SIZE}x{SIZE} pixels",
        "| 2 | car | thing |",
        "## Licence",
    ):
        assert text in card, text


@pytest.mark.parametrize(
    "size",
    [InputSize(), InputSize(square=64), InputSize(short_side=512), InputSize(None, 512, 2048)],
)
@pytest.mark.parametrize("model_type", ["mask2former", "eomt", "seggen_hrnet"])
def test_sizes_are_read_back(tmp_path: Path, size: InputSize, model_type: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type, "image_size": 32}))
    size.write(tmp_path)
    assert InputSize.read(tmp_path) == size
    file = tmp_path / "preprocessor_config.json"
    tree = json.loads(file.read_text())
    for wrong in ({}, [], {"square": -1}, tree["seggen_input"] | {"square": True}):
        file.write_text(json.dumps(tree | {"seggen_input": wrong}))
        with pytest.raises(FoundationError, match="expected sizes in pixels"):
            InputSize.read(tmp_path)
    file.unlink()
    assert InputSize.read(tmp_path) == replace(size, square=None, short_side=None, max_side=None)
