"""Segmenters that predict a set of masks with classes: what Mask2Former and EoMT share."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.taxonomy import IGNORE_INDEX


@dataclass(frozen=True, eq=False)
class Queries:
    """What a network says of B images.

    Attributes:
        classes: float32 [B, Q, C + 1], logits; the last class is "no object".
        masks: float32 [B, Q, h, w], logits of the pixels of the image as it was given.
    """

    classes: torch.Tensor
    masks: torch.Tensor


class MaskClassifier(Segmenter):
    """One mask per target, matched to queries; transformers' own loss.

    As in Mask2Former's own code, an ignored pixel belongs to no mask: it is a negative of every
    mask it is sampled for. Masks from attention methods, which are ignored outside of one class,
    therefore teach it that nothing else is there, where they teach HRNet nothing. With
    `ignored_pixels: left_out` they teach Mask2Former nothing, either (`left_out_loss`).
    """

    network: Any

    @abstractmethod
    def queries(self, images: torch.Tensor) -> Queries:
        """Return masks and classes of images, float32 [B, 3, H, W] in [0, 1]; masks have H x W."""

    @abstractmethod
    def mask_loss(
        self,
        images: torch.Tensor,
        *,
        mask_labels: Sequence[torch.Tensor],
        class_labels: Sequence[torch.Tensor],
        unlabelled: torch.Tensor,
    ) -> torch.Tensor:
        """Return the training loss, a scalar.

        Its random points come from torch's global generator.

        Args:
            images: float32 [B, 3, H, W] in [0, 1].
            mask_labels: for each image float32 [n, H, W] of 0 and 1.
            class_labels: for each image int64 [n].
            unlabelled: bool [B, H, W], ignored pixels.
        """

    def forward(self, images: torch.Tensor, **labels: Any) -> torch.Tensor:
        """Return `loss` of maps, or `mask_loss` of masks."""
        if "mask_labels" in labels:
            return self.mask_loss(images, **labels)
        return super().forward(images, **labels)

    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        """Return `mask_loss` of one mask for each class that is present. See `Segmenter`."""
        masks, classes = binary_masks(segmentation_maps, num_classes=self.num_classes)
        unlabelled = segmentation_maps == IGNORE_INDEX
        return self.mask_loss(
            images, mask_labels=masks, class_labels=classes, unlabelled=unlabelled
        )

    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return semantic scores, float32 [B, C, H, W].

        They are the queries' masks weighted by their class probabilities,
        ``sum_q softmax(class_q)[c] * sigmoid(mask_q)``, with "no object" left out (Mask2Former's
        semantic inference).
        """
        queries = self.queries(images)
        return semantic_scores(
            queries.classes, masks_queries_logits=queries.masks, size=images.shape[-2:]
        )

    @staticmethod
    def probabilities(scores: torch.Tensor) -> torch.Tensor:
        """Return the scores: they are sums of probabilities; see `Segmenter`."""
        return scores


def resized(masks: torch.Tensor, size: tuple[int, int] | torch.Size) -> torch.Tensor:
    """Return mask logits [..., h, w] at another size, bilinear."""
    if masks.shape[-2:] == tuple(size):
        return masks
    return F.interpolate(masks, size=tuple(size), mode="bilinear", align_corners=False)


def semantic_scores(
    class_queries_logits: torch.Tensor,
    *,
    masks_queries_logits: torch.Tensor,
    size: tuple[int, int] | torch.Size,
) -> torch.Tensor:
    """Turn query outputs into class scores, float32 [B, C, H, W] (see `predict_logits`).

    Args:
        class_queries_logits: [B, Q, C + 1]; the last class is "no object".
        masks_queries_logits: [B, Q, h, w].
        size: (H, W).
    """
    masks = resized(masks_queries_logits, size).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", class_queries_logits.softmax(-1)[..., :-1], masks)


def binary_masks(
    segmentation_maps: torch.Tensor, *, num_classes: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Split maps int64 [B, H, W] into one mask per class present.

    Returns:
        mask_labels: per image float32 [n, H, W] of 0 and 1; class_labels: per image int64 [n],
        ascending.
    """
    classes = torch.arange(num_classes, device=segmentation_maps.device)
    masks = segmentation_maps[:, None] == classes[:, None, None]
    present = masks.flatten(2).any(-1)
    return [m[p].float() for m, p in zip(masks, present, strict=True)], [
        classes[p] for p in present
    ]
