"""Images as the networks take them."""

from collections.abc import Callable

import numpy as np
import torch


def to_pixels(images: np.ndarray) -> torch.Tensor:
    """Turn uint8 images [B, H, W, 3] into an autoencoder's float32 [B, 3, H, W] in [-1, 1]."""
    return _channels_first(images).div_(127.5).sub_(1.0)


def to_condition(images: np.ndarray) -> torch.Tensor:
    """Turn uint8 images [B, H, W, 3] into a ControlNet's float32 [B, 3, H, W] in [0, 1]."""
    return _channels_first(images).div_(255)


def read_flipped(
    read: Callable[[int], np.ndarray], positions: np.ndarray, flips: np.ndarray
) -> np.ndarray:
    """Return ``read(position)`` of each of `positions` [B], mirrored where `flips` [B] is True."""
    images = [read(int(position)) for position in positions]
    return np.stack([m[:, ::-1] if flip else m for m, flip in zip(images, flips, strict=True)])


def _channels_first(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float()
