"""Predictions of a trained segmenter on sample stores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from seggen_core.colors.palette import class_palette
from seggen_core.metrics.semantic import confusion_matrix
from seggen_core.reports.grids import colorize
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.store.reader import SampleStore


@dataclass(frozen=True)
class Prediction:
    """One sample as its store holds it, and the model's prediction.

    Attributes:
        key: in its store.
        image: uint8 [H, W, 3].
        truth: uint8 [H, W], the store's mask: train ids or IGNORE_INDEX.
        predicted: uint8 [H, W], train ids.
    """

    key: str
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


@torch.inference_mode()
def predict_maps(segmenter: Segmenter, *, images: np.ndarray) -> np.ndarray:
    """Predict one batch: images uint8 [B, H, W, 3] to train ids uint8 [B, H, W].

    The model has to be in evaluation mode.
    """
    assert not segmenter.training
    batch = torch.from_numpy(images).to(segmenter.device).permute(0, 3, 1, 2).float() / 255
    return segmenter.predict_logits(batch).argmax(1).to("cpu", torch.uint8).numpy()


def predict_store(
    segmenter: Segmenter,
    *,
    store: SampleStore,
    batch_size: int,
    description: str,
    keys: Sequence[str] | None = None,
) -> Iterator[Prediction]:
    """Predict the samples of a store (all, or `keys`), in order, under a progress bar."""
    wanted = store.keys() if keys is None else list(keys)
    with tqdm(total=len(wanted), desc=description, unit="image", disable=None) as progress:
        for start in range(0, len(wanted), batch_size):
            batch = wanted[start : start + batch_size]
            images = [store.read_image(key) for key in batch]
            predicted = predict_maps(segmenter, images=np.stack(images))
            for key, image, ids in zip(batch, images, predicted, strict=True):
                yield Prediction(key, image, store.read_mask(key), ids)
            progress.update(len(batch))


def score_store(
    segmenter: Segmenter,
    *,
    store: SampleStore,
    batch_size: int,
    description: str,
) -> np.ndarray:
    """Return the confusion matrix, int64 [C, C], of a model on all samples of a store."""
    confusion = np.zeros((segmenter.num_classes, segmenter.num_classes), np.int64)
    predictions = predict_store(
        segmenter, store=store, batch_size=batch_size, description=description
    )
    for p in predictions:
        confusion += confusion_matrix(p.predicted, truth=p.truth, num_classes=segmenter.num_classes)
    return confusion


def prediction_rows(
    predictions: Sequence[Prediction], *, num_classes: int
) -> list[list[np.ndarray]]:
    """Return three rows for `reports.grids.image_grid`: images, masks and predictions."""
    palette = class_palette(num_classes)
    return [
        [p.image for p in predictions],
        [colorize(p.truth, palette) for p in predictions],
        [colorize(p.predicted, palette) for p in predictions],
    ]
