"""The folder that `seggen mask` fills.

classes.json          ids, names and colours; the folder is a dataset of the layout "folder"
images/<name>.png     RGB
masks/<name>.png      a palette PNG of ids: 0 outside of all words, 255 uncertain
previews/<name>.png   image, mask and overlay with a legend
maps/<name>.png       with `--maps`: attention and soft masks, the way to the first word's mask
samples.jsonl         prompt, seed, scores and what became of each word, a line for each image
.seggen/              kept attention; delete it to free the space
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from seggen_core.colors.palette import class_palette
from seggen_core.errors import PromptError
from seggen_core.project.publish import read_json
from seggen_core.project.storage import save_png_whole, write_text_whole
from seggen_core.reports.contact_sheet import SheetSample, draw_sheet
from seggen_core.synthesis.attention_previews import MaskStory, draw_previews
from seggen_core.synthesis.mask_images import MaskedImage, MaskRequest
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

CLASSES, SAMPLES = "classes.json", "samples.jsonl"
_BLACK = (0, 0, 0)
_PREVIEW_HEIGHT = 256


def word_palette(num_words: int) -> np.ndarray:
    """Return the colours of the background, black, and of the words: uint8 [num_words + 1, 3]."""
    colors = [tuple(color) for color in class_palette(num_words + 1).tolist()]
    colors += [(255, 255, 255)]  # the palette has no black where it is short
    words = [color for color in colors if color != _BLACK][:num_words]
    return np.array([_BLACK, *words], np.uint8)


class MaskFolder:
    """Writes images with their masks, each file whole."""

    def __init__(self, folder: Path, taxonomy: Taxonomy) -> None:
        """Create the folder, or continue one with the same words.

        Raises:
            PromptError: it holds masks of other words.
            StorageError: it can't be written.
        """
        self.folder, self._names = folder, ["background", *(c.name for c in taxonomy)]
        self._palette = word_palette(len(taxonomy))
        rows: list[dict[str, Any]] = [
            {"id": k, "name": name, "color": color}
            for k, (name, color) in enumerate(zip(self._names, self._palette.tolist(), strict=True))
        ]
        rows.append({"id": IGNORE_INDEX, "name": "uncertain", "ignore": True})
        self._check(rows)
        write_text_whole(self.folder / CLASSES, json.dumps(rows, indent=1) + "\n")

    def _check(self, rows: list[dict[str, Any]]) -> None:
        file = self.folder / CLASSES
        if not file.exists():
            return
        try:
            is_same = read_json(file) == rows
        except (OSError, ValueError):
            is_same = False
        if not is_same:
            raise PromptError(
                f"{file} lists other classes than these words ({', '.join(self._names[1:])}); "
                "ids would mean different things in one folder: name another folder as --out"
            )

    def add(self, request: MaskRequest, masked: MaskedImage, *, with_maps: bool) -> Path:
        """Write the files of one image; return the place of the preview.

        Raises:
            StorageError: the disk is full or not writable.
        """
        name = f"{request.name}.png"
        mask = Image.fromarray(masked.mask)
        mask.putpalette(_png_palette(self._palette))
        sample = SheetSample(request.prompt.text, masked.image, masked.mask, None)
        preview = draw_sheet(
            [sample],
            class_names=self._names,
            palette=self._palette,
            heading=request.name,
            height=_PREVIEW_HEIGHT,
        )
        pictures = {
            "images": Image.fromarray(masked.image),
            "masks": mask,
            "previews": preview,
        }
        for kind, picture in pictures.items():
            save_png_whole(self.folder / f"{kind}/{name}", picture)
        if with_maps:
            labels = np.where(masked.mask == request.prompt.classes[0].train_id + 1, 1, 0)
            labels[masked.mask == IGNORE_INDEX] = IGNORE_INDEX
            story = MaskStory.from_soft_maps(masked.maps, labels.astype(np.uint8))
            save_png_whole(self.folder / f"maps/{name}", draw_previews([masked.image], [story]))
        return self.folder / "previews" / name

    def record(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write samples.jsonl: these rows, after those of other images that are still there.

        Raises:
            StorageError: the disk is full or not writable.
        """
        known = self._earlier() | {str(row["name"]): dict(row) for row in rows}
        present = (
            row for name, row in known.items() if (self.folder / "masks" / f"{name}.png").is_file()
        )
        write_text_whole(
            self.folder / SAMPLES,
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in present),
        )

    def _earlier(self) -> dict[str, dict[str, Any]]:
        file = self.folder / SAMPLES
        try:
            rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            return {str(row["name"]): row for row in rows}
        except (OSError, ValueError, KeyError, TypeError):
            return {}  # none, or one that something else has written


def sample_row(
    request: MaskRequest, masked: MaskedImage, *, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the row of samples.jsonl of an image; `settings` say how it was made."""
    shares = np.bincount(masked.mask.ravel(), minlength=256) / masked.mask.size
    words = {
        known.slug: {
            "status": masked.status[known.slug],
            "share": round(float(shares[known.train_id + 1]), 6),
        }
        for known in request.prompt.classes
    }
    return {
        "name": request.name,
        "prompt": request.prompt.text,
        "seed": request.seed,
        "words": words,
        "quality": dict(masked.quality),
        **settings,
    }


def _png_palette(colors: np.ndarray) -> list[int]:
    """Return a PNG's 256 colours; ids without a class are grey, the uncertain one among them."""
    full = np.full((256, 3), 128, np.uint8)
    full[: len(colors)] = colors
    return full.ravel().tolist()
