"""FreeMask's filter: what a segmenter of real samples finds wrong in synthetic pairs is ignored (Yang et al., NeurIPS 2023).

A pixel labelled c is ignored where the segmenter's cross-entropy at it exceeds `tolerance` times
the mean over the pixels that are labelled c in real samples. FreeMask writes filtered masks once;
here they are filtered batch by batch, as augmented, so that nothing is stored and a training that
was killed goes on the same.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from seggen_core.segmentation.mixing import PairPool
from seggen_core.segmentation.models import Segmenter
from seggen_core.taxonomy import IGNORE_INDEX


@torch.inference_mode()
def pixel_losses(
    segmenter: Segmenter, images: torch.Tensor, *, segmentation_maps: torch.Tensor
) -> torch.Tensor:
    """Return the cross-entropy at every pixel, float32 [B, H, W], 0 where it is ignored.

    Args:
        segmenter: in evaluation mode.
        images: float32 [B, 3, H, W] in [0, 1].
        segmentation_maps: int64 [B, H, W], train ids or IGNORE_INDEX.
    """
    assert not segmenter.training
    scores = segmenter.predict_logits(images).float()
    return F.cross_entropy(scores, segmentation_maps, ignore_index=IGNORE_INDEX, reduction="none")


def mean_class_losses(
    segmenter: Segmenter,
    *,
    pool: PairPool,
    keys: Sequence[str],
    batch_size: int,
    device: torch.device,
) -> torch.Tensor:
    """Return the mean cross-entropy over all pixels of each class in the real samples `keys`: float32 [C].

    A class without a pixel gets infinity: nothing is known of it, and none of its pixels will be
    ignored.
    """
    sums = np.zeros((2, segmenter.num_classes))
    for start in range(0, len(keys), batch_size):
        pairs = [pool.read(key) for key in keys[start : start + batch_size]]
        images = (
            torch.from_numpy(np.stack([image for image, _ in pairs]))
            .to(device)
            .permute(0, 3, 1, 2)
            .float()
            / 255
        )
        masks = np.stack([mask for _, mask in pairs])
        losses = (
            pixel_losses(
                segmenter, images, segmentation_maps=torch.from_numpy(masks).long().to(device)
            )
            .cpu()
            .numpy()
        )
        labelled = masks != IGNORE_INDEX
        ids = masks[labelled]
        sums += [
            np.bincount(ids, weights, segmenter.num_classes) for weights in (losses[labelled], None)
        ]
    total, number = sums
    return torch.from_numpy(
        np.divide(total, number, out=np.full(len(total), np.inf), where=number > 0)
    ).float()


class NoiseFilter:
    """Ignores the pixels of synthetic pairs that a segmenter trained on real samples finds wrong.

    Attributes:
        num_pixels, num_ignored: labelled pixels of synthetic pairs so far, and those of them that
            were ignored.
    """

    def __init__(
        self, segmenter: Segmenter, *, class_losses: torch.Tensor, tolerance: float
    ) -> None:
        """Take a segmenter in evaluation mode, `mean_class_losses` [C], and FreeMask's tolerance (1.25 there)."""
        self._segmenter = segmenter
        device = next(segmenter.parameters()).device
        self._limits = (tolerance * class_losses).to(device)
        self.num_pixels = self.num_ignored = 0

    def __call__(
        self, images: torch.Tensor, segmentation_maps: torch.Tensor, *, synthetic: torch.Tensor
    ) -> torch.Tensor:
        """Return `segmentation_maps` with IGNORE_INDEX at the wrong pixels.

        Args:
            images: float32 [B, 3, H, W] in [0, 1].
            segmentation_maps: int64 [B, H, W], train ids or IGNORE_INDEX.
            synthetic: bool [B], on the CPU: which pairs are; all others stay as they are.
        """
        rows = synthetic.nonzero().flatten().to(images.device)
        if not len(rows):
            return segmentation_maps
        maps = segmentation_maps[rows]
        labelled = maps != IGNORE_INDEX
        losses = pixel_losses(self._segmenter, images[rows], segmentation_maps=maps)
        wrong = labelled & (losses > self._limits[torch.where(labelled, maps, 0)])
        self.num_pixels += int(labelled.sum())
        self.num_ignored += int(wrong.sum())
        filtered = segmentation_maps.clone()
        filtered[rows] = torch.where(wrong, IGNORE_INDEX, maps)
        return filtered
