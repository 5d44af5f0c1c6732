"""AffinityNet: pixel affinities learned from certain pixels alone, and a random walk on them.

Ahn and Kwak, CVPR 2018.

DiffuMask trains it on the cross-attention maps of one class's images: pixels of a high score are
foreground, of a low one background, what is between is not learned from. Pairs of near pixels with
one label are to have affinity 1, with two labels 0 (their section 3.2 and equation 7). A random
walk then carries scores to wherever the affinities lead (their equation 10).

    W_ij = exp(-mean_c |f_ic - f_jc|) for pixels within a radius, W_ii = 1
    T = D^-1 W^beta
    score <- T^t score

Theirs is a pretrained ResNet-38 at an eighth of the image; this one is a small network trained from
scratch at `feature_size`.

Shape legend: B images; h side of the feature map; K offsets.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from seggen_core.config.attention import AffinityNetConfig
from seggen_core.errors import AttentionError, ConfigError
from seggen_core.project.rng import numpy_rng, seeded_torch
from seggen_core.tracking.steps import shown_steps
from seggen_core.training.loop import LoopSettings, Training, train
from seggen_core.training.schedule import polynomial

_EPSILON = 1e-5


class PixelTrunk(nn.Module):
    """Convolutions that halve the image to `feature_size`, then look around it.

    They look around with growing dilation.
    """

    def __init__(self, *, image_size: int, feature_size: int, channels: int) -> None:
        super().__init__()
        halvings = math.log2(image_size / feature_size)
        if halvings < 0 or not halvings.is_integer():
            raise ConfigError(
                f"feature_size is {feature_size} and the image {image_size} pixels; "
                "expected the image size divided by 1, 2, 4, ..."
            )
        layers: list[nn.Module] = []
        width = 3
        for _ in range(int(halvings)):
            layers += [
                nn.Conv2d(width, channels, 3, stride=2, padding=1),
                nn.GroupNorm(4, channels),
                nn.ReLU(),
            ]
            width = channels
        for dilation in (1, 2, 4):
            layers += [
                nn.Conv2d(width, channels, 3, padding=dilation, dilation=dilation),
                nn.GroupNorm(4, channels),
                nn.ReLU(),
            ]
            width = channels
        self.layers = nn.Sequential(*layers)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features float32 [B, C, h, h] of images float32 [B, 3, H, W] in [0, 1]."""
        return self.layers(images - 0.5)


def neighbour_offsets(radius: int) -> list[tuple[int, int]]:
    """Return the offsets (dy, dx) of half a disc of `radius`.

    Every pair of pixels within the radius is met once.
    """
    half = [(0, dx) for dx in range(1, radius)]
    half += [
        (dy, dx)
        for dy in range(1, radius)
        for dx in range(-radius + 1, radius)
        if dy * dy + dx * dx < radius * radius
    ]
    return half


def shifted(maps: torch.Tensor, offset: tuple[int, int]) -> torch.Tensor:
    """Return [B, C, h, w] as seen from `offset` (dy, dx) away.

    ``result[..., y, x] = maps[..., y + dy, x + dx]``, 0 outside.
    """
    dy, dx = offset
    height, width = maps.shape[-2:]
    padded = F.pad(maps, (max(-dx, 0), max(dx, 0), max(-dy, 0), max(dy, 0)))
    return padded[..., max(dy, 0) : max(dy, 0) + height, max(dx, 0) : max(dx, 0) + width]


class AffinityNet(nn.Module):
    """Affinities of near pixels."""

    def __init__(self, config: AffinityNetConfig, *, image_size: int) -> None:
        super().__init__()
        self.config = config
        self.trunk = PixelTrunk(
            image_size=image_size, feature_size=config.feature_size, channels=config.channels
        )
        self.head = nn.Conv2d(config.channels, config.channels, 1)

    def affinities(self, images: torch.Tensor, offsets: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Return W of each pixel and the one `offset` away, float32 [B, K, h, h] in (0, 1].

        It means nothing where the other pixel lies outside of the map.
        """
        features = self.head(self.trunk(images))
        return torch.stack(
            [torch.exp(-(features - shifted(features, o)).abs().mean(1)) for o in offsets], dim=1
        )

    def forward(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the loss of their equation 7.

        Like pairs of background and of foreground weigh 1/4 each, unlike pairs 1/2.

        Args:
            images: float32 [B, 3, H, W] in [0, 1].
            labels: float32 [B, h, h]: 1 foreground, 0 background, -1 not certain.
        """
        offsets = neighbour_offsets(self.config.radius)
        affinity = self.affinities(images, offsets)
        here = labels[:, None].expand_as(affinity)
        # Outside of the map is as good as not certain.
        there = torch.stack([shifted(labels[:, None] + 1, o)[:, 0] - 1 for o in offsets], dim=1)
        certain = (here >= 0) & (there >= 0)
        total = affinity.new_zeros(())
        for pairs, weight, like in (
            (certain & (here == 0) & (there == 0), 0.25, True),
            (certain & (here == 1) & (there == 1), 0.25, True),
            (certain & (here != there), 0.5, False),
        ):
            cost = -torch.log((affinity if like else 1 - affinity) + _EPSILON)
            total = total + weight * (cost * pairs).sum() / pairs.sum().clamp_min(1)
        return total

    @torch.no_grad()
    def walk(self, images: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Carry scores along the affinities by `walk_steps` steps of the random walk.

        Args:
            images: float32 [B, 3, H, W] in [0, 1].
            scores: float32 [B, H, W].

        Returns:
            float32 [B, H, W], within the range of `scores`.
        """
        half = neighbour_offsets(self.config.radius)
        there = self.affinities(images, half) ** self.config.sharpness
        size = self.config.feature_size
        inside = torch.cat(
            [shifted(torch.ones(1, 1, size, size, device=images.device), o) for o in half], dim=1
        )
        there = there * inside
        # The affinity of a pixel to one before it is that one's affinity to the pixel.
        back = torch.cat(
            [shifted(there[:, k : k + 1], (-dy, -dx)) for k, (dy, dx) in enumerate(half)], dim=1
        )
        total = 1 + there.sum(1, keepdim=True) + back.sum(1, keepdim=True)
        maps = F.interpolate(scores[:, None], size=(size, size), mode="area")
        for _ in range(self.config.walk_steps):
            moved = maps.clone()
            for k, (dy, dx) in enumerate(half):
                moved += there[:, k : k + 1] * shifted(maps, (dy, dx)) + back[
                    :, k : k + 1
                ] * shifted(maps, (-dy, -dx))
            maps = moved / total
        return F.interpolate(
            maps, size=tuple(scores.shape[-2:]), mode="bilinear", align_corners=False
        )[:, 0]


def train_affinity_net(
    images: torch.Tensor,
    scores: torch.Tensor,
    *,
    config: AffinityNetConfig,
    name: Sequence[str | int],
) -> AffinityNet:
    """Train an AffinityNet on one class's images and their scores.

    Args:
        images: uint8 [N, 3, H, W].
        scores: float32 [N, s, s] in [0, 1].
        config: the network and its training.
        name: of the random streams.

    Raises:
        AttentionError: no image has both a certain foreground and a certain background.
        ConfigError: feature_size doesn't divide the image size by a power of two.
    """
    mode = "area" if scores.shape[-1] > config.feature_size else "bilinear"
    small = F.interpolate(scores[:, None], size=(config.feature_size,) * 2, mode=mode)[:, 0]
    labels = torch.full_like(small, -1.0)
    labels[small >= config.foreground] = 1
    labels[small <= config.background] = 0
    useful = [k for k in range(len(images)) if (labels[k] == 1).any() and (labels[k] == 0).any()]
    if not useful:
        raise AttentionError(
            f"none of {len(images)} images has a certain foreground (score from "
            f"{config.foreground}) and background (up to {config.background}) for AffinityNet to "
            "learn from; change diffumask.affinity_net, or set it to null for PAMR"
        )
    with seeded_torch(*name, "affinity_net"):
        network = AffinityNet(config, image_size=images.shape[-1]).to(images.device)
    rng = numpy_rng(*name, "affinity_net", "batches")
    batch_size = min(config.batch_size, len(useful))
    training = Training(
        name="AffinityNet",
        module=network,
        optimizer=torch.optim.AdamW(network.parameters(), lr=1.0),
        learning_rate=polynomial(config.learning_rate, num_steps=config.num_steps),
        read=lambda _: rng.choice(useful, size=batch_size, replace=False).tolist(),
        loss=lambda module, batch: module(images[batch].float() / 255, labels[batch]),
        error=AttentionError,
        advice="lower diffumask.affinity_net.learning_rate",
    )
    with shown_steps(total=config.num_steps, description=training.name) as on_step:
        train(training, LoopSettings(num_steps=config.num_steps), on_step=on_step)
    return network
