"""A tiny project: real splits and synthetic partitions of plain pictures.

They are 16 pixels square and show three classes.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import Sample, SampleStoreWriter
from seggen_core.taxonomy import Taxonomy

SIZE = 16
TAXONOMY = Taxonomy.from_names(stuff=["sky", "grass"], things=["car"])
COLOURS = np.array([(90, 140, 220), (80, 150, 60), (200, 60, 50)])
TRAIN_KEYS = [f"train-{i:05d}" for i in range(6)]
SUBSETS = {"0": TRAIN_KEYS[:3], "1": TRAIN_KEYS[2:5]}


def picture(*name: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a noisy picture of sky over grass with a car, and its mask.

    image uint8 [16, 16, 3], mask uint8 [16, 16].
    """
    rng = np.random.default_rng(name)
    mask = np.zeros((SIZE, SIZE), np.uint8)
    horizon, left = int(rng.integers(4, 9)), int(rng.integers(0, 10))
    mask[horizon:] = 1
    mask[horizon + 1 : horizon + 5, left : left + 6] = 2
    return np.clip(COLOURS[mask] + rng.normal(0, 15, (SIZE, SIZE, 3)), 0, 255).astype(
        np.uint8
    ), mask


def write_store(
    folder: Path,
    samples: list[tuple[str, str | None]],
    *,
    stream: int,
    ignore_others_than: int | None = None,
) -> None:
    """Write samples of (key, source key) to a new store.

    The pictures are named by `stream` and the position.
    """
    with SampleStoreWriter(folder, num_classes=len(TAXONOMY)) as writer:
        for position, (key, source_key) in enumerate(samples):
            image, mask = picture(stream, position)
            if ignore_others_than is not None:
                mask[mask != ignore_others_than] = 255
            metadata = {} if source_key is None else {"source_key": source_key}
            writer.add(Sample(key, image, mask, None, metadata))
        writer.finish(manifest={})


@pytest.fixture
def project(tmp_path: Path) -> ProjectPaths:
    """Return a project with real data, MaskSyn, ImgSyn and SeeDiff.

    MaskSyn and ImgSyn have two samples a source, SeeDiff two a class.
    """
    paths = ProjectPaths(tmp_path)
    write_project(paths)
    return paths


def write_project(paths: ProjectPaths) -> None:
    """Write the project of the fixture `project` to an empty folder."""
    paths.data.mkdir()
    for stream, (split, keys) in enumerate(
        {
            "train": TRAIN_KEYS,
            "val": ["val-00000"] * 1,
            "test": ["test-00000", "test-00001"],
        }.items()
    ):
        write_store(paths.real(split), [(key, None) for key in keys], stream=stream)
    paths.taxonomy.write_text(json.dumps(TAXONOMY.to_json()))
    paths.subsets.write_text(json.dumps(SUBSETS))
    # Every second real sample counts as one of the class car, the others as grass.
    for stream, method in enumerate(("masksyn", "imgsyn"), start=10):
        for half, slug in enumerate(("car", "grass")):
            samples = [
                (f"{key}-{method}-{n}", key) for key in TRAIN_KEYS[half::2] for n in range(2)
            ]
            write_store(paths.synthetic(method, slug), samples, stream=2 * stream + half)
        write_store(paths.synthetic(method, "sky"), [], stream=0)
    for c in TAXONOMY:
        samples = [(f"seediff-{c.slug}-{n:06d}", None) for n in range(2)]
        write_store(
            paths.synthetic("seediff", c.slug),
            samples,
            stream=40 + c.train_id,
            ignore_others_than=c.train_id,
        )
