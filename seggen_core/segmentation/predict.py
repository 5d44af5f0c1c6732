"""Predictions of a trained segmenter on sample stores.

Images are predicted at the size that a recipe tests at, and scores are brought back to the size of
the image and its labels, where classes are chosen and counted: as detectron2 and Mask2Former's
authors do it. Test-time augmentation averages the probabilities of several scales, each also
mirrored (their SemanticSegmentorWithTTA).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from seggen_core.colors.palette import class_palette
from seggen_core.config import MultiScaleConfig
from seggen_core.metrics.semantic import confusion_matrix
from seggen_core.reports.grids import colorize
from seggen_core.segmentation.geometry import resize_bilinear, short_side_size
from seggen_core.segmentation.labels import relabel
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.store.reader import SampleStore


@dataclass(frozen=True)
class Prediction:
    """One sample as its store holds it, and the model's prediction.

    Attributes:
        key: in its store.
        image: uint8 [H, W, 3].
        truth: uint8 [H, W], the store's mask: labels of the model, or IGNORE_INDEX.
        predicted: uint8 [H, W], labels of the model.
    """

    key: str
    image: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray


@dataclass(frozen=True)
class TestProtocol:
    """At which sizes images are predicted.

    Attributes:
        short_side: short side in pixels; None keeps the image's size.
        max_side: largest long side in pixels; None sets no limit.
        multi_scale: average several scales and mirrored images; None predicts once.
    """

    __test__ = False  # it is no test of pytest's

    short_side: int | None = None
    max_side: int | None = None
    multi_scale: MultiScaleConfig | None = None

    def resize(self, image: np.ndarray) -> np.ndarray:
        """Return an image, uint8 [H, W, 3], at the size that it is predicted at."""
        if self.short_side is None:
            return image
        height, width = image.shape[:2]
        size = short_side_size((height, width), short_side=self.short_side, max_side=self.max_side)
        return resize_bilinear(image, size)

    def views(self, image: np.ndarray) -> Iterator[tuple[np.ndarray, bool]]:
        """Yield what is predicted of a resized image: views, and whether they are mirrored.

        The views are made from the resized image, and their long side is limited by `max_side`
        times the largest scale, as published.
        """
        if self.multi_scale is None:
            yield image, False
            return
        height, width = image.shape[:2]
        largest = max(self.multi_scale.scales)
        limit = None if self.max_side is None else int(self.max_side * largest)
        for scale in self.multi_scale.scales:
            short_side = max(1, int((self.short_side or min(height, width)) * scale))
            size = short_side_size((height, width), short_side=short_side, max_side=limit)
            view = resize_bilinear(image, size)
            yield view, False
            if self.multi_scale.flip:
                yield np.ascontiguousarray(view[:, ::-1]), True


_CLASSES_AT_ONCE = 8

AS_STORED = TestProtocol()
"""Images are predicted once, at the size that they are stored at."""


@torch.inference_mode()
def predict_maps(
    segmenter: Segmenter, *, images: np.ndarray, protocol: TestProtocol = AS_STORED
) -> np.ndarray:
    """Predict one batch: images uint8 [B, H, W, 3] to train ids uint8 [B, H, W].

    The model has to be in evaluation mode.
    """
    if protocol == AS_STORED:
        scores = _predict(segmenter, images)
        return scores.argmax(1).to("cpu", torch.uint8).numpy()
    # One after the other from here on: scores at the size of the labels are large.
    resized = np.stack([protocol.resize(image) for image in images])
    size: tuple[int, int] = images.shape[1:3]
    if protocol.multi_scale is None:
        every = (row[None] for row in _predict(segmenter, resized))
    else:
        every = (
            predict_views(segmenter, image=image, protocol=protocol, size=size) for image in resized
        )
    maps = [at_size(scores, size).argmax(1) for scores in every]
    return torch.cat(maps).to("cpu", torch.uint8).numpy()


@torch.inference_mode()
def predict_views(
    segmenter: Segmenter,
    *,
    image: np.ndarray,
    protocol: TestProtocol,
    size: tuple[int, int],
) -> torch.Tensor:
    """Return the mean of the probabilities of all views of a resized image.

    Args:
        segmenter: in evaluation mode.
        image: uint8 [H, W, 3].
        protocol: which views.
        size: that the probabilities are brought to before they are averaged.

    Returns:
        float32 [1, C, *size].
    """
    total, num_views = torch.zeros(()), 0
    for view, is_mirrored in protocol.views(image):
        scores = segmenter.probabilities(_predict(segmenter, view[None]))
        scores = at_size(scores, size)
        total = total.to(scores.device) + (scores.flip(-1) if is_mirrored else scores)
        num_views += 1
    return total / num_views


@torch.inference_mode()
def predict_image(
    segmenter: Segmenter,
    image: np.ndarray,
    *,
    prepared: np.ndarray,
    protocol: TestProtocol,
) -> np.ndarray:
    """Predict one image of any size: uint8 [H, W] of train ids, at the image's own size.

    Args:
        segmenter: in evaluation mode.
        image: uint8 [H, W, 3].
        prepared: the same image as `protocol` is applied to it, perhaps squashed: uint8 [h, w, 3].
        protocol: at which size, and how often, it is predicted.
    """
    size: tuple[int, int] = image.shape[:2]
    resized = protocol.resize(prepared)
    if protocol.multi_scale is None:
        return _argmax(_predict(segmenter, resized[None]), size)
    inner: tuple[int, int] = resized.shape[:2]
    scores = predict_views(segmenter, image=resized, protocol=protocol, size=inner)
    return _argmax(scores, size)


def _argmax(scores: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the best class of scores [1, C, h, w] at another size: uint8 [H, W].

    Some classes at a time: those of a large photograph would take gigabytes.
    """
    best = winner = None
    for start in range(0, scores.shape[1], _CLASSES_AT_ONCE):
        part = at_size(scores[:, start : start + _CLASSES_AT_ONCE], size)[0].max(dim=0)
        values, ids = part.values, part.indices + start
        if best is None or winner is None:
            best, winner = values, ids
        else:
            winner = torch.where(values > best, ids, winner)
            best = torch.maximum(best, values)
    assert winner is not None
    return winner.to("cpu", torch.uint8).numpy()


def score_maps(
    segmenter: Segmenter, *, images: np.ndarray, protocol: TestProtocol = AS_STORED
) -> torch.Tensor:
    """Return the scores of images, uint8 [B, H, W, 3], at their own size: float32 [B, C, H, W]."""
    resized = np.stack([protocol.resize(image) for image in images])
    return at_size(_predict(segmenter, resized), images.shape[1:3])


def at_size(scores: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Return scores [B, C, h, w] at another size, bilinear."""
    if scores.shape[-2:] == size:
        return scores
    return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)


@torch.inference_mode()
def _predict(segmenter: Segmenter, images: np.ndarray) -> torch.Tensor:
    """Return the scores of images, uint8 [B, H, W, 3], at their size: float32 [B, C, H, W]."""
    assert not segmenter.training
    batch = (
        torch.from_numpy(np.require(images, requirements="W"))
        .to(segmenter.device)
        .permute(0, 3, 1, 2)
        .float()
        / 255
    )
    return segmenter.predict_logits(batch).float()


def predict_store(
    segmenter: Segmenter,
    *,
    store: SampleStore,
    batch_size: int,
    description: str,
    protocol: TestProtocol = AS_STORED,
    keys: Sequence[str] | None = None,
    table: np.ndarray | None = None,
) -> Iterator[Prediction]:
    """Predict the samples of a store (all, or `keys`), in order, under a progress bar.

    Images of one size that follow each other are predicted together, `batch_size` at most. `table`
    is `LabelSpace.truth_table` of the model.
    """
    wanted = store.keys() if keys is None else list(keys)
    with tqdm(total=len(wanted), desc=description, unit="image", disable=None) as progress:
        for start in range(0, len(wanted), batch_size):
            batch = [(key, store.read_image(key)) for key in wanted[start : start + batch_size]]
            for _, group in groupby(batch, key=lambda pair: pair[1].shape):
                names, images = zip(*group, strict=True)
                predicted = predict_maps(segmenter, images=np.stack(images), protocol=protocol)
                for key, image, ids in zip(names, images, predicted, strict=True):
                    yield Prediction(key, image, relabel(store.read_mask(key), table), ids)
            progress.update(len(batch))


def score_store(
    segmenter: Segmenter,
    *,
    store: SampleStore,
    batch_size: int,
    description: str,
    protocol: TestProtocol = AS_STORED,
    keys: Sequence[str] | None = None,
    table: np.ndarray | None = None,
) -> np.ndarray:
    """Return the confusion matrix, int64 [C, C], of a model on samples of a store."""
    confusion = np.zeros((segmenter.num_classes, segmenter.num_classes), np.int64)
    predictions = predict_store(
        segmenter,
        store=store,
        batch_size=batch_size,
        description=description,
        protocol=protocol,
        keys=keys,
        table=table,
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
