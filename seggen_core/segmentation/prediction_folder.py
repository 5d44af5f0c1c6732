"""The folder that `seggen predict` fills with masks; `segment_folder` has that of segments.

model.json               which model and settings made it
classes.json             ids, names and colours
masks/<name>.png         a palette PNG of train ids, at the size of the picture
overlays/<name>.png      the picture with the classes' colours
predictions.jsonl        size and share of each class, a line for each picture
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.errors import ConfigError
from seggen_core.project.publish import read_json
from seggen_core.project.storage import save_png_whole, write_text_whole
from seggen_core.reports.grids import colorize, overlay

MODEL, CLASSES, PREDICTIONS = "model.json", "classes.json", "predictions.jsonl"
OPACITY = 0.55
"""Of the colours of overlays."""


class PredictionFolder:
    """Writes predictions, each file whole, and knows which are there already."""

    def __init__(
        self,
        folder: Path,
        *,
        id2label: Mapping[int, str],
        palette: np.ndarray,
        identity: Mapping[str, Any],
        with_overlays: bool,
        things: Sequence[bool] | None = None,
    ) -> None:
        """Create the folder, or continue one of the same model.

        Args:
            folder: where to write.
            id2label: names of the classes.
            palette: their colours, uint8 [C, 3].
            identity: JSON-ready: all that a prediction depends on, besides its picture.
            with_overlays: write overlays, too.
            things: which classes are things, if the segmenter knows.

        Raises:
            ConfigError: it holds predictions of another model or other settings.
            StorageError: it can't be written.
        """
        self.folder, self._palette, self._with_overlays = folder, palette, with_overlays
        self._names = [id2label[k] for k in range(len(id2label))]
        if (folder / MODEL).exists() and _read(folder / MODEL) != identity:
            raise ConfigError(
                f"{folder} holds predictions of another model or of other settings; name another "
                "folder as --out, or delete this one"
            )
        rows: list[dict[str, Any]] = [
            {"id": k, "name": name, "color": color}
            for k, (name, color) in enumerate(zip(self._names, palette.tolist(), strict=True))
        ]
        if things is not None:
            rows = [row | {"is_thing": flag} for row, flag in zip(rows, things, strict=True)]
        write_text_whole(self.folder / CLASSES, json.dumps(rows, indent=1) + "\n")
        write_text_whole(self.folder / MODEL, json.dumps(identity, indent=1) + "\n")

    def has(self, name: str) -> bool:
        """Return whether a picture is predicted already."""
        kinds = ("masks", "overlays") if self._with_overlays else ("masks",)
        return all((self.folder / kind / f"{name}.png").is_file() for kind in kinds)

    def add(self, name: str, *, image: np.ndarray, predicted: np.ndarray) -> None:
        """Write the prediction of one picture; the mask comes last.

        Raises:
            StorageError: the disk is full or not writable.
        """
        if self._with_overlays:
            colored = overlay(image, colorize(predicted, self._palette), OPACITY)
            save_png_whole(self.folder / f"overlays/{name}.png", Image.fromarray(colored))
        self._write_mask(name, predicted)

    def _write_mask(self, name: str, predicted: np.ndarray) -> None:
        mask = Image.fromarray(predicted)
        full = np.full((256, 3), 128, np.uint8)
        full[: len(self._palette)] = self._palette
        mask.putpalette(full.ravel().tolist())
        save_png_whole(self.folder / f"masks/{name}.png", mask)

    def record(self, names: Iterable[str]) -> None:
        """Write predictions.jsonl, a line for each of these pictures.

        Raises:
            StorageError: the disk is full or not writable.
        """
        lines = (json.dumps(self._row(name), ensure_ascii=False) + "\n" for name in names)
        write_text_whole(self.folder / PREDICTIONS, "".join(lines))

    def _row(self, name: str) -> dict[str, Any]:
        with Image.open(self.folder / "masks" / f"{name}.png") as mask:
            ids = np.asarray(mask)
        shares = np.bincount(ids.ravel(), minlength=256) / ids.size
        classes = {
            label: round(float(shares[k]), 6) for k, label in enumerate(self._names) if shares[k]
        }
        height, width = ids.shape
        return {"name": name, "width": width, "height": height, "classes": classes}


def _read(file: Path) -> Any:
    try:
        return read_json(file)
    except (OSError, ValueError):
        return None
