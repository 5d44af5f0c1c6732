"""`seggen predict`: pictures in, masks out; and trained segmenters without seggen."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from seggen_core.cli import main
from seggen_core.config import SegmenterConfig
from seggen_core.segmentation.input_size import InputSize
from seggen_core.segmentation.models import build_segmenter, load_segmenter, save_segmenter
from seggen_core.segmentation.predict import predict_maps
from tests.commands.videos import write_video
from tests.segmentation.tiny import ID2LABEL, TINY_EOMT, TINY_HRNET, TINY_MASK2FORMER

MODELS: dict[str, dict[str, Any]] = {
    "hrnet": {"backbone_kwargs": TINY_HRNET, "head_width": 8, "stem_stride": 1},
    "mask2former": {"architecture": TINY_MASK2FORMER},
    "eomt": {"architecture": TINY_EOMT},
}


def save_model(name: str, folder: Path) -> Path:
    """Save a segmenter that sees squares of 32 pixels; return its folder."""
    torch.manual_seed(3)
    config = SegmenterConfig(model=name, **MODELS[name])  # type: ignore[arg-type]
    save_segmenter(build_segmenter(config, id2label=ID2LABEL), folder=folder)
    InputSize(square=32).write(folder)
    return folder


@pytest.fixture(scope="module", params=list(MODELS))
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved segmenter that sees squares of 32 pixels."""
    return save_model(request.param, tmp_path_factory.mktemp("model") / request.param)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Three pictures of different sizes; one below a folder of its own."""
    folder = tmp_path / "photos"
    (folder / "b").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in {"a.png": (32, 32), "b/c.jpg": (40, 70), "d.jpeg": (64, 20)}.items():
        small = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(small).resize(size[::-1]).save(folder / name)
    return folder


def masks(folder: Path) -> dict[str, np.ndarray]:
    root = folder / "masks"
    return {
        p.relative_to(root).with_suffix("").as_posix(): np.asarray(Image.open(p))
        for p in sorted(root.rglob("*.png"))
    }


def test_masks_have_the_size_of_their_pictures(model: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(photos), "--model", str(model), "--out", str(out)]) == 0
    predicted = masks(out)
    assert {name: ids.shape for name, ids in predicted.items()} == {
        "a": (32, 32),
        "b/c": (40, 70),
        "d": (64, 20),
    }
    images = np.asarray(Image.open(photos / "a.png"))[None]
    assert np.array_equal(predicted["a"], predict_maps(load_segmenter(model), images=images)[0])
    rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["a", "b/c", "d"]
    assert all(sum(row["classes"].values()) == pytest.approx(1, abs=1e-4) for row in rows)
    assert Image.open(out / "overlays/b/c.png").size == (70, 40)
    assert [row["name"] for row in json.loads((out / "classes.json").read_text())] == list(
        ID2LABEL.values()
    )


def test_a_second_run_predicts_what_is_missing(
    model: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    command = ["predict", str(photos), "--model", str(model), "--out", str(out)]
    main(command)
    first = masks(out)
    (out / "masks" / "d.png").unlink()
    capsys.readouterr()
    assert main(command) == 0 and "3 predictions" in (text := capsys.readouterr().out)
    assert "1 of them by this run" in text
    assert all(np.array_equal(ids, first[name]) for name, ids in masks(out).items())
    assert main([*command, "--multi-scale"]) == 2
    assert "of another model or of other settings" in capsys.readouterr().err


def test_pictures_keep_their_aspect_where_the_recipe_does(
    model: Path, photos: Path, tmp_path: Path
) -> None:
    before = InputSize.read(model)
    for size in (InputSize(), InputSize(short_side=24, max_side=40), InputSize(short_side=24)):
        size.write(model)
        assert InputSize.read(model) == size
        out = tmp_path / f"{size.short_side}-{size.max_side}"
        several = ["--multi-scale"] if size.max_side else []
        assert (
            main(["predict", str(photos), "--model", str(model), "--out", str(out), *several]) == 0
        )
        assert masks(out)["b/c"].shape == (40, 70)
    before.write(model)


def test_a_bad_picture_is_named_and_the_others_go_on(
    model: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (photos / "broken.png").write_bytes((photos / "a.png").read_bytes()[:40])
    out = tmp_path / "out"
    assert main(["predict", str(photos), "--model", str(model), "--out", str(out)]) == 1
    assert "broken.png" in caplog.text and len(masks(out)) == 3


def test_pictures_of_other_formats_are_named(
    model: Path, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.webp", "b/e.tif", "b/f.bmp"):
        Image.open(photos / "a.png").save(photos / name)
    (photos / "notes.txt").write_text("no picture")
    out = tmp_path / "out"
    for _ in range(2):
        assert main(["predict", str(photos), "--model", str(model), "--out", str(out)]) == 1
        assert list(masks(out)) == ["a", "b/c", "d"]
        rows = [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]
        assert [row["name"] for row in rows] == ["a", "b/c", "d"]
    assert all(name in caplog.text for name in ("a.webp", "e.tif", "f.bmp"))
    assert "notes.txt" not in caplog.text


def test_frames_of_a_video(
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_video(tmp_path / "v.mp4", num_frames=5)
    out = tmp_path / "out"
    command = ["predict", str(tmp_path / "v.mp4"), "--model", str(model), "--out", str(out)]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert main([*command, "--every", "2", "--no-overlays"]) == 0
    assert "0/3" in capsys.readouterr().err, "a bar of frames"
    assert list(masks(out)) == [f"v/frame_{k:06d}" for k in (0, 2, 4)]
    assert not (out / "overlays").exists()
    (tmp_path / "v.mp4").write_bytes(b"no video")
    assert main([*command[:-1], str(tmp_path / "out2")]) == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["nope.png", "--model", "{model}"], "does not exist"),
        (["{model}/config.json", "--model", "{model}"], "is no JPEG, PNG or video"),
        (["{model}", "--model", "{model}"], "holds no picture"),
        (["{photos}"], "name the segmenter"),
        (["{photos}", "--arm", "x"], "isn't trained"),
        (["{photos}", "--arm", "baselin"], "did you mean baseline?; trained here: baseline"),
        (["{photos}", "--model", "{photos}"], "there is no file"),
        (["{photos}", "--model", "{photos}"], "name the folder of a segmenter"),
        (["{photos}", "--model", "data/checkpoints/a/seed0"], "dvc repro -f -s train_seg@a"),
        (["{photos}", "--model", "data/checkpoints/a/seed0/best"], "dvc repro -f -s train_seg@a"),
        (["{photos}", "--model", "{model}", "--out", "{photos}/a.png"], "a.png is a file"),
        (["{photos}", "--model", "{model}", "--out", "{photos}/a.png/x"], "a.png is a file"),
        (["{photos}", "--model", "{model}", "--every", "0"], "--every is 0"),
        (["{photos}", "{photos}/b/../a.png", "--model", "{model}"], "of one name, a"),
    ],
)
def test_odd_input_is_one_message(
    arguments: list[str],
    message: str,
    model: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/checkpoints/baseline").mkdir(parents=True)
    (tmp_path / "data/checkpoints/baseline/metrics.json").write_text("{}")
    assert main(["predict", *(a.format(model=model, photos=photos) for a in arguments)]) == 2
    assert message in capsys.readouterr().err


WITHOUT_SEGGEN = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "seggen_core":
            raise AssertionError("seggen_core is imported")

sys.meta_path.insert(0, Refuse())
import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, pipeline

picture, *folders = sys.argv[1:]
image = Image.open(picture)
for folder in folders:
    network = AutoModelForUniversalSegmentation.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    inputs = processor(images=image, return_tensors="pt")
    with torch.inference_mode():
        outputs = network(pixel_values=inputs["pixel_values"])
    masks = torch.nn.functional.interpolate(
        outputs.masks_queries_logits, size=image.size[::-1], mode="bilinear", align_corners=False
    ).sigmoid()
    classes = outputs.class_queries_logits.softmax(-1)[..., :-1]
    ids = torch.einsum("bqc,bqhw->bchw", classes, masks).argmax(1)[0]
    np.save(f"{folder}.npy", ids.numpy().astype(np.uint8))
    parts = pipeline("image-segmentation", model=folder)(image, subtask="semantic")
    assert parts and {p["label"] for p in parts} <= {"sky", "grass", "car"}, parts
    assert all(p["mask"].size == image.size for p in parts)
"""


def test_transformers_opens_where_there_is_no_seggen(photos: Path, tmp_path: Path) -> None:
    picture = str(photos / "a.png")
    models = [save_model(name, tmp_path / name) for name in ("mask2former", "eomt")]
    for model in models:
        out = str(tmp_path / f"{model.name}_out")
        assert main(["predict", picture, "--model", str(model), "--out", out]) == 0
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_SEGGEN, picture, *map(str, models)],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    for model in models:
        predicted = masks(tmp_path / f"{model.name}_out")["a"]
        assert np.array_equal(np.load(f"{model}.npy"), predicted), model.name
