"""Average precision of instance segmentation, as COCO defines it.

faster-coco-eval computes it. It is COCO's evaluation in C++ and equals pycocotools to the last
digit but one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Instances:
    """The N instances of one image.

    Attributes:
        masks: bool [N, H, W]; [0, H, W] without an instance.
        class_ids: int [N], 0 to num_classes - 1.
        scores: float [N], confidence of predicted instances; None for true ones.
        crowds: bool [N], which true instances are crowds; None for none.
    """

    masks: np.ndarray
    class_ids: np.ndarray
    scores: np.ndarray | None = None
    crowds: np.ndarray | None = None


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's figures in percent; NaN for those without a true instance.

    Attributes:
        ap: mean over classes and over the IoU thresholds 0.50, 0.55, ..., 0.95 ("AP").
        ap50, ap75: mean over classes at IoU 0.50 and 0.75.
        ap_small, ap_medium, ap_large: `ap` of instances of at most 32^2 pixels, of 32^2 to 96^2,
            and of at least 96^2 ("APs", "APm", "APl").
        per_class: `ap` of each class, by class id.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    per_class: tuple[float, ...]


def average_precision(
    images: Iterable[tuple[Instances, Instances]], *, num_classes: int
) -> AveragePrecision:
    """Score predicted instances against true ones.

    As in COCO, the 100 predictions with the highest scores of each image count, and precision is
    interpolated at 101 recalls. A prediction inside a true crowd is ignored, and a crowd is never
    missed. Masks are stored as run lengths, so an iterator may yield images one by one.

    Args:
        images: (predicted, true) instances of each image.
        num_classes: C.

    Raises:
        ValueError: predictions lack scores, or a class or a mask's size is wrong.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    listed: dict[str, list[dict[str, Any]]] = {"images": [], "annotations": []}
    detections: list[dict[str, Any]] = []
    for image_id, (predicted, true) in enumerate(images, start=1):
        _check(predicted, true, num_classes=num_classes)
        height, width = true.masks.shape[1:]
        listed["images"].append({"id": image_id, "height": height, "width": width})
        listed["annotations"] += _annotations(
            true, image_id=image_id, first_id=len(listed["annotations"]) + 1
        )
        detections += _annotations(predicted, image_id=image_id, first_id=len(detections) + 1)
    categories = [{"id": class_id, "name": str(class_id)} for class_id in range(num_classes)]
    truth = COCO({**listed, "categories": categories})
    evaluation = COCOeval_faster(
        truth, truth.loadRes(detections), iouType="segm", rle_iou_max_workers=1
    )
    evaluation.evaluate()
    evaluation.accumulate()
    # Axes: IoU threshold, recall, class, range of areas, limit of detections; -1 is no value.
    precision = np.asarray(evaluation.eval["precision"])[..., -1]
    thresholds = np.round(evaluation.params.iouThrs, 2)
    everything = precision[..., 0]
    return AveragePrecision(
        ap=_mean(everything),
        ap50=_mean(everything[thresholds == 0.5]),
        ap75=_mean(everything[thresholds == 0.75]),
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
        per_class=tuple(_mean(everything[:, :, class_id]) for class_id in range(num_classes)),
    )


def _check(predicted: Instances, true: Instances, *, num_classes: int) -> None:
    if predicted.scores is None:
        raise ValueError("predicted instances have no scores")
    sizes = predicted.masks.shape[1:], true.masks.shape[1:]
    if sizes[0] != sizes[1]:
        raise ValueError(f"predicted masks are {sizes[0]}, true ones {sizes[1]}; expected one size")
    for name, instances in (("predicted", predicted), ("true", true)):
        foreign = sorted({int(c) for c in instances.class_ids} - set(range(num_classes)))
        if foreign:
            raise ValueError(f"{name} classes are {foreign}; expected 0 to {num_classes - 1}")


def _annotations(instances: Instances, *, image_id: int, first_id: int) -> list[dict[str, Any]]:
    """Return COCO's annotations of the instances that have a pixel."""
    from faster_coco_eval.core import mask as coco_mask

    annotations: list[dict[str, Any]] = []
    for position, mask in enumerate(instances.masks):
        if not mask.any():
            continue
        annotation: dict[str, Any] = {
            "id": first_id + len(annotations),
            "image_id": image_id,
            "category_id": int(instances.class_ids[position]),
            "segmentation": coco_mask.encode(np.asfortranarray(mask, np.uint8)),
            "area": int(mask.sum()),
            "iscrowd": int(instances.crowds is not None and instances.crowds[position]),
        }
        if instances.scores is not None:
            annotation["score"] = float(instances.scores[position])
        annotations.append(annotation)
    return annotations


def _mean(precision: np.ndarray) -> float:
    """Return the mean, in percent, of the precisions that have a value."""
    known = precision[precision > -1]
    return 100 * float(known.mean()) if known.size else float("nan")
