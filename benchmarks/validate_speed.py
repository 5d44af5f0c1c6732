"""How fast `seggen validate` goes through a dataset of CamVid-size JPEGs and PNG masks, headers alone and in full.

Run it pinned to one core, so that the rate is that of one process:

    taskset -c 1 python benchmarks/validate_speed.py                    # 480x360 scenes that it
    draws itself taskset -c 1 python benchmarks/validate_speed.py --root PATH        # a CamVid
    folder with train and val

Every pass is made three times after a first one that fills the file cache; the fastest and the
slowest are printed.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from seggen_core.config import SegGenConfig
from seggen_core.datasets.validate import validate_project
from seggen_core.project.paths import ProjectPaths
from seggen_core.scenes.layout import sample_layout
from seggen_core.scenes.painter import paint

PASSES = 3


def write_scenes(root: Path, *, train: int, val: int) -> None:
    """Draw scenes at 360 px, widened to 480x360, as JPEGs of quality 90 with their masks."""
    for folder, count in (("train", train), ("val", val)):
        for name in (folder, f"{folder}annot"):
            (root / name).mkdir(parents=True)
        for i in range(count):
            scene = paint(sample_layout(np.random.default_rng([len(folder), i])), size=360)
            Image.fromarray(scene.image).resize((480, 360)).save(
                root / folder / f"{i:06d}.jpg", quality=90
            )
            mask = Image.fromarray(scene.segmentation_map).resize(
                (480, 360), Image.Resampling.NEAREST
            )
            mask.save(root / f"{folder}annot" / f"{i:06d}.png")


def configuration(root: Path) -> SegGenConfig:
    """Return a project that reads `root` as CamVid."""
    tree = {
        "profile": "benchmark",
        "classes": [],
        "dataset": {
            "name": "camvid",
            "root": root,
            "splits": "val_as_test",
            "keep_val_in_train": True,
        },
        "foundation": {"source": "unused"},
        "text2mask": {"num_steps": 1},
        "mask2img": {"num_steps": 1},
        "masksyn": {"samples_per_source": 1},
        "imgsyn": {"samples_per_source": 1},
        "seediff": {"samples_per_class": 1},
        "variants": {"baseline": {"reads": ["data/real/train", "data/real/val"]}},
    }
    return SegGenConfig.model_validate(tree)


def main() -> None:
    """Print images per second of both kinds of check."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="CamVid folder; without it, 300 scenes are drawn")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if arguments.root is None:
            write_scenes(Path(folder) / "camvid", train=200, val=100)
        root = (arguments.root or Path(folder) / "camvid").resolve()
        paths = ProjectPaths(Path(folder))
        for headers_only in (True, False):
            rates = []
            for _ in range(1 + PASSES):
                start = time.perf_counter()
                report = validate_project(
                    configuration(root), paths=paths, headers_only=headers_only
                )
                count = sum(s.num_samples for s in report.splits)
                rates.append(count / (time.perf_counter() - start))
            bad = sum(s.num_bad for s in report.splits)
            name = "headers" if headers_only else "full"
            cores = len(os.sched_getaffinity(0))
            print(
                f"{name:8} {min(rates[1:]):7.0f} to {max(rates[1:]):.0f} images/s ({count} checked, {bad} bad, {cores} core(s))"
            )


if __name__ == "__main__":
    main()
