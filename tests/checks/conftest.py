"""A small project with real splits and partitions of stripes."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seggen_core.project.paths import ProjectPaths
from seggen_core.store.reader import Sample, SampleStoreWriter
from seggen_core.taxonomy import Taxonomy

SIZE = 16
TAXONOMY = Taxonomy.from_names(stuff=["sky", "road"], things=["car"])


def mask_of(*rows: int) -> np.ndarray:
    """A mask of horizontal stripes of these classes, uint8 [16, 16]."""
    return np.repeat(np.array(rows, np.uint8), SIZE // len(rows))[:, None].repeat(SIZE, 1)


def sample(key: str, mask: np.ndarray, *, shade: int = 0, source: str | None = None) -> Sample:
    """A sample whose image shows its mask: one grey per class."""
    image = (mask[..., None] * 60 + shade).astype(np.uint8).repeat(3, 2)
    return Sample(key, image, mask, None, {"source_key": source} if source else {})


def write_store(folder: Path, samples: list[Sample], **manifest: Any) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    with SampleStoreWriter(folder, num_classes=len(TAXONOMY)) as writer:
        for one in samples:
            writer.add(one)
        writer.finish(manifest=manifest)
    return folder


@pytest.fixture
def paths(tmp_path: Path) -> ProjectPaths:
    """Real splits of stripes in all classes; sources of "car" are the samples with a car."""
    paths = ProjectPaths(tmp_path)
    for index, split in enumerate(("train", "val", "test")):
        stripes = [
            sample(f"{split}{i}", mask_of(0, 1, 2, i % 2), shade=10 * index + i) for i in range(4)
        ]
        write_store(paths.real(split), stripes)
    paths.taxonomy.write_text(json.dumps(TAXONOMY.to_json()))
    paths.subsets.write_text(json.dumps({"0": [f"train{i}" for i in range(4)]}))
    return paths


def partition(
    paths: ProjectPaths, *samples: Sample, slug: str = "car", method: str = "masksyn"
) -> Path:
    params = {"samples_per_source": 1} if method == "masksyn" else {}
    return write_store(paths.synthetic(method, slug), list(samples), params=params)
