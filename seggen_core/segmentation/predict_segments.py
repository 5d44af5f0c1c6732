"""Segments and instances that a trained segmenter predicts on sample stores, and their scores."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.config import PostprocessConfig, Task
from seggen_core.metrics.segments import InstanceScores, PanopticScores, SegmentPrediction
from seggen_core.segmentation.labels import LabelSpace, relabel
from seggen_core.segmentation.mask_classifier import MaskClassifier, resized, semantic_scores
from seggen_core.segmentation.postprocess import panoptic_segments, thing_instances
from seggen_core.segmentation.predict import AS_STORED, TestProtocol
from seggen_core.segmentation.segment_labels import require_instances
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.store.reader import SampleStore


@dataclass(frozen=True)
class SegmentTask:
    """How instances are predicted.

    Attributes:
        task: "panoptic" or "instance".
        labels: the classes of the segmenter.
        postprocess: how queries become segments.
        protocol: at which size images are predicted; they are predicted at one scale.
    """

    task: Task
    labels: LabelSpace
    postprocess: PostprocessConfig
    protocol: TestProtocol = AS_STORED

    @property
    def things(self) -> np.ndarray:
        """Which classes are things, bool [C]."""
        return np.array([c.is_thing for c in self.labels.taxonomy])

    def truth(self, store: SampleStore, key: str) -> PanopticMap:
        """Return the masks of a sample, in the classes of the segmenter."""
        segmentation_map = relabel(store.read_mask(key), self.labels.truth_table)
        instance_map = store.read_instances(key)
        if instance_map is None:  # it shows no thing
            instance_map = np.zeros(segmentation_map.shape, np.uint16)
        is_thing = np.zeros(256, bool)
        is_thing[: len(self.things)] = self.things
        return PanopticMap(
            segmentation_map, np.where(is_thing[segmentation_map], instance_map, np.uint16(0))
        )


@torch.inference_mode()
def predict_sample(
    segmenter: Segmenter,
    *,
    image: np.ndarray,
    task: SegmentTask,
    size: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Predict one image.

    Args:
        segmenter: in evaluation mode.
        image: uint8 [H, W, 3].
        task: how it predicts.
        size: of what is predicted; None is that of the image.

    Returns:
        instances, and for "panoptic" also panoptic and semantic, as `SegmentPrediction` has them.

    Raises:
        ConfigError: the segmenter doesn't tell instances apart.
    """
    assert not segmenter.training
    pixels = np.require(task.protocol.resize(image), requirements="W")  # torch warns of others
    view = torch.from_numpy(pixels).to(segmenter.device)
    picture = view.permute(2, 0, 1)[None].float() / 255
    size = size or (image.shape[0], image.shape[1])
    if not isinstance(segmenter, MaskClassifier):
        return segmenter.predict_segments(picture, size=size, task=task.task)
    queries = segmenter.queries(picture)
    classes, masks = queries.classes[0].float(), resized(queries.masks.float(), size)[0]
    options: dict[str, Any] = {"masks": masks, "things": task.things, "config": task.postprocess}
    predicted: dict[str, Any] = {"instances": thing_instances(classes, **options)}
    if task.task == "panoptic":
        predicted["panoptic"] = panoptic_segments(classes, **options)
        scores = semantic_scores(
            classes[None], masks_queries_logits=masks[None], size=masks.shape[-2:]
        )
        predicted["semantic"] = scores[0].argmax(0).to("cpu", torch.uint8).numpy()
    return predicted


def predict_segments(
    segmenter: Segmenter,
    *,
    store: SampleStore,
    task: SegmentTask,
    description: str,
    keys: Sequence[str] | None = None,
) -> Iterator[SegmentPrediction]:
    """Predict the samples of a store (all, or `keys`), one by one, under a progress bar.

    Raises:
        ConfigError: a sample shows things and has no instance map.
    """
    wanted = store.keys() if keys is None else list(keys)
    require_instances(store, keys=wanted, task=task.task, labels=task.labels)
    for key in tqdm(wanted, desc=description, unit="image", disable=None):
        image = store.read_image(key)
        predicted = predict_sample(segmenter, image=image, task=task)
        yield SegmentPrediction(key, image, task.truth(store, key), **predicted)


def score_segments(
    segmenter: Segmenter,
    *,
    store: SampleStore,
    task: SegmentTask,
    description: str,
    keys: Sequence[str] | None = None,
    each: Callable[[SegmentPrediction], None] | None = None,
) -> dict[str, Any]:
    """Return the figures of a segmenter on samples of a store (`metrics.segments`).

    Memory doesn't grow with the number of samples, but for 24 bytes of each instance.

    Args:
        segmenter: in evaluation mode.
        store: with instance maps.
        task: how it predicts.
        description: of the progress bar.
        keys: of samples; None is all.
        each: called with each prediction.
    """
    kind = PanopticScores if task.task == "panoptic" else InstanceScores
    scores = kind(task.labels.taxonomy)
    for prediction in predict_segments(
        segmenter, store=store, task=task, description=description, keys=keys
    ):
        scores.add(prediction)
        if each is not None:
            each(prediction)
    return scores.summary()
