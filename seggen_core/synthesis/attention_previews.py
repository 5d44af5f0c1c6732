"""Pictures of how masks came about: image, attention maps and mask of a few samples, side by side."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.reports.grids import image_grid, overlay
from seggen_core.synthesis.from_attention import AttentionSamples
from seggen_core.taxonomy import IGNORE_INDEX

NUM_PICTURES = 8
_PICTURE_SIDE = 128
_TINT = np.array([255, 40, 40], np.uint8)


def save_panels(made: AttentionSamples, k: int, *, path: Path) -> None:
    """Keep the pictures of sample k for the preview, name to uint8 [H, W, 3], in the order they are shown."""
    save_named_panels(
        made.images[k],
        maps={name: m[k] for name, m in made.maps.items()},
        labels=made.labels[k],
        path=path,
    )


def save_named_panels(
    image: np.ndarray, *, maps: dict[str, np.ndarray], labels: np.ndarray, path: Path
) -> None:
    """Keep the pictures of one sample.

    Args:
        image: uint8 [H, W, 3].
        maps: float32 [s, s] in [0, 1] by name.
        labels: uint8 [H, W] as in `AttentionSamples`; what is outside of the classes is darkened,
            what is uncertain tinted.
        path: the .npz file to write.
    """
    panels: dict[str, Any] = {"image": image}
    for name, values in maps.items():
        grey = Image.fromarray(np.rint(values * 255).astype(np.uint8)).resize(
            image.shape[1::-1], Image.Resampling.NEAREST
        )
        panels[name.replace("_", " ")] = np.repeat(np.asarray(grey)[..., None], 3, axis=2)
    tinted = overlay(image, np.broadcast_to(_TINT, image.shape), 0.5)
    shown = np.where((labels == 0)[..., None], image // 4, image)
    panels["mask"] = np.where((labels == IGNORE_INDEX)[..., None], tinted, shown)
    path.parent.mkdir(exist_ok=True)
    np.savez(path, **panels)


def draw_previews(folder: Path, *, size: int) -> Image.Image:
    """Lay the kept panels out: a row for each kind of picture, a column for each sample."""
    columns = []
    for path in sorted(folder.glob("*.npz")):
        with np.load(path, allow_pickle=False) as panels:
            columns.append(dict(panels))
    rows = [[column[name] for column in columns] for name in columns[0]]
    return image_grid(rows, scale=max(1, _PICTURE_SIDE // size), labels=list(columns[0]))
