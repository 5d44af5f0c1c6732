"""DiffuMask: masks from cross-attention alone, each image with a threshold of its own.

Wu et al., ICCV 2023:

    A = mean over layers and steps of A_l,t / max(A_l,t), enlarged to the image
    B_gamma = A >= gamma
    gamma* = argmax over gamma in Omega of the match of B_gamma with V

V is a map of the same image that doesn't depend on gamma: where what AffinityNet's random walk
makes of A exceeds a constant score of the background. The paper and its code refine each B_gamma by
a dense CRF before it is matched; here A itself is refined, by PAMR.

Shape legend: B images; L thresholds.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from seggen_core.attention.affinity_net import AffinityNet
from seggen_core.attention.masks import mask_iou, rescale
from seggen_core.attention.pamr import MaskRefiner


@dataclass(frozen=True)
class DiffuMasks:
    """Masks of B images.

    Attributes:
        binary: bool [B, H, W].
        soft: float32 [B, H, W] in [0, 1], the refined scores.
        reference: bool [B, H, W], V.
        threshold: float32 [B], gamma* of each image.
        match: float32 [B], the IoU of the mask and V; 0 where V is empty.
    """

    binary: torch.Tensor
    soft: torch.Tensor
    reference: torch.Tensor
    threshold: torch.Tensor
    match: torch.Tensor


def match_thresholds(
    scores: torch.Tensor, reference: torch.Tensor, *, thresholds: Sequence[float]
) -> torch.Tensor:
    """Return the IoU of ``scores >= gamma`` with `reference` for every gamma: float32 [B, L].

    It is 0 where both are empty.

    Args:
        scores: float32 [B, H, W].
        reference: bool [B, H, W].
        thresholds: Omega.
    """
    return torch.stack([mask_iou(scores >= gamma, reference) for gamma in thresholds], dim=1)


def diffumask_masks(
    scores: torch.Tensor,
    *,
    refiner: MaskRefiner,
    thresholds: Sequence[float],
    background_score: float,
    affinity_net: AffinityNet | None,
    refine: bool,
) -> DiffuMasks:
    """Choose each image's threshold by its best match with V, and cut its mask there.

    Args:
        scores: float32 [B, H, W], aggregated cross-attention of the class at image size; finite.
        refiner: PAMR on the images, float32 [B, 3, H, W] in [0, 1].
        thresholds: Omega; of equally good ones the first is taken.
        background_score: V is where the walked scores, rescaled to [0, 1], exceed this.
        affinity_net: makes V; None takes the scores refined by PAMR.
        refine: refine the scores by PAMR before they are cut.
    """
    soft = rescale(scores)
    smooth = refiner.refine(soft)
    walked = smooth if affinity_net is None else affinity_net.walk(refiner.images, soft)
    reference = rescale(walked) > background_score
    soft = smooth if refine else soft
    matches = match_thresholds(soft, reference, thresholds=thresholds)
    match, best = matches.max(dim=1)
    threshold = torch.tensor(list(thresholds), device=soft.device)[best]
    return DiffuMasks(soft >= threshold[:, None, None], soft, reference, threshold, match)
