"""What tests of MaskSyn's and ImgSyn's partitions share."""

import json
from collections.abc import Callable
from pathlib import Path

from seggen_core.datasets.subset import class_partitions
from seggen_core.project.paths import ProjectPaths
from seggen_core.scenes.layout import SCENES_TAXONOMY
from seggen_core.store.reader import SampleStore

Project = Callable[[str], ProjectPaths]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def sources_of(paths: ProjectPaths) -> dict[str, list[str]]:
    """Sources of each class."""
    index = SampleStore(paths.real("train")).index
    counts = dict(zip(index["key"], index["class_pixel_counts"], strict=True))
    wanted = set(json.loads(paths.subsets.read_text())["0"])
    return class_partitions(counts, SCENES_TAXONOMY, sources=wanted)
