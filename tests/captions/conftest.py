from pathlib import Path

import numpy as np
import pytest

from seggen_core.datasets.class_table import load_class_table
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.taxonomy import IGNORE_INDEX

CAMVID_TAXONOMY = load_class_table("camvid").taxonomy


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    """Return four samples of 32x32 with pictures of their own.

    The last one has no labelled pixel.
    """
    with SampleStoreWriter(tmp_path / "store", num_classes=len(CAMVID_TAXONOMY)) as writer:
        for i in range(4):
            image = (
                np.random.default_rng(i)
                .integers(0, 256, (2, 2, 3), dtype=np.uint8)
                .repeat(16, 0)
                .repeat(16, 1)
            )
            segmentation_map = np.full((32, 32), i if i < 3 else IGNORE_INDEX, np.uint8)
            writer.add(Sample(f"train-{i:05d}", image, segmentation_map, None, {}))
        writer.finish(manifest={})
    return SampleStore(tmp_path / "store")
