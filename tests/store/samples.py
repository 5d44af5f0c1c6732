"""A small store, and what tests compare of stores."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np

from seggen_core.store.reader import Sample, SampleStoreWriter

NUM_SAMPLES = 11


SHARD_BYTES = 40_000  # a few samples a shard


MANIFEST = {"stage": "masksyn", "params": {"seed": 0}}


def make_sample(index: int) -> Sample:
    rng = np.random.default_rng(index)
    segmentation_map = rng.integers(0, 3, (40, 48), np.uint8)
    segmentation_map[:2] = 255
    metadata = {
        "source_key": f"train-{index:05d}",
        "class_slug": "car",
        "seed": 2**62 + index,
        "prompt": f"a phöto of {index} cars",
        "model_hash": "abc",
        "quality": {"score": index / 7, "ambiguous": 0} if index % 2 else {"score": 1},
        "layout": {"things": [{"x": 0.5}]},
    }
    instance_map = rng.integers(0, 60_000, (40, 48), np.uint16) if index % 3 else None
    return Sample(
        f"train-{index:05d}-masksyn_{index}",
        rng.integers(0, 256, (40, 48, 3), np.uint8),
        segmentation_map,
        instance_map,
        metadata,
    )


def write_store(folder: Path) -> None:
    """Write the store that all tests compare with."""
    with SampleStoreWriter(folder, num_classes=3, shard_bytes=SHARD_BYTES) as writer:
        for index in range(NUM_SAMPLES):
            writer.add(make_sample(index))
        writer.finish(manifest=MANIFEST)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def run_python(*arguments: str | Path, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def assert_same(read: Sample, expected: Sample) -> None:
    assert read.key == expected.key
    assert read.metadata == expected.metadata
    for name in ("image", "segmentation_map", "instance_map"):
        a, b = getattr(read, name), getattr(expected, name)
        assert (a is None) == (b is None)
        if b is not None:
            assert a.dtype == b.dtype
            assert np.array_equal(a, b)
