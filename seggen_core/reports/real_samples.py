"""The picture of the real samples that the stage `dataset` shows."""

from pathlib import Path

from seggen_core.reports.grids import store_grid
from seggen_core.store.reader import SampleStore

NUM_PICTURES = 8


def write_samples_picture(store: SampleStore, file: Path, *, num_classes: int) -> list[Path]:
    """Write images, masks and overlays of samples from all over a store, side by side.

    Returns:
        `file`; nothing where the store is empty, as that of a list of words is.
    """
    if not len(store):
        return []
    picture = store_grid(
        store, num_classes=num_classes, num_pictures=NUM_PICTURES, num_columns=NUM_PICTURES
    )
    picture.save(file)
    return [file]
