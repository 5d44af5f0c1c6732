"""Segmenters as ONNX files: equal scores in a process without torch and without seggen."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from seggen_core.cli import main
from seggen_core.config import SegmenterConfig
from seggen_core.segmentation.input_size import InputSize
from seggen_core.segmentation.models import build_segmenter, load_segmenter, save_segmenter
from tests.segmentation.tiny import ID2LABEL, TINY_EOMT, TINY_HRNET, TINY_MASK2FORMER

SIZE = 32
MODELS = {
    "hrnet": {"backbone_kwargs": TINY_HRNET, "head_width": 8, "stem_stride": 1},
    "eomt": {"architecture": TINY_EOMT},
    "mask2former": {"architecture": TINY_MASK2FORMER},
}
WITHOUT_SEGGEN = """
import json
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("seggen_core", "torch"):
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Refuse())
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
labels = json.loads(session.get_modelmeta().custom_metadata_map["id2label"])
assert list(labels.values()) == ["sky", "grass", "car"], labels
images = np.load(sys.argv[2]).transpose(0, 3, 1, 2).astype(np.float32) / 255
(scores,) = session.run(["scores"], {"images": images})
np.save(sys.argv[3], scores)
"""


@pytest.mark.parametrize("name", list(MODELS))
def test_scores_are_the_segmenters(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    folder, out = tmp_path / name, tmp_path / "out" / "segmenter.onnx"
    out.parent.mkdir()
    torch.manual_seed(3)
    config = SegmenterConfig(model=name, **MODELS[name])  # type: ignore[arg-type]
    segmenter = build_segmenter(config, id2label=ID2LABEL)
    if name == "eomt":
        segmenter.network.attn_mask_probs.zero_()  # type: ignore[union-attr,operator]
    save_segmenter(segmenter, folder=folder)
    InputSize(square=SIZE).write(folder)
    assert main(["export-model", "--model", str(folder), "--out", str(out)]) == 0
    assert f"images of {SIZE}x{SIZE} pixels; scores differ" in capsys.readouterr().out
    assert [p.name for p in out.parent.iterdir()] == [out.name], "weights are inside"

    images = np.random.default_rng(1).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", images)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    arguments = [str(out), str(tmp_path / "images.npy"), str(tmp_path / "scores.npy")]
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_SEGGEN, *arguments],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    scores = np.load(tmp_path / "scores.npy")
    with torch.inference_mode():
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
        expected = load_segmenter(folder).predict_logits(pixels).numpy()
    assert np.abs(scores - expected).max() < 1e-4 * max(1.0, np.abs(expected).max())
    assert np.array_equal(scores.argmax(1), expected.argmax(1))


def test_a_size_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SegmenterConfig(model="hrnet", **MODELS["hrnet"])  # type: ignore[arg-type]
    save_segmenter(build_segmenter(config, id2label=ID2LABEL), folder=tmp_path / "hrnet")
    (tmp_path / "hrnet" / "config.json").write_text(
        json.dumps(json.loads((tmp_path / "hrnet" / "config.json").read_text()))
    )
    InputSize(short_side=64).write(tmp_path / "hrnet")
    assert main(["export-model", "--model", str(tmp_path / "hrnet")]) == 2
    assert "--size HEIGHT WIDTH" in capsys.readouterr().err
    assert main(["export-model"]) == 2
