"""Latents of images or colour maps, computed once before a training.

A cached sample is never cropped or flipped again on access: the flipped twin is cached beside it,
so that a latent always shows what its conditioning says.
"""

import logging
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seggen_core.errors import StorageError
from seggen_core.generators.pixels import to_pixels
from seggen_core.project.digests import file_sha256
from seggen_core.project.publish import read_json, write_json

_MAX_FLOAT32_VALUES = 2**28
"""A cache of so many values or more is stored as float16."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LatentCache:
    """Unscaled latents on disk.

    Attributes:
        latents: float32 or float16 memory map [N, 2, C, h, w]; index 1 of the second axis is the
            horizontal flip.
        std: standard deviation over all of them.
    """

    latents: np.ndarray
    std: float

    def gather(self, positions: np.ndarray, flips: np.ndarray) -> torch.Tensor:
        """Return float32 [B, C, h, w] for sample `positions` [B] and `flips` [B] (bool)."""
        return torch.from_numpy(
            np.stack([self.latents[p, int(f)] for p, f in zip(positions, flips, strict=True)])
        ).float()


def cache_latents(
    vae: Any,
    *,
    read_image: Callable[[int], np.ndarray],
    num_images: int,
    file: Path,
    batch_size: int,
    progress: Callable[[int], object] = lambda _: None,
) -> LatentCache:
    """Encode images 0..num_images-1 and their flips to the posterior's mean, or reuse `file`.

    A resumed run reuses a finished `file`. So its folder has to be named by all that the latents
    depend on, `batch_size` included, since kernels round differently for other shapes. A
    file that was damaged is encoded again, with a warning.

    Args:
        vae: an AutoencoderKL.
        read_image: returns uint8 [H, W, 3] of image i.
        num_images: N.
        file: .npy file of the latents; a .json file beside it has their digest.
        batch_size: images per call of the encoder.
        progress: called with the number of images that were done since the last call.

    Raises:
        ValueError: there is no image.
        StorageError: the disk has no room for the latents.
    """
    if num_images < 1:
        raise ValueError("there is nothing to encode")
    facts_file = file.with_suffix(".json")
    if facts_file.is_file():
        facts = read_json(facts_file)
        if file.is_file() and file_sha256(file) == facts["sha256"]:
            progress(num_images)
            return LatentCache(np.load(file, mmap_mode="r"), facts["std"])
        logger.warning("%s has changed since it was written; it is encoded again", file)
        facts_file.unlink()

    latents: np.ndarray | None = None
    total = squares = 0.0
    for start in range(0, num_images, batch_size):
        positions = range(start, min(start + batch_size, num_images))
        encoded = _encode(vae, np.stack([read_image(position) for position in positions]))
        if latents is None:
            latents = _allocate(file, shape=(num_images, *encoded.shape[1:]))
        latents[start : start + len(positions)] = encoded.numpy()
        total += encoded.double().sum().item()
        squares += encoded.double().square().sum().item()
        progress(len(positions))
    assert isinstance(latents, np.memmap)
    latents.flush()
    mean = total / latents.size
    std = float(np.sqrt(squares / latents.size - mean**2))
    _finish(facts_file, {"std": std, "sha256": file_sha256(file)})
    return LatentCache(latents, std)


@torch.no_grad()
def _encode(vae: Any, images: np.ndarray) -> torch.Tensor:
    """Return the posterior's mean of images [B, H, W, 3] and flips: float32 [B, 2, C, h, w]."""
    pixels = to_pixels(images).to(vae.device, vae.dtype)
    means = [vae.encode(p).latent_dist.mean.float() for p in (pixels, pixels.flip(-1))]
    return torch.stack(means, dim=1).cpu()


def _allocate(file: Path, *, shape: tuple[int, ...]) -> np.memmap:
    """Create the memory map with all its blocks.

    So a full disk is an error here, and not a SIGBUS when the map is written to.
    """
    small = math.prod(shape) < _MAX_FLOAT32_VALUES
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        latents = np.lib.format.open_memmap(
            file, mode="w+", dtype=np.float32 if small else np.float16, shape=shape
        )
        with file.open("r+b") as handle:
            os.posix_fallocate(handle.fileno(), 0, file.stat().st_size)
    except OSError as error:
        file.unlink(missing_ok=True)
        raise StorageError(
            f"can't write the latents {file}: {error.strerror or error}. Free some space or make "
            "the folder writable, then run the same command again"
        ) from error
    return latents


def _finish(facts_file: Path, facts: dict[str, Any]) -> None:
    partial = facts_file.with_suffix(".partial")
    try:
        write_json(partial, facts)
        partial.replace(facts_file)
    except OSError as error:
        raise StorageError(f"can't write {facts_file}: {error.strerror or error}") from error
