"""A tiny CamVid on disk: real JPEG and PNG files in the published layout, made of random blocks."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

FOLDERS = {
    "train": [f"0001TP_{i:06d}" for i in range(0, 300, 30)]
    + [f"0016E5_{i:05d}" for i in range(0, 600, 30)],
    "val": [f"0016E5_{i:05d}" for i in range(7959, 7967, 2)],
}


def write_pair(
    root: Path, *, folder: str, stem: str, seed: int, width: int = 48, height: int = 36
) -> None:
    """Write one image and its mask; ids come in blocks of 12 pixels and cover 0 to 11."""
    rng = np.random.default_rng(seed)
    image = (
        rng.integers(0, 256, (height // 12, width // 12, 3), dtype=np.uint8)
        .repeat(12, 0)
        .repeat(12, 1)
    )
    mask = rng.permutation(12).astype(np.uint8).reshape(3, 4).repeat(12, 0).repeat(12, 1)
    for name in (folder, f"{folder}annot"):
        (root / name).mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(root / folder / f"{stem}.jpg")
    Image.fromarray(mask).save(root / f"{folder}annot" / f"{stem}.png")


@pytest.fixture
def camvid_root(tmp_path: Path) -> Path:
    """Return the folder of a sound dataset with 30 train and 4 val pairs, 48x36."""
    root = tmp_path / "camvid"
    for folder, stems in FOLDERS.items():
        for i, stem in enumerate(stems):
            write_pair(root, folder=folder, stem=stem, seed=1000 * len(folder) + i)
    return root
