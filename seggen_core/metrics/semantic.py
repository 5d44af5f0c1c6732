"""Semantic segmentation metrics as pure functions of one confusion matrix.

Shares and scores are in percent. The score of several images is computed from their summed pixel
counts, as in the ADE20K and Cityscapes benchmarks, never as a mean over images.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from seggen_core.errors import ConfigError
from seggen_core.taxonomy import IGNORE_INDEX


def confusion_matrix(prediction: np.ndarray, *, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Count pixels by true and predicted class.

    Args:
        prediction: integers [...], 0 to num_classes - 1.
        truth: integers, same shape; 0 to num_classes - 1, or IGNORE_INDEX: such pixels are not
            counted.

    Returns:
        int64 [num_classes, num_classes]; rows are true classes, columns predicted ones.

    Raises:
        ValueError: shapes differ, or an id is out of range.
    """
    if prediction.shape != truth.shape:
        raise ValueError(
            f"the prediction is {prediction.shape}, the truth {truth.shape}; expected one shape"
        )
    counted = truth != IGNORE_INDEX
    rows, columns = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, ids in (("truth", rows), ("prediction", columns)):
        if ids.size and not 0 <= ids.min() <= ids.max() < num_classes:
            raise ValueError(
                f"the {name} holds ids {ids.min()} to {ids.max()}; "
                f"expected 0 to {num_classes - 1} or {IGNORE_INDEX}"
            )
    return np.bincount(rows * num_classes + columns, minlength=num_classes**2).reshape(
        num_classes, num_classes
    )


def class_iou(confusion: np.ndarray) -> np.ndarray:
    """Return the intersection over union of every class in percent, float64 [C].

    A class that is in neither truth nor prediction has no IoU: NaN. One that is predicted but never
    true has 0.
    """
    return _percent(np.diag(confusion), confusion.sum(0) + confusion.sum(1) - np.diag(confusion))


def mean_iou(confusion: np.ndarray) -> float:
    """Return mIoU in percent, over the classes present in truth or prediction; NaN without any."""
    return _mean(class_iou(confusion))


def class_accuracy(confusion: np.ndarray) -> np.ndarray:
    """Return the percentage of each class's true pixels that are predicted right, float64 [C].

    NaN for a class without a true pixel.
    """
    return _percent(np.diag(confusion), confusion.sum(1))


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Return the percentage of counted pixels that are predicted right; NaN without any."""
    return float(_percent(np.diag(confusion).sum(), confusion.sum()))


def frequency_weighted_iou(confusion: np.ndarray) -> float:
    """Return the mean IoU weighted by each class's share of the true pixels, in percent.

    NaN without a true pixel.
    """
    weights = confusion.sum(1)
    present = weights > 0
    if not present.any():
        return float("nan")
    return float((class_iou(confusion)[present] * weights[present]).sum() / weights.sum())


def summarize(
    confusion: np.ndarray, *, slugs: Sequence[str], things: Sequence[bool]
) -> dict[str, Any]:
    """Return all metrics of one confusion matrix, JSON-ready; None for those without a value.

    Args:
        confusion: int64 [C, C].
        slugs: of the classes, in train-id order.
        things: True for a thing, False for stuff, in the same order.

    Returns:
        miou, miou_things, miou_stuff, pixel_accuracy, mean_class_accuracy, frequency_weighted_iou
        (percent), and per_class_iou (slug to percent).
    """
    iou, is_thing = class_iou(confusion), np.asarray(things, bool)
    metrics: dict[str, Any] = {
        "miou": _mean(iou),
        "miou_things": _mean(iou[is_thing]),
        "miou_stuff": _mean(iou[~is_thing]),
        "pixel_accuracy": pixel_accuracy(confusion),
        "mean_class_accuracy": _mean(class_accuracy(confusion)),
        "frequency_weighted_iou": frequency_weighted_iou(confusion),
    }
    metrics = {name: rounded(value) for name, value in metrics.items()}
    return metrics | {
        "per_class_iou": {slug: rounded(value) for slug, value in zip(slugs, iou, strict=True)}
    }


def group_iou(confusion: np.ndarray, *, groups: Sequence[Sequence[int]]) -> np.ndarray:
    """Return the IoU of groups of classes in percent, float64 [G].

    A group counts as one class: to take one of its classes for another is right. All classes in no
    group are one more class, the rest, whose pixels count where they are taken for a group's.

    Args:
        confusion: int64 [C, C].
        groups: train ids of each group.
    """
    group_of = np.full(len(confusion), len(groups))
    for group_id, ids in enumerate(groups):
        group_of[list(ids)] = group_id
    merged = np.zeros((len(groups) + 1, len(groups) + 1), np.int64)
    np.add.at(merged, (group_of[:, None], group_of[None]), confusion)
    return class_iou(merged)[: len(groups)]


def group_scores(
    confusion: np.ndarray, *, slugs: Sequence[str], groups: Mapping[str, Sequence[str]]
) -> dict[str, float | None]:
    """Return the IoU of each group of classes in percent, and "mean", that of all; None for none.

    Args:
        confusion: int64 [C, C].
        slugs: of the classes, in train-id order.
        groups: slugs by group.

    Raises:
        ConfigError: one of the slugs isn't a class.
    """
    wanted = [slug for members in groups.values() for slug in members]
    if foreign := sorted(set(wanted) - set(slugs)):
        raise ConfigError(
            f"evaluate.groups has {', '.join(foreign)}; the classes are {', '.join(slugs)}"
        )
    ids = [[slugs.index(slug) for slug in members] for members in groups.values()]
    values = group_iou(confusion, groups=ids)
    scores = {name: rounded(value) for name, value in zip(groups, values, strict=True)}
    return scores | {"mean": rounded(_mean(values))}


def zero_shot_scores(
    summary: dict[str, Any], *, unseen: Sequence[str], left_out: Sequence[str] = ()
) -> dict[str, float | None]:
    """Return mIoU over seen and over unseen classes and their harmonic mean.

    Args:
        summary: with "per_class_iou".
        unseen: slugs of the unseen classes; the others are seen.
        left_out: slugs of classes that are neither.

    Returns:
        miou_seen, miou_unseen and miou_harmonic in percent; None if no class has a value. If one
        of the two is 0, their harmonic mean is 0.

    Raises:
        ConfigError: one of the slugs isn't a class.
    """
    iou = summary["per_class_iou"]
    for name, slugs in (("unseen", unseen), ("left_out", left_out)):
        if foreign := sorted(set(slugs) - set(iou)):
            raise ConfigError(
                f"zero_shot.{name} has {', '.join(foreign)}; "
                f"the taxonomy's classes are {', '.join(iou)}"
            )
    counted = {slug: v for slug, v in iou.items() if slug not in left_out and v is not None}
    groups = [
        [v for slug, v in counted.items() if (slug in unseen) == flag] for flag in (False, True)
    ]
    seen, hidden = (float(np.mean(values)) if values else None for values in groups)
    harmonic = None
    if seen is not None and hidden is not None:
        harmonic = 2 * seen * hidden / (seen + hidden) if seen + hidden > 0 else 0.0
    named = {"miou_seen": seen, "miou_unseen": hidden, "miou_harmonic": harmonic}
    return {name: None if value is None else rounded(value) for name, value in named.items()}


def average(summaries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the mean of several `summarize` results, entry by entry.

    Means leave out None; a mean without any value is None.
    """
    merged: dict[str, Any] = {}
    for name, first in summaries[0].items():
        values = [summary[name] for summary in summaries]
        if isinstance(first, dict):
            merged[name] = average(values)
        else:
            known = [value for value in values if value is not None]
            merged[name] = rounded(float(np.mean(known))) if known else None
    return merged


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    part, whole = np.asarray(part, np.float64), np.asarray(whole, np.float64)
    return np.divide(
        100.0 * part,
        whole,
        out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan),
        where=whole > 0,
    )


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")


def rounded(value: float) -> float | None:
    """Return a score as reports hold it, with four decimals; None for NaN."""
    return None if np.isnan(value) else round(float(value), 4)
