"""Scores of a mask that is made without labels, and the reasons for which one is rejected."""

from collections.abc import Mapping

import torch

from seggen_core.attention.masks import ACCEPTED, ClassMasks
from seggen_core.config.attention import AttentionMethodConfig

NOT_FINITE_IMAGE = "not_finite_image"
FLAGGED_IMAGE = "flagged_by_safety_checker"
MASK_TOO_SMALL = "mask_too_small"
MASK_TOO_LARGE = "mask_too_large"
TOO_FEW_SEEDS = "too_few_seeds"
LOW_CONTRAST = "low_contrast"
LOW_AGREEMENT = "low_threshold_agreement"
SECOND_THRESHOLD_STEP = 0.2
"""How far above beta the second threshold lies, under which a confident mask hardly changes."""


def mask_quality(result: ClassMasks, *, mask: torch.Tensor, beta: float) -> list[dict[str, float]]:
    """Return the scores of each image; zero where there is no mask to score.

    Args:
        result: soft masks and seeds.
        mask: bool [B, H, W], the mask that is kept; within ``result.binary``.
        beta: threshold of the mask.

    Returns:
        mask_area (share of the image), seed_count (equation 6 of SeeDiff), contrast (mean soft mask
        inside less outside) and threshold_agreement (IoU of the mask with the one at beta + 0.2).
    """
    counts = result.seeds[min(result.seeds)].sum((1, 2))
    return soft_mask_quality(
        result.soft, mask=mask, threshold=torch.full((len(mask),), beta), seed_counts=counts
    )


def soft_mask_quality(
    soft: torch.Tensor, *, mask: torch.Tensor, threshold: torch.Tensor, seed_counts: torch.Tensor
) -> list[dict[str, float]]:
    """Return the scores of `mask_quality`.

    Args:
        soft: float32 [B, H, W] in [0, 1].
        mask: bool [B, H, W].
        threshold: float32 [B], that of each mask.
        seed_counts: integer [B].
    """
    area = mask.float().mean((1, 2))
    mass, pixels = (soft * mask).sum((1, 2)), mask.sum((1, 2))
    mean_inside = mass / pixels.clamp_min(1)
    mean_outside = (soft.sum((1, 2)) - mass) / (~mask).sum((1, 2)).clamp_min(1)
    # The mask at the higher threshold lies within the other, so their IoU is the ratio of their
    # areas.
    second = (threshold.to(soft.device) + SECOND_THRESHOLD_STEP)[:, None, None]
    confident = ((soft >= second) & mask).sum((1, 2))
    scores = {
        "mask_area": area,
        "seed_count": seed_counts,
        "contrast": (mean_inside - mean_outside) * (pixels > 0),
        "threshold_agreement": confident / pixels.clamp_min(1),
    }
    columns = {name: values.tolist() for name, values in scores.items()}
    return [
        {name: round(float(values[i]), 6) for name, values in columns.items()}
        for i in range(len(soft))
    ]


def mask_status(status: str, quality: Mapping[str, float], *, config: AttentionMethodConfig) -> str:
    """Return `status`; for an accepted mask, the first configured limit that it is outside of."""
    if status != ACCEPTED:
        return status
    limits = (
        (quality["mask_area"] < config.min_mask_area, MASK_TOO_SMALL),
        (quality["mask_area"] > config.max_mask_area, MASK_TOO_LARGE),
        (quality["seed_count"] < config.min_seed_count, TOO_FEW_SEEDS),
        (quality["contrast"] < config.min_contrast, LOW_CONTRAST),
        (quality["threshold_agreement"] < config.min_threshold_agreement, LOW_AGREEMENT),
    )
    return next((reason for outside, reason in limits if outside), ACCEPTED)
