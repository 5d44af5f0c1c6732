"""A project with instances, for what meets detectron2: things and stuff, crowds and ignored pixels.

Pictures differ in size. Things come after stuff, as in no dataset of detectron2's.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from seggen_core.project.paths import ProjectPaths
from tests.exports.project import make_project, make_sample, write_store

ARMS: dict[str, dict[str, Any]] = {
    "baseline": {"strategy": "plain", "reads": ["data/real/train", "data/real/val"]},
    "replaced": {"strategy": "replace", "reads": ["data/synthetic/masksyn", "data/real/val"]},
    "pretrained": {"strategy": "pretrain", "reads": ["data/synthetic/masksyn", "data/real/val"]},
    "hidden": {
        "strategy": "replace",
        "reads": ["data/synthetic/masksyn", "data/real/val"],
        "hidden_classes": ["car"],
        "shuffle_masks": True,
    },
    "known": {
        "strategy": "plain",
        "reads": ["data/real/train", "data/real/val"],
        "known_classes": ["car"],
    },
    "augmented": {
        "strategy": "replace",
        "reads": ["data/synthetic/masksyn", "data/real/val"],
        "synthetic_augment": {},
    },
}


def make_detectron2_project(root: Path, *, batch_size: int = 4) -> ProjectPaths:
    """The project of `make_project` with synthetic samples of every source, and params.yaml."""
    paths = make_project(root)
    about = {"method": "masksyn"}
    for slug, first in (("car", 90), ("sky", 60)):
        folder = paths.synthetic("masksyn", slug)
        for file in folder.iterdir():
            file.unlink()
        samples = [make_sample(f"{slug}-{i}", first + i, source_key=f"train-{i}") for i in range(5)]
        write_store(folder, samples, class_slug=slug, **about)
    paths.subsets.write_text(json.dumps({"0": ["train-0", "train-2", "train-3"]}))
    tree = {
        "profile": "test",
        "classes": ["car", "sky"],
        "methods": ["masksyn"],
        "runtime": {"tracking_uri": "disk"},
        "dataset": {"name": "folder", "root": str(root), "subset_size": 3, "subset_seeds": [0]},
        "foundation": {"source": "unused"},
        "text2mask": {"num_steps": 1},
        "mask2img": {"num_steps": 1},
        "masksyn": {"samples_per_source": 1},
        "imgsyn": {"samples_per_source": 1},
        "seediff": {"samples_per_class": 1},
        "train_seg": {"common": {"batch_size": batch_size}},
        "variants": {name: {"model": "hrnet", **arm} for name, arm in ARMS.items()},
    }
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    return paths
