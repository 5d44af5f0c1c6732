"""Noise learning: cross-validated confidence in image-mask pairs, and which to drop (DiffuMask, after confident learning).

The pairs of one class are dealt into folds. A small segmenter that has seen none of a fold predicts
its masks; where prediction and mask disagree, the mask is more likely to be wrong than one that the
others explain. The pairs of lowest IoU are dropped.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from seggen_core.attention.affinity_net import PixelTrunk
from seggen_core.config.attention import NoiseLearningConfig
from seggen_core.project.rng import derive_seed, numpy_rng


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


def deal_folds(number: int, *, num_folds: int, name: Sequence[str | int]) -> list[list[int]]:
    """Deal 0 .. number - 1 at random into folds whose sizes differ by one at most."""
    order = numpy_rng(*name, "folds").permutation(number)
    return [sorted(order[k::num_folds].tolist()) for k in range(num_folds)]


def cross_validated_confidence(
    images: torch.Tensor,
    masks: torch.Tensor,
    *,
    config: NoiseLearningConfig,
    name: Sequence[str | int],
) -> torch.Tensor:
    """Return, for each pair, the IoU of its mask and the prediction of a segmenter that hasn't seen it: float32 [N] in [0, 1].

    Args:
        images: uint8 [N, 3, H, W].
        masks: bool [N, H, W].
        config: folds and training.
        name: of the random streams.
    """
    confidence = torch.ones(len(images), device=images.device)
    for number, held_out in enumerate(
        deal_folds(len(images), num_folds=config.num_folds, name=name)
    ):
        seen = sorted(set(range(len(images))) - set(held_out))
        if not held_out or not seen:
            continue
        predictor = _train(images[seen], masks[seen], config=config, name=(*name, "fold", number))
        with torch.no_grad():
            batches = torch.tensor(held_out).split(config.batch_size)
            predicted = torch.cat([predictor(images[b].float() / 255) >= 0 for b in batches])
        both, either = (
            (predicted & masks[held_out]).sum((1, 2)),
            (predicted | masks[held_out]).sum((1, 2)),
        )
        confidence[held_out] = both / either.clamp_min(1)
    return confidence


def _train(
    images: torch.Tensor,
    masks: torch.Tensor,
    *,
    config: NoiseLearningConfig,
    name: tuple[str | int, ...],
) -> MaskPredictor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*name, "weights"))
        predictor = MaskPredictor(image_size=images.shape[-1], channels=config.channels).to(
            images.device
        )
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=config.learning_rate)
    rng = numpy_rng(*name, "batches")
    with torch.enable_grad():
        for step in range(config.num_steps):
            batch = rng.integers(len(images), size=config.batch_size).tolist()
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * (1 - step / config.num_steps) ** 0.9
            optimizer.zero_grad(set_to_none=True)
            F.binary_cross_entropy_with_logits(
                predictor(images[batch].float() / 255), masks[batch].float()
            ).backward()
            optimizer.step()
    return predictor.eval()


def least_confident(confidence: Sequence[float], *, drop_share: float) -> set[int]:
    """Return the positions of the `drop_share` least confident pairs, rounded down; of equals the later ones."""
    number = int(len(confidence) * drop_share)
    order = sorted(range(len(confidence)), key=lambda k: (confidence[k], -k))
    return set(order[:number])
