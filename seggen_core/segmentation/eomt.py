"""EoMT (Kerssies et al., "Your ViT is Secretly an Image Segmentation Model", CVPR 2025).

It is transformers' network. A plain vision transformer takes images of one size: they are scaled to
fit into its square and padded, and masks are cut out and scaled back.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch.nn import functional as F
from transformers import EomtConfig, EomtForUniversalSegmentation

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError
from seggen_core.segmentation.mask_classifier import MaskClassifier, Queries, resized
from seggen_core.segmentation.segmenter import normalize
from seggen_core.segmentation.transformers_folder import (
    build_network,
    load_pretrained,
    load_saved,
    network_fields,
    save_network,
)

_POLY_POWER = 0.9
"""Of the annealing, as published."""


class EomtSegmenter(MaskClassifier):
    """EoMT of transformers.

    In training, queries attend to the pixels of their own masks, in the last `num_blocks` layers.
    The probability of this falls to 0 (`at_step`), so that a trained network needs no such masks.
    A network of the Hub has gone through that, and is fine-tuned without them.
    """

    backbone_prefix = "network.layers."

    def __init__(self, network: EomtForUniversalSegmentation) -> None:
        """Wrap a network; its config names the classes."""
        super().__init__(id2label=network.config.id2label)
        self.network = network
        self._anneals = False

    @classmethod
    def build(
        cls, config: SegmenterConfig, *, id2label: Mapping[int, str], base: Path = Path()
    ) -> Self:
        """Build from `config.architecture`, or load `config.source` with a new class head.

        Raises:
            ConfigError: `backbone_source` is set, or the architecture is none.
        """
        fields = network_fields(config, id2label)
        if config.backbone_source is not None:
            raise ConfigError(
                "train_seg.eomt.backbone_source is set, and EoMT's blocks are no classifier's; "
                "name a published EoMT as train_seg.eomt.source, or remove it"
            )
        if config.source is not None:
            kind = EomtForUniversalSegmentation
            return cls(load_pretrained(kind, config, base=base, fields=fields))
        segmenter = cls(build_network(EomtForUniversalSegmentation, EomtConfig, fields))
        segmenter._anneals = True
        return segmenter

    def at_step(self, step: int, num_steps: int) -> None:
        """Set the probabilities of masked attention, layer by layer, as published.

        With n layers of them, that of layer i is 1 until (i + 1) / (n + 2) of the training, and
        then falls to 0 over 1 / (n + 2) of it, by (1 - progress) to the power 0.9.
        """
        if not self._anneals:
            return
        num_layers = len(self.network.attn_mask_probs)
        for layer in range(num_layers):
            progress = step / num_steps * (num_layers + 2) - (layer + 1)
            share = min(max(1 - progress, 0.0), 1.0) ** _POLY_POWER
            self.network.attn_mask_probs[layer] = share

    def queries(self, images: torch.Tensor) -> Queries:
        """Return masks and classes. See `MaskClassifier`."""
        size = images.shape[-2:]
        padded, filled = self._fitted(images)
        output = self.network(pixel_values=normalize(padded))
        masks = resized(output.masks_queries_logits, padded.shape[-2:])
        return Queries(
            output.class_queries_logits, resized(masks[..., : filled[0], : filled[1]], size)
        )

    def mask_loss(
        self,
        images: torch.Tensor,
        *,
        mask_labels: Sequence[torch.Tensor],
        class_labels: Sequence[torch.Tensor],
        unlabelled: torch.Tensor,  # noqa: ARG002 (they are negatives, as published)
    ) -> torch.Tensor:
        """Return transformers' loss of all masked layers. See `MaskClassifier`."""
        padded, _ = self._fitted(images)
        masks = [self._fitted_masks(rows) for rows in mask_labels]
        loss: torch.Tensor = self.network(
            pixel_values=normalize(padded), mask_labels=masks, class_labels=list(class_labels)
        ).loss
        return loss

    def save(self, folder: Path) -> None:
        """Write a transformers folder."""
        save_network(self.network, folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`.

        Raises:
            FoundationError: the weights are not those of the configuration.
        """
        return cls(load_saved(EomtForUniversalSegmentation, folder))

    def _fitted(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return images in the network's square, grey beside them, and (height, width) in it."""
        side: Any = self.network.config.image_size
        height, width = images.shape[-2:]
        scale = side / max(height, width)
        filled = max(1, round(height * scale)), max(1, round(width * scale))
        if (height, width) != filled:
            images = F.interpolate(
                images, size=filled, mode="bilinear", align_corners=False, antialias=scale < 1
            )
        beside = (0, side - filled[1], 0, side - filled[0])
        return F.pad(images, beside, value=0.5), filled

    def _fitted_masks(self, masks: torch.Tensor) -> torch.Tensor:
        """Return masks [n, H, W] as `_fitted` places images, by nearest neighbour."""
        side: Any = self.network.config.image_size
        height, width = masks.shape[-2:]
        scale = side / max(height, width)
        filled = max(1, round(height * scale)), max(1, round(width * scale))
        if (height, width) != filled and len(masks):
            masks = F.interpolate(masks[None], size=filled, mode="nearest-exact")[0]
        elif not len(masks):
            return masks.new_zeros(0, side, side)
        return F.pad(masks, (0, side - filled[1], 0, side - filled[0]))
