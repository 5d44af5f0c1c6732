"""Noise learning: cross-validated confidence in image-mask pairs, and which to drop.

A step of DiffuMask, after confident learning.

The pairs of one class are dealt into folds. A small segmenter that has seen none of a fold predicts
its masks; where prediction and mask disagree, the mask is more likely to be wrong than one that the
others explain. The pairs of lowest IoU are dropped.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from seggen_core.attention.affinity_net import PixelTrunk
from seggen_core.attention.masks import mask_iou
from seggen_core.config.attention import NoiseLearningConfig
from seggen_core.errors import AttentionError
from seggen_core.project.rng import numpy_rng, seeded_torch
from seggen_core.tracking.steps import shown_steps
from seggen_core.training.loop import LoopSettings, OnStep, Training, train
from seggen_core.training.schedule import polynomial


class MaskPredictor(nn.Module):
    """A small class-against-the-rest segmenter at half the image size."""

    def __init__(self, *, image_size: int, channels: int) -> None:
        super().__init__()
        self.trunk = PixelTrunk(
            image_size=image_size, feature_size=image_size // 2, channels=channels
        )
        self.head = nn.Conv2d(channels, 1, 1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits float32 [B, H, W] of images float32 [B, 3, H, W] in [0, 1]."""
        small = self.head(self.trunk(images))
        return F.interpolate(
            small, size=tuple(images.shape[-2:]), mode="bilinear", align_corners=False
        )[:, 0]


def deal_folds(num_pairs: int, *, num_folds: int, name: Sequence[str | int]) -> list[list[int]]:
    """Deal 0 .. num_pairs - 1 at random into folds whose sizes differ by one at most."""
    order = numpy_rng(*name, "folds").permutation(num_pairs)
    return [sorted(order[k::num_folds].tolist()) for k in range(num_folds)]


def cross_validated_confidence(
    images: torch.Tensor,
    masks: torch.Tensor,
    *,
    config: NoiseLearningConfig,
    name: Sequence[str | int],
) -> torch.Tensor:
    """Return how far each pair's mask agrees with a segmenter that hasn't seen it.

    Args:
        images: uint8 [N, 3, H, W].
        masks: bool [N, H, W].
        config: folds and training.
        name: of the random streams.

    Returns:
        The IoU of mask and prediction, float32 [N] in [0, 1].
    """
    confidence = torch.ones(len(images), device=images.device)
    folds = deal_folds(len(images), num_folds=config.num_folds, name=name)
    num_steps = config.num_steps * len(folds)
    with shown_steps(total=num_steps, description="noise learning") as on_step:
        for fold, held_out in enumerate(folds):
            seen = sorted(set(range(len(images))) - set(held_out))
            if not held_out or not seen:
                continue
            streams = (*name, "fold", fold)
            predictor = _train(
                images[seen], masks[seen], config=config, name=streams, on_step=on_step
            )
            with torch.no_grad():
                batches = torch.tensor(held_out).split(config.batch_size)
                predicted = torch.cat([predictor(images[b].float() / 255) >= 0 for b in batches])
            confidence[held_out] = mask_iou(predicted, masks[held_out])
    return confidence


def _train(
    images: torch.Tensor,
    masks: torch.Tensor,
    *,
    config: NoiseLearningConfig,
    name: tuple[str | int, ...],
    on_step: OnStep,
) -> MaskPredictor:
    with seeded_torch(*name, "weights"):
        predictor = MaskPredictor(image_size=images.shape[-1], channels=config.channels)
    predictor.to(images.device)
    rng = numpy_rng(*name, "batches")

    def loss(module: nn.Module, batch: list[int]) -> torch.Tensor:
        logits = module(images[batch].float() / 255)
        return F.binary_cross_entropy_with_logits(logits, masks[batch].float())

    training = Training(
        name="noise learning",
        module=predictor,
        optimizer=torch.optim.AdamW(predictor.parameters(), lr=1.0),
        learning_rate=polynomial(config.learning_rate, num_steps=config.num_steps),
        read=lambda _: rng.integers(len(images), size=config.batch_size).tolist(),
        loss=loss,
        error=AttentionError,
        advice="lower diffumask.noise_learning.learning_rate",
    )
    train(training, LoopSettings(num_steps=config.num_steps), on_step=on_step)
    return predictor


def least_confident(confidence: Sequence[float], *, drop_share: float) -> set[int]:
    """Return the positions of the `drop_share` least confident pairs, rounded down.

    Of equals, the later ones are returned.
    """
    num_dropped = int(len(confidence) * drop_share)
    order = sorted(range(len(confidence)), key=lambda k: (confidence[k], -k))
    return set(order[:num_dropped])
