"""A small project, up to what MaskSyn and ImgSyn read.

It has scenes of 32 px, captions, and models with random weights.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from seggen_core.config import SegGenConfig, load_config
from seggen_core.project.paths import ProjectPaths

_SAMPLER = {"num_inference_steps": 2, "micro_batch_size": 4, "precision": "fp32"}
PARAMS: dict[str, Any] = {
    "profile": "test",
    "seed": 3,
    "classes": ["sky", "car"],
    "runtime": {"device": "cpu", "tracking_uri": "disk"},
    "dataset": {
        "name": "scenes",
        "image_size": 32,
        "num_train": 40,
        "num_val": 1,
        "num_test": 1,
        "subset_size": 30,
        "subset_seeds": [0],
    },
    "captions": {"captioner": "class_list"},
    "foundation": {"source": "unused"},
    "text2mask": {"num_steps": 1},
    "mask2img": {"num_steps": 1},
    "masksyn": {
        "samples_per_source": 3,
        "batch_size": 3,
        "text2mask": _SAMPLER,
        "mask2img": _SAMPLER,
    },
    "imgsyn": {"samples_per_source": 2, "batch_size": 4, "mask2img": _SAMPLER},
    "seediff": {"samples_per_class": 1},
    "variants": {
        "baseline": {
            "model": "hrnet",
            "strategy": "plain",
            "reads": ["data/real/train", "data/real/val"],
        }
    },
}


def write_config(paths: ProjectPaths, **changes: Any) -> SegGenConfig:
    """Write params.yaml with changes to sections and return it as it is read.

    A change that is a dict changes keys of its section.
    """
    tree = PARAMS | {k: PARAMS[k] | v if isinstance(v, dict) else v for k, v in changes.items()}
    path = paths.root / "params.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return load_config(path)


@pytest.fixture(scope="session")
def make_project(
    tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], ProjectPaths]:
    """Return a function that makes another copy of the project."""
    import torch

    from seggen_core.generators.mask2img import build_controlnet
    from seggen_core.stages import captions, dataset

    first = ProjectPaths(tmp_path_factory.mktemp("project"))
    config = write_config(first)
    dataset.run(config, paths=first, item=None)
    captions.run(config, paths=first, item=None)
    tiny_pipeline.save_pretrained(first.model("foundation"))
    shutil.copytree(first.model("foundation"), first.model("text2mask"))
    torch.manual_seed(0)
    controlnet = build_controlnet(tiny_pipeline)
    with torch.no_grad():
        for parameter in controlnet.parameters():
            if not parameter.any():  # zero convolutions: the condition would not show
                parameter.normal_(std=0.2)
    controlnet.save_pretrained(first.model("mask2img"))

    def copy(name: str) -> ProjectPaths:
        return ProjectPaths(
            Path(shutil.copytree(first.root, tmp_path_factory.mktemp(name) / "project"))
        )

    return copy
