"""Mask2Former's loss without the pixels that have no label.

The published loss samples points of each mask, and a pixel without a label is a negative wherever
it is sampled. In zero-shot segmentation the pixels of hidden classes have no label, so the network
would be taught that nothing is there. Here such pixels take part in nothing:

- Points on them are left out of the matching, and of the mask and dice losses.
- A query that is matched to no mask is taught to be "no object", unless more than half of its
  predicted mask (as the sum of its probabilities) lies on pixels without a label: what it shows may
  be an object of a hidden class. Detectors leave out crowd regions in the same way.

Everything else is transformers' criterion: weights, points by uncertainty, losses of all layers.
Without pixels that lack a label, both are equal. The published authors have no such loss.

Shape legend: B images; Q queries; C classes; n masks of an image; P points; h, w of the predicted
masks; H, W of the labels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional as F
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerLoss,
    pair_wise_dice_loss,
    pair_wise_sigmoid_cross_entropy_loss,
    sample_point,
)

_NO_TARGET = -100
"""Class of a query that takes part in no class loss."""

Layer = Mapping[str, torch.Tensor]
"""Outputs of a decoder layer: masks_queries_logits [B, Q, h, w], class_queries_logits
[B, Q, C + 1].
"""


@dataclass(frozen=True, eq=False)
class Targets:
    """What B images show.

    Attributes:
        masks: per image float32 [n, H, W] of 0 and 1.
        classes: per image int64 [n].
        unlabelled: bool [B, H, W].
    """

    masks: Sequence[torch.Tensor]
    classes: Sequence[torch.Tensor]
    unlabelled: torch.Tensor


def left_out_loss(
    criterion: Mask2FormerLoss, layers: Sequence[Layer], *, targets: Targets
) -> torch.Tensor:
    """Return the weighted sum of the losses of all decoder layers, a scalar.

    Args:
        criterion: transformers', whose weights and numbers of points are used.
        layers: outputs of the last decoder layer and of those before it.
        targets: what the images show.
    """
    device = targets.unlabelled.device
    num_masks = criterion.get_num_masks(list(targets.classes), device=device)
    total = torch.zeros((), device=device)
    for layer in layers:
        logits = layer["masks_queries_logits"]
        matches = [_match(criterion, layer, targets, image) for image in range(len(logits))]
        losses = {
            "loss_cross_entropy": _class_loss(criterion, layer, targets, matches),
            **_mask_losses(criterion, logits, targets, matches, num_masks),
        }
        for name, value in losses.items():
            total = total + criterion.weight_dict[name] * value
    return total


Match = tuple[torch.Tensor, torch.Tensor]
"""Queries of an image, and the masks that they are matched to: int64 [m] each."""


@torch.no_grad()
def _match(criterion: Mask2FormerLoss, layer: Layer, targets: Targets, image: int) -> Match:
    """Return which queries of an image have which masks, by the costs at labelled points."""
    matcher = criterion.matcher
    predicted = layer["masks_queries_logits"][image]
    classes, masks = targets.classes[image], targets.masks[image]
    points = torch.rand(1, matcher.num_points, 2, device=predicted.device)
    labelled = ~_at_points(targets.unlabelled[image, None], points)[0]
    mask_samples = _sampled(masks, points.expand(len(masks), -1, -1))[:, labelled]
    query_samples = _sampled(predicted, points.expand(len(predicted), -1, -1))[:, labelled]
    probabilities = layer["class_queries_logits"][image].softmax(-1)
    cost = -matcher.cost_class * probabilities[:, classes]
    if labelled.any():
        cost = cost + matcher.cost_mask * pair_wise_sigmoid_cross_entropy_loss(
            query_samples, mask_samples
        )
        cost = cost + matcher.cost_dice * pair_wise_dice_loss(query_samples, mask_samples)
    limit = torch.finfo(cost.dtype).max
    cost = torch.nan_to_num(cost, nan=limit, posinf=limit, neginf=limit)
    queries, matched = linear_sum_assignment(cost.cpu())
    return torch.as_tensor(queries).to(cost.device), torch.as_tensor(matched).to(cost.device)


def _class_loss(
    criterion: Mask2FormerLoss, layer: Layer, targets: Targets, matches: Sequence[Match]
) -> torch.Tensor:
    """Return the cross-entropy of the queries' classes, less those that may show hidden classes."""
    logits = layer["class_queries_logits"]
    none = torch.full(logits.shape[:2], criterion.num_labels, device=logits.device)
    wanted = torch.where(_covers_unlabelled(layer, targets), _NO_TARGET, none)
    for image, (queries, masks) in enumerate(matches):
        wanted[image, queries] = targets.classes[image][masks]
    if not (wanted != _NO_TARGET).any():
        return 0 * logits.sum()  # keeps the gradient, of zero
    return F.cross_entropy(
        logits.transpose(1, 2), wanted, weight=criterion.empty_weight, ignore_index=_NO_TARGET
    )


@torch.no_grad()
def _covers_unlabelled(layer: Layer, targets: Targets) -> torch.Tensor:
    """Return which queries' masks lie mostly on pixels without a label: bool [B, Q]."""
    masks = layer["masks_queries_logits"].sigmoid()
    height, width = masks.shape[-2:]
    shares = F.adaptive_avg_pool2d(targets.unlabelled[:, None].float(), (height, width))
    return (masks * shares).sum((2, 3)) > 0.5 * masks.sum((2, 3))


def _mask_losses(
    criterion: Mask2FormerLoss,
    logits: torch.Tensor,
    targets: Targets,
    matches: Sequence[Match],
    num_masks: torch.Tensor,
) -> dict[str, torch.Tensor]:
    """Return the cross-entropy and the dice loss of the matched masks at labelled points."""
    predicted = torch.cat([logits[i, queries] for i, (queries, _) in enumerate(matches)])
    if not len(predicted):
        return {"loss_mask": 0 * logits.sum(), "loss_dice": 0 * logits.sum()}
    true_masks = torch.cat([targets.masks[i][masks] for i, (_, masks) in enumerate(matches)])
    images = torch.cat([torch.full_like(q, i) for i, (q, _) in enumerate(matches)])
    with torch.no_grad():
        points = criterion.sample_points_using_uncertainty(
            predicted[:, None],
            criterion.calculate_uncertainty,
            criterion.num_points,
            criterion.oversample_ratio,
            criterion.importance_sample_ratio,
        )
        labels = _sampled(true_masks, points)
        counts = (~_at_points(targets.unlabelled[images], points)).float()
    point_logits = _sampled(predicted, points)
    entropy = F.binary_cross_entropy_with_logits(point_logits, labels, reduction="none")
    entropy = (entropy * counts).sum(1) / counts.sum(1).clamp(min=1)
    probabilities, labels = point_logits.sigmoid() * counts, labels * counts
    shared, both = (probabilities * labels).sum(1), probabilities.sum(1) + labels.sum(1)
    dice = 1 - (2 * shared + 1) / (both + 1)
    return {"loss_mask": entropy.sum() / num_masks, "loss_dice": dice.sum() / num_masks}


def _sampled(maps: torch.Tensor, points: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Return maps [m, h, w] at points [m, P, 2] in [0, 1], bilinear: [m, P]."""
    return sample_point(maps[:, None], points, align_corners=False, **kwargs)[:, 0]


def _at_points(flags: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """Return flags, bool [m, H, W], at points [m, P, 2] in [0, 1]: of the nearest pixel [m, P]."""
    return _sampled(flags.float(), points, mode="nearest") > 0.5
