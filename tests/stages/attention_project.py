"""A small project for the stages that take masks from attention: a foundation and three classes."""

import json
import shutil
from pathlib import Path
from typing import Any

from seggen_core.config import SegGenConfig
from seggen_core.project.paths import ProjectPaths
from seggen_core.taxonomy import Taxonomy
from tests.minimal_config import BASELINE

TAXONOMY = Taxonomy.from_names(stuff=["grass"], things=["car", "bus"])


def make_config(**sections: Any) -> SegGenConfig:
    """Return a configuration with images of 32 px and the given sections."""
    training, synthesis = {"num_steps": 1}, {"samples_per_source": 1}
    tree = {
        "profile": "test",
        "seed": 7,
        "classes": ["grass", "car", "bus"],
        "runtime": {"device": "cpu", "tracking_uri": "disk"},
        "dataset": {"name": "scenes", "image_size": 32},
        "foundation": {"source": "data/models/foundation"},
        "text2mask": training,
        "mask2img": training,
        "masksyn": synthesis,
        "imgsyn": synthesis,
        "seediff": {"samples_per_class": 1},
        "variants": {
            "baseline": BASELINE | {"reads": ["data/real/subsets.json", "data/real/train"]}
        },
    }
    return SegGenConfig.model_validate(tree | sections)


def make_project(root: Path, *, foundation: Path, taxonomy: Taxonomy = TAXONOMY) -> ProjectPaths:
    """Write a taxonomy and a copy of the foundation below `root`."""
    paths = ProjectPaths(root)
    paths.taxonomy.parent.mkdir(parents=True)
    paths.taxonomy.write_text(json.dumps(taxonomy.to_json()))
    shutil.copytree(foundation, paths.model("foundation"))
    return paths


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by name."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
