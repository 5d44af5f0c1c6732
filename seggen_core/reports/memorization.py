"""The results of stage `memorization` as a section of the ablation's report and as a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field

from seggen_core.reports.grids import colorize, image_grid, picture_scale
from seggen_core.reports.tables import NO_VALUE, Score, markdown_table

MEASURES = {
    "mask_distance": "Masks: % of pixels",
    "image_rms": "Images: RMS",
    "image_relative": "Images: relative",
    "image_structure": "Images: 1 - correlation",
}
"""The heading of each measure's column."""

_DECIMALS = {"mask_distance": 1, "image_rms": 1, "image_relative": 2, "image_structure": 3}
_NOT_COMPARED = {
    "real": "has the masks of real samples by design: their distance would be 0 and say nothing.",
    "one_class": "labels one class at a time from attention, and learns from no mask: there is "
    "none that it could repeat.",
}
_PICTURE_SIDE = 96


class Distances(BaseModel):
    """Distances of many samples to the nearest training sample, by one measure."""

    model_config = ConfigDict(frozen=True)

    median: Score
    """Their median."""
    p5: Score
    """Their fifth percentile."""
    min: Score
    """The smallest of them."""
    below_reference: Score = math.nan
    """Percentage of the samples nearer than the first percentile of the reference; NaN for the
    reference."""


class MemorizationScores(BaseModel):
    """How near one method's samples come to the real training samples."""

    model_config = ConfigDict(frozen=True)

    method: str
    """Name of the synthetic method."""
    samples: int
    """Number of synthetic samples."""
    training_samples: int
    """Number of training samples."""
    neighbors: int
    """Number of training images that the relative distance averages over."""
    reference_samples: int
    """Number of validation samples."""
    reference_in_train: int
    """Number of validation samples that were also trained on."""
    masks: Literal["own", "real", "one_class"]
    """"own" if the method makes masks. They are not compared if they are "real" masks or label
    "one_class"."""
    synthetic: dict[str, Distances] = Field(min_length=1)
    """Distances of the method, by measure; without masks if these are not compared."""
    reference: dict[str, Distances] = Field(min_length=1)
    """Distances of the validation samples, by measure; without masks if these are not compared."""


def flat_memorization(scores: Sequence[MemorizationScores]) -> dict[str, float]:
    """Return the metrics that `dvc metrics` shows: percentages of samples below the reference.

    Their names are "memorization.<method>.<measure>".
    """
    values = {
        f"memorization.{s.method}.{name}": d.below_reference
        for s in scores
        for name, d in s.synthetic.items()
    }
    return {name: round(value, 4) for name, value in values.items() if not math.isnan(value)}


def memorization_markdown(scores: Sequence[MemorizationScores]) -> str:
    """Return the section: a row for each method and one for the reference; "" without scores."""
    if not scores:
        return ""
    reference = {name: d for s in scores for name, d in s.reference.items()}
    first = scores[0]
    rows = [_row(s.method, samples=s.samples, distances=s.synthetic) for s in scores]
    rows.append(_row("val (real)", samples=first.reference_samples, distances=reference))
    notes = [f"{s.method} {_NOT_COMPARED[s.masks]}  " for s in scores if s.masks != "own"]
    if first.reference_in_train:
        notes.append(
            f"{first.reference_in_train} of the {first.reference_samples} validation samples were "
            "trained on, too: they are compared with other training samples than themselves, but "
            "aren't unseen.  "
        )
    parts = [
        "## Nearest training sample",
        f"Distance to the nearest of {first.training_samples} real training samples, as they are "
        "or mirrored: median / fifth percentile / smallest; 0 is a copy. In brackets, samples "
        "nearer than the first percentile of the validation samples: 1% of samples that are as new "
        "as those. Masks: pixels of another class. Images, at 32x32: root mean square difference "
        f"in grey levels; the same over half the mean of the {first.neighbors} nearest (2: none "
        "stands out); 1 - correlation of grey pictures.",
        markdown_table(rows),
        "\n".join(notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def nearest_grid(
    pairs: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], *, palette: np.ndarray
) -> Image.Image:
    """Draw samples above the training samples near them, two rows for each measure.

    Args:
        pairs: by measure; images, uint8 [H, W, 3], or masks, uint8 [H, W].
        palette: uint8 [num_classes, 3], colours of the masks.
    """
    rows: list[list[np.ndarray]] = []
    labels: list[str] = []
    for measure, shown in pairs.items():
        rows += [
            [picture if picture.ndim == 3 else colorize(picture, palette) for picture in row]
            for row in zip(*shown, strict=True)
        ]
        labels += [MEASURES[measure], "  training sample"]
    return image_grid(rows, scale=picture_scale(rows, side=_PICTURE_SIDE), labels=labels)


def _row(name: str, *, samples: int, distances: dict[str, Distances]) -> dict[str, str]:
    row = {"Samples": name, "Number": str(samples)}
    for measure, heading in MEASURES.items():
        d = distances.get(measure)
        if d is None or math.isnan(d.median):
            row[heading] = NO_VALUE
            continue
        nearer = "" if math.isnan(d.below_reference) else f" ({d.below_reference:.1f}%)"
        values = (f"{value:.{_DECIMALS[measure]}f}" for value in (d.median, d.p5, d.min))
        row[heading] = " / ".join(values) + nearer
    return row
