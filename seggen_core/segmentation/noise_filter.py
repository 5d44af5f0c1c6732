"""FreeMask's filter of synthetic pixels (Yang et al., NeurIPS 2023).

A segmenter is trained on real samples. A synthetic pixel labelled c is ignored where that
segmenter's cross-entropy exceeds `tolerance` times the mean over the pixels that are labelled c in
real samples. FreeMask writes filtered masks once; here they are filtered batch by batch, as
augmented, so that nothing is stored and an interrupted training goes on the same.
"""

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch
from torch.nn import functional as F
from tqdm import tqdm

from seggen_core.segmentation.pairs import PairPool
from seggen_core.segmentation.predict import AS_STORED, TestProtocol, score_maps
from seggen_core.segmentation.segment_labels import class_ids
from seggen_core.segmentation.segmenter import Segmenter
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
    return _cross_entropy(segmenter.predict_logits(images).float(), segmentation_maps)


def _cross_entropy(scores: torch.Tensor, segmentation_maps: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(scores, segmentation_maps, ignore_index=IGNORE_INDEX, reduction="none")


def mean_class_losses(
    segmenter: Segmenter,
    *,
    pool: PairPool,
    keys: Sequence[str],
    batch_size: int,
    protocol: TestProtocol = AS_STORED,
) -> torch.Tensor:
    """Return the mean cross-entropy over all pixels of each class: float32 [C].

    A class without a pixel gets infinity: nothing is known of it, and none of its pixels will be
    ignored.

    Args:
        segmenter: in evaluation mode.
        pool: has the samples.
        keys: of real samples.
        batch_size: samples predicted at once, where they have one size.
        protocol: at which size images are predicted; losses are those at the size of the masks.
    """
    sums = np.zeros((2, segmenter.num_classes))
    starts = range(0, len(keys), batch_size)
    for start in tqdm(starts, desc="losses of real samples", unit="batch", disable=None):
        pairs = pool.read_real(keys[start : start + batch_size])
        for _, group in groupby(pairs, key=lambda pair: pair[1].shape):
            images, labels = (np.stack(part) for part in zip(*group, strict=True))
            masks = class_ids(labels)
            maps = torch.from_numpy(masks).long().to(segmenter.device)
            scores = score_maps(segmenter, images=images, protocol=protocol)
            losses = _cross_entropy(scores, maps).cpu().numpy()
            labelled = masks != IGNORE_INDEX
            ids = masks[labelled]
            sums += [
                np.bincount(ids, weights, segmenter.num_classes)
                for weights in (losses[labelled], None)
            ]
    total, count = sums
    unknown = np.full(len(total), np.inf)
    return torch.from_numpy(np.divide(total, count, out=unknown, where=count > 0)).float()


class NoiseFilter:
    """Ignores pixels of synthetic pairs that contradict a segmenter trained on real samples.

    Attributes:
        num_pixels, num_ignored: labelled pixels of synthetic pairs so far, and those of them that
            were ignored.
    """

    def __init__(
        self, segmenter: Segmenter, *, class_losses: torch.Tensor, tolerance: float
    ) -> None:
        """Set up the filter.

        Args:
            segmenter: in evaluation mode.
            class_losses: float32 [C], of `mean_class_losses`.
            tolerance: FreeMask's (1.25 there).
        """
        self._segmenter = segmenter
        self._limits = (tolerance * class_losses).to(segmenter.device)
        self.num_pixels = self.num_ignored = 0

    def __call__(
        self, images: torch.Tensor, segmentation_maps: torch.Tensor, *, synthetic: torch.Tensor
    ) -> torch.Tensor:
        """Return `segmentation_maps` with IGNORE_INDEX at the pixels that contradict the segmenter.

        Args:
            images: float32 [B, 3, H, W] in [0, 1].
            segmentation_maps: int64 [B, H, W], train ids or IGNORE_INDEX.
            synthetic: bool [B], on the CPU: the synthetic pairs; real ones stay as they are.
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
