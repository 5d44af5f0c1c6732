"""Ten images of the user's own, from `seggen init` to the table; and DVC notices their changes."""

import contextlib
import importlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from dvc.repo import Repo
from PIL import Image

from seggen_core.cli import main
from seggen_core.config import load_config
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore

ROOT = Path(__file__).parent.parent
SIZES = {"train": 10, "val": 3, "test": 3}
CLASSES = ["wall", "floor", "chair"]


def write_masks(root: Path, *, shift: int = 0) -> None:
    """Pictures of 64 x 48 with three classes, at places that differ from sample to sample."""
    for split, count in SIZES.items():
        for i in range(count):
            mask = np.zeros((48, 64), np.uint8)
            mask[24:] = 1
            mask[16:40, (7 * i + shift) % 40 :][:, :20] = 2
            noise = np.random.default_rng([count, i, len(split)]).integers(0, 30, (48, 64, 3))
            image = np.array([[200, 190, 180], [90, 60, 40], [20, 90, 160]])[mask] + noise
            for kind, suffix, pixels in (("images", "png", image), ("masks", "png", mask)):
                folder = root / kind / split
                folder.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"im{i:03d}.{suffix}")


def shorten(params: Path) -> None:
    """One or two steps of everything; sizes of batches stay as the profile has them."""
    tree: dict[str, Any] = yaml.safe_load(params.read_text(encoding="utf-8"))
    few = {"num_inference_steps": 2}
    tree["text2mask"] |= {"num_steps": 2, "decoder_steps": 1, "warmup_steps": 1}
    tree["mask2img"] |= {"num_steps": 2, "warmup_steps": 1}
    for name in ("foundation", "text2mask", "mask2img"):
        tree[name]["preview"] |= few
    if "pretrain" in tree["foundation"]:
        tree["foundation"]["pretrain"] |= {"unet_steps": 2, "unet_decay_steps": 1}
        tree["foundation"]["pretrain"] |= {"image_size": 32, "random_crops": None}
        tree["text2mask"]["lora"] = {"rank": 2}
        tree["dataset"]["image_size"] = 32
        tree["seediff"]["cross_attention_resolution"] = 8
        tree["diffumask"]["affinity_net"] = {"feature_size": 16}
    for stage in ("text2mask", "mask2img"):
        if tree[stage].get("random_crops"):
            tree[stage]["random_crops"]["per_sample"] = 1
    tree["dataset"]["subset_seeds"] = [0]
    tree["masksyn"] |= {"samples_per_source": 1}
    tree["imgsyn"] |= {"samples_per_source": 1}
    for method in ("masksyn", "imgsyn"):
        for sampler in ("text2mask", "mask2img"):
            if sampler in tree[method]:
                tree[method][sampler] |= few
    tree["methods"] = ["masksyn", "imgsyn"]
    tree["train_seg"]["common"] |= {"num_steps": 2}
    arms = ("baseline", "masksyn_imgsyn", "full_real", "shuffled")
    tree["variants"] = {arm: tree["variants"][arm] for arm in arms if arm in tree["variants"]}
    tree["checks"] |= {"min_val_miou": 0, "min_judge_miou": 0}
    params.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project without parameters, and the dataset in it."""
    for name in ("scenes", "own_cpu"):
        shutil.copytree(
            ROOT / "profiles" / name,
            tmp_path / "profiles" / name,
            ignore=shutil.ignore_patterns("foundation"),
        )
    (tmp_path / "profiles" / "scenes" / "foundation").symlink_to(
        ROOT / "profiles" / "scenes" / "foundation"
    )
    write_masks(tmp_path / "ds")
    (tmp_path / "ds" / "classes.csv").write_text(
        "id,name,is_thing\n0,wall,no\n1,floor,no\n2,chair,yes\n"
    )
    return tmp_path


def init(project: Path) -> Path:
    params = project / "params.yaml"
    arguments = ["--dataset", "folder", "--root", str(project / "ds"), "--profile", "scenes"]
    assert main(["--params", str(params), "init", *arguments]) == 0
    return params


def test_ten_images_run_to_the_table(project: Path, capsys: pytest.CaptureFixture) -> None:
    params = project / "params.yaml"
    folders = [f"--{kind}={project / 'ds' / kind}" for kind in ("images", "masks")]
    assert main(["--params", str(params), "init", *folders, "--gpu-memory", "0"]) == 0
    for command in ("validate", "plan"):
        assert main(["--params", str(params), command]) == 0
    text = capsys.readouterr().out
    assert "folder (train 10, val 3, test 3 samples, 3 classes)" in text
    assert "no problems" in text and "plan of the profile own_cpu" in text
    shorten(params)
    config, paths = load_config(params), ProjectPaths(project)
    assert list(config.classes) == CLASSES

    def run(stage: str, *items: str) -> None:
        module = importlib.import_module(f"seggen_core.stages.{stage}")
        for item in items or (None,):
            module.run(config, paths=paths, item=item)

    for stage in ("dataset", "captions", "foundation", "text2mask", "mask2img"):
        run(stage)
    for stage in ("masksyn", "imgsyn"):
        run(stage, *CLASSES)
    for stage in ("train_seg", "evaluate"):
        run(stage, *config.variants)
    for stage in ("judge", "memorization"):
        run(stage, *config.methods)
    run("ablation")
    assert [len(SampleStore(paths.real(split))) for split in SIZES] == [10, 3, 3]
    table = pd.read_csv(paths.ablation / "ablation.csv")
    assert len(table) == 3
    lora = paths.model("text2mask") / "lora" / "pytorch_lora_weights.safetensors"
    assert lora.is_file(), "Text2Mask was trained by low-rank adapters"
    assert main(["--params", str(params), "validate"]) == 0
    assert "no problems" in capsys.readouterr().out


def test_exchanged_masks_and_classes_make_dvc_run_again(project: Path) -> None:
    init(project)
    for name in ("seggen_core", "dvc.yaml", ".dvcignore"):
        (project / name).symlink_to(ROOT / name)
    environment = os.environ | {"DVC_NO_ANALYTICS": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"

    def dvc(*arguments: str) -> str:
        command = [str(Path(sys.executable).with_name("dvc")), *arguments]
        done = subprocess.run(
            command, cwd=project, env=environment, check=True, capture_output=True, text=True
        )
        return done.stdout

    def stale() -> dict[str, Any]:
        """What `dvc status` finds, without the 2 s that the command takes to start."""
        with contextlib.chdir(project), Repo() as repo:
            return dict(repo.status(targets=["dataset", "code"]))

    Repo.init(str(project), no_scm=True).close()
    dvc("repro", "--quiet", "dataset")
    assert stale() == {}
    before = SampleStore(project / "data" / "real" / "train")[0].segmentation_map

    write_masks(project / "ds", shift=20)
    (project / "ds" / "classes.csv").write_text(
        "id,name,is_thing\n0,wall,no\n1,floor,no\n2,chair,no\n"
    )
    status = dvc("status", "dataset")
    assert "modified:" in status and "ds" in status
    dvc("repro", "--quiet", "dataset")
    after = SampleStore(project / "data" / "real" / "train")[0].segmentation_map
    assert (before != after).any()
    assert stale() == {}
