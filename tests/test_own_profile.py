"""The profile `own`, which `seggen init --images` writes for a GPU, run from photos to the table.

Only sizes are changed, as in test_profiles_run.py: LoRA, native sizes, a pretrained Mask2Former and
its recipe are the profile's. `test_small_data.py` runs `own_cpu`.
"""

import importlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from seggen_core.cli import main
from seggen_core.config import load_config
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import SampleStore
from tests.segmentation.tiny import TINY_MASK2FORMER
from tests.test_small_data import CLASSES, SIZES, write_masks
from tests.tiny_foundations import save_sd2_base

ROOT = Path(__file__).parent.parent
SMALL, LARGE = 64, 512
SAMPLER = {"num_inference_steps": 2, "micro_batch_size": 2}


def save_mask2former(folder: Path) -> None:
    """Save what stands for the Hub's Mask2Former: another number of classes, random weights."""
    import torch
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation

    torch.manual_seed(0)
    config = Mask2FormerConfig(**TINY_MASK2FORMER, num_labels=7)
    Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)


def shorten(params: Path) -> None:
    """Two steps of everything at an eighth of the size; which settings there are stays."""
    tree: dict[str, Any] = yaml.safe_load(params.read_text(encoding="utf-8"))
    tree["dataset"] |= {"image_size": SMALL, "subset_seeds": [0]}
    tree["foundation"] |= {"source": "sd2", "revision": None, "reads": "sd2"}
    for stage in ("text2mask", "mask2img"):
        tree[stage] |= {"num_steps": 2, "batch_size": 2, "warmup_steps": 1}
        tree[stage]["random_crops"]["per_sample"] = 1
        tree[stage]["preview"] |= SAMPLER
    tree["text2mask"]["lora"]["rank"] = 2
    tree["foundation"]["preview"] |= SAMPLER
    for method in ("masksyn", "imgsyn"):
        tree[method] |= {"samples_per_source": 1, "batch_size": 2}
        for sampler in ("text2mask", "mask2img"):
            if sampler in tree[method]:
                tree[method][sampler] |= SAMPLER
    train = tree["train_seg"]["common"]
    train |= {"num_steps": 2, "batch_size": 2, "warmup_steps": 1, "validate_every": 2}
    train |= {"checkpoint_every": 2, "num_readers": 2}
    for key in ("crop_size", "short_side", "max_side", "test_short_side", "test_max_side"):
        train[key] = train[key] * SMALL // LARGE
    tree["variants"] = {arm: tree["variants"][arm] for arm in ("baseline", "masksyn_imgsyn")}
    tree["checks"] |= {"min_val_miou": 0, "min_judge_miou": 0, "min_edge_agreement": 0}
    tree["checks"] |= {"max_histogram_distance": 1}
    params.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")


def test_the_profile_of_own_photos_runs_to_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "disk")
    shutil.copytree(ROOT / "profiles" / "own", tmp_path / "profiles" / "own")
    write_masks(tmp_path / "ds")
    (tmp_path / "ds" / "classes.csv").write_text("id,name\n0,wall\n1,floor\n2,chair\n")
    save_sd2_base(tmp_path / "sd2")
    save_mask2former(tmp_path / "mask2former")
    params = tmp_path / "params.yaml"
    folders = [f"--{kind}={tmp_path / 'ds' / kind}" for kind in ("images", "masks")]
    options = ["--gpu-memory", "24", "--segmenter", str(tmp_path / "mask2former")]
    assert main(["--params", str(params), "init", *folders, *options]) == 0
    written = load_config(params)
    assert written.profile == "own" and written.text2mask.lora is not None
    assert written.train_seg.mask2former.source == str(tmp_path / "mask2former")
    shorten(params)
    config, paths = load_config(params), ProjectPaths(tmp_path)

    def run(stage: str, *items: str) -> None:
        module = importlib.import_module(f"seggen_core.stages.{stage}")
        for item in items or (None,):
            module.run(config, paths=paths, item=item)

    for stage in ("dataset", "check_dataset", "captions", "check_captions"):
        run(stage)
    for stage in ("foundation", "text2mask", "mask2img"):
        run(stage)
    for stage in ("masksyn", "imgsyn"):
        run(stage, *CLASSES)
    run("check_synthetic", *config.methods)
    for stage in ("train_seg", "evaluate"):
        run(stage, *config.variants)
    for stage in ("judge", "memorization"):
        run(stage, *config.methods)
    run("ablation")

    # Photos keep their own size, generators see squares, and the arms are scored on all photos.
    real = SampleStore(paths.real("train"))
    assert real.read_image(0).shape == (48, 64, 3) and len(real) == SIZES["train"]
    stores = [SampleStore(paths.synthetic("masksyn", slug)) for slug in CLASSES]
    assert sum(map(len, stores)) == SIZES["train"]
    shapes = {sample.image.shape for store in stores for sample in store}
    assert shapes == {(SMALL, SMALL, 3)}
    assert (paths.model("text2mask") / "lora" / "pytorch_lora_weights.safetensors").is_file()
    # The segmenters started from the pretrained one: two steps move its weights little.
    from safetensors.numpy import load_file

    (before,) = (load_file(f) for f in (tmp_path / "mask2former").glob("*.safetensors"))
    (after,) = (
        load_file(f) for f in (paths.checkpoint("baseline") / "seed0").glob("*.safetensors")
    )
    name = next(
        k for k in before if "encoder.layers.0" in k and k.endswith("weight") and k in after
    )
    np.testing.assert_allclose(before[name], after[name], atol=1e-2)
    table = pd.read_csv(paths.ablation / "ablation.csv")
    assert len(table) == 2
