"""From queries to segments and instances, as arrays: Mask2Former's panoptic and instance inference.

MLflow copies this file into each logged model, beside `seggen_core/tracking/segmenter_pyfunc.py`,
so it imports nothing of seggen. `postprocess` is how seggen calls it.

Shape legend of one image: classes float32 [Q, C + 1], masks float32 [Q, H, W], both logits; things
bool [C].
"""

import numpy as np
import torch

IGNORE_INDEX = 255
"""As `seggen_core.taxonomy` has it."""


def panoptic_maps(
    classes: torch.Tensor,
    *,
    masks: torch.Tensor,
    things: np.ndarray,
    object_mask_threshold: float,
    overlap_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Return train ids, uint8 [H, W], and numbers of things, uint16 [H, W], of an image.

    1. Queries stay whose class isn't "no object" and has a probability above
       `object_mask_threshold`.
    2. A pixel belongs to the query with the highest product of class and mask probability, if its
       mask probability there is at least a half.
    3. A query is left out if it gets less than `overlap_threshold` of the pixels where its own mask
       probability is at least a half. Its pixels stay void.
    4. Things are numbered; queries of one stuff class are one segment.
    """
    num_classes = classes.shape[-1] - 1
    scores, labels = classes.softmax(-1).max(-1)
    keep = (labels != num_classes) & (scores > object_mask_threshold)
    scores, masks = scores[keep], masks[keep].sigmoid()
    if not len(masks):
        size = tuple(masks.shape[-2:])
        return np.full(size, IGNORE_INDEX, np.uint8), np.zeros(size, np.uint16)
    owner = (scores[:, None, None] * masks).argmax(0)
    inside = masks >= 0.5
    shown = inside.gather(0, owner[None])[0].cpu().numpy()
    areas = inside.flatten(1).sum(1).cpu().numpy()
    place = owner.cpu().numpy()
    won = np.bincount(place.ravel(), minlength=len(areas))
    visible = np.bincount(place[shown], minlength=len(areas))
    stays = (visible > 0) & (won / np.maximum(areas, 1) >= overlap_threshold)
    kinds = labels[keep].cpu().numpy()
    is_thing = np.asarray(things, bool)[kinds]
    numbers = np.where(is_thing & stays, np.cumsum(is_thing & stays), 0).astype(np.uint16)
    kinds = np.where(stays, kinds, IGNORE_INDEX).astype(np.uint8)
    segmentation_map = np.where(shown, kinds[place], np.uint8(IGNORE_INDEX))
    return segmentation_map, np.where(shown, numbers[place], np.uint16(0))


def best_instances(
    classes: torch.Tensor, *, masks: torch.Tensor, things: np.ndarray, num_instances: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return masks, bool [N, H, W], train ids and scores of the best pairs of a query and a class.

    Pairs with a stuff class are then left out. A score is the class probability times the mean mask
    probability of the pixels above a half. One query may be several instances, of other classes.
    """
    probabilities = classes.softmax(-1)[:, :-1]
    num_classes = probabilities.shape[1]
    num_pairs = min(num_instances, probabilities.numel())
    scores, pairs = probabilities.flatten().topk(num_pairs)
    labels = pairs % num_classes
    keep = torch.from_numpy(np.asarray(things, bool)).to(labels.device)[labels]
    scores, labels, chosen = scores[keep], labels[keep], masks[(pairs // num_classes)[keep]]
    inside = chosen > 0
    certainty = (chosen.sigmoid() * inside).flatten(1).sum(1) / (inside.flatten(1).sum(1) + 1e-6)
    return inside.cpu().numpy(), labels.cpu().numpy(), (scores * certainty).cpu().numpy()
