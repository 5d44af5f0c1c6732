"""Measures the speed of `seggen validate` on JPEGs and PNG masks of CamVid's size.

It validates headers alone and then in full: scenes of 480x360 that it draws itself, or a CamVid
folder with train and val:

    python benchmarks/validate_speed.py
    python benchmarks/validate_speed.py --root PATH

Rates are per second of processor time, so that other work on the machine doesn't count. Every pass
is made three times after a first one that fills the file cache; the fastest and the slowest are
printed. The last line says what share of a full pass the checksums of PNG files take.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from seggen_core.config import SegGenConfig
from seggen_core.datasets.png import check_png
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
        "variants": {
            "baseline": {
                "model": "hrnet",
                "strategy": "plain",
                "reads": ["data/real/train", "data/real/val"],
            }
        },
    }
    return SegGenConfig.model_validate(tree)


def measure(root: Path, *, paths: ProjectPaths, headers_only: bool) -> list[float]:
    """Print images per second of one kind of check; return the seconds of each pass."""
    seconds = []
    for _ in range(1 + PASSES):
        start = time.process_time()
        report = validate_project(configuration(root), paths=paths, headers_only=headers_only)
        seconds.append(time.process_time() - start)
    num_samples = sum(s.num_samples for s in report.splits)
    num_bad = sum(s.num_bad for s in report.splits)
    name = "headers" if headers_only else "full"
    slowest, fastest = num_samples / max(seconds[1:]), num_samples / min(seconds[1:])
    print(
        f"{name:8} {slowest:7.0f} to {fastest:.0f} images/s ({num_samples} checked, {num_bad} bad)"
    )
    return seconds[1:]


def checksum_seconds(root: Path) -> float:
    """Return the processor time that checking all PNG files below `root` takes."""
    masks = list(root.rglob("*.png"))
    start = time.process_time()
    for mask in masks:
        with mask.open("rb") as file:
            check_png(file)
    return time.process_time() - start


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
        measure(root, paths=paths, headers_only=True)
        full = measure(root, paths=paths, headers_only=False)
        print(f"checksums {100 * checksum_seconds(root) / min(full):5.1f}% of a full pass")


if __name__ == "__main__":
    main()
