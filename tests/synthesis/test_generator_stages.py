"""The stages `text2mask` and `mask2img` make the models that MaskSyn and ImgSyn read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest
import torch
from PIL import Image

from seggen_core.config import DiffusionTrainingConfig
from seggen_core.errors import CaptionError
from seggen_core.generators.foundation import load_mask2img, load_pipeline
from seggen_core.generators.generator_training import GeneratorTraining
from seggen_core.project.paths import ProjectPaths
from seggen_core.stages import mask2img, text2mask
from tests.synthesis.conftest import PARAMS, write_config

TRAINING = {
    "num_steps": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "checkpoint_every": 2,
    "precision": "fp32",
    "preview": {"num_inference_steps": 2},
}
STAGES = pytest.mark.parametrize("stage", [text2mask, mask2img], ids=["text2mask", "mask2img"])


def name_of(stage: ModuleType) -> str:
    return stage.__name__.rpartition(".")[2]


@pytest.fixture
def begin(
    make_project: Callable[[str], ProjectPaths],
) -> Callable[[ModuleType], tuple[ProjectPaths, Any]]:
    """Return a function that makes a project without the stage's model, and its configuration."""

    def make(stage: ModuleType) -> tuple[ProjectPaths, Any]:
        paths = make_project(name_of(stage))
        shutil.rmtree(paths.model(name_of(stage)))
        return paths, write_config(paths, text2mask=TRAINING, mask2img=TRAINING)

    return make


def contents(folder: Path) -> dict[str, bytes]:
    return {
        p.relative_to(folder).as_posix(): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


@STAGES
def test_a_killed_run_ends_in_the_same_bytes(
    stage: ModuleType,
    begin: Callable[[ModuleType], tuple[ProjectPaths, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = name_of(stage)
    (whole, config), (killed, _) = begin(stage), begin(stage)
    stage.run(config, paths=whole, item=None)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(stage, f"draw_{name}", interrupted)
        with pytest.raises(KeyboardInterrupt):
            stage.run(config, paths=killed, item=None)
    assert not killed.model(name).exists()
    stage.run(config, paths=killed, item=None)
    assert contents(killed.model(name)) == contents(whole.model(name))
    assert not (killed.scratch / name).exists()
    assert killed.preview(name).read_bytes() == whole.preview(name).read_bytes()
    with Image.open(whole.preview(name)) as picture:
        assert picture.width > 10 * 128 and picture.height > 2 * 128
    assert not [
        p for p in contents(whole.model(name)) if p.endswith((".bin", ".pt", ".ckpt", ".pkl"))
    ]


@STAGES
def test_random_crops_are_trained_on_beside_the_samples(
    stage: ModuleType,
    begin: Callable[[ModuleType], tuple[ProjectPaths, Any]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[tuple[int, str]] = []

    def stop(training: GeneratorTraining, _: DiffusionTrainingConfig) -> None:
        seen.append((len(training.data.captions), training.scratch.name))
        raise KeyboardInterrupt

    monkeypatch.setattr(stage, f"make_{name_of(stage)}", stop)
    for crops in (None, {"per_sample": 2}, {"per_sample": 2, "min_side": 0.3}):
        paths, _ = begin(stage)
        settings = TRAINING | {"random_crops": crops}
        with pytest.raises(KeyboardInterrupt):
            stage.run(
                write_config(paths, text2mask=settings, mask2img=settings), paths=paths, item=None
            )
    numbers, states = zip(*seen, strict=True)
    assert numbers == (numbers[0], 3 * numbers[0], 3 * numbers[0])
    assert len(set(states)) == 3  # other crops never meet an old state


def test_what_they_made_is_loaded_by_what_reads_it(
    begin: Callable[[ModuleType], tuple[ProjectPaths, Any]],
) -> None:
    paths, config = begin(text2mask)
    text2mask.run(config, paths=paths, item=None)
    foundation, drawer = (
        load_pipeline(paths.model("foundation")),
        load_pipeline(paths.model("text2mask")),
    )
    assert drawer.vae.config.scaling_factor != foundation.vae.config.scaling_factor
    weights = foundation.unet.state_dict()
    assert any(not torch.equal(v, weights[k]) for k, v in drawer.unet.state_dict().items())
    paths, config = begin(mask2img)
    mask2img.run(config, paths=paths, item=None)
    pipeline = load_mask2img(paths.model("foundation"), paths.model("mask2img"))
    assert all(torch.equal(v, weights[k]) for k, v in pipeline.unet.state_dict().items())


@STAGES
def test_a_missing_caption_says_what_to_run(
    stage: ModuleType, begin: Callable[[ModuleType], tuple[ProjectPaths, Any]]
) -> None:
    paths, config = begin(stage)
    pd.read_parquet(paths.captions).iloc[1:].to_parquet(paths.captions)
    with pytest.raises(
        CaptionError,
        match=r"1 training samples have no caption, e\.g\. train-00000 \(run: dvc repro captions\)",
    ):
        stage.run(config, paths=paths, item=None)
    assert PARAMS["dataset"]["num_train"] == 40
