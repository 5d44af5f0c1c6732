"""Latents of images and colour maps, and embeddings of captions, computed once before a fine-tuning.

A cached sample is never cropped or flipped again on access: the flipped twin is cached beside it,
so that a latent always shows what its conditioning says.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seggen_core.generators.autoencoder import to_pixels
from seggen_core.generators.foundation import encode_no_prompt, encode_prompts

MAX_PROMPT_BYTES = 2 * 2**30
"""Embeddings of captions that are held in memory."""


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


@torch.no_grad()
def cache_latents(
    vae: Any,
    *,
    read_image: Callable[[int], np.ndarray],
    number: int,
    file: Path,
    batch_size: int,
    progress: Callable[[int], object] = lambda _: None,
) -> LatentCache:
    """Encode images 0..number-1 and their flips to the posterior's mean.

    Args:
        vae: an AutoencoderKL.
        read_image: returns uint8 [H, W, 3] of image i.
        number: N.
        file: .npy file that the latents are written to.
        batch_size: images per call of the encoder.
        progress: told how many more images are done.
    """
    device, dtype = vae.device, vae.dtype
    cache: np.ndarray | None = None
    total = squares = 0.0
    for start in range(0, number, batch_size):
        images = np.stack([read_image(i) for i in range(start, min(start + batch_size, number))])
        pixels = to_pixels(images).to(device, dtype)
        both = torch.stack(
            [vae.encode(p).latent_dist.mean.float() for p in (pixels, pixels.flip(-1))], dim=1
        ).cpu()
        if cache is None:
            file.parent.mkdir(parents=True, exist_ok=True)
            stored = np.float32 if both[0].numel() * number < 2**28 else np.float16
            cache = np.lib.format.open_memmap(
                file, mode="w+", dtype=stored, shape=(number, *both.shape[1:])
            )
        cache[start : start + len(images)] = both.numpy()
        total += both.double().sum().item()
        squares += both.double().square().sum().item()
        progress(len(images))
    if cache is None:
        raise ValueError("there is nothing to encode")
    mean = total / cache.size
    return LatentCache(cache, float(np.sqrt(squares / cache.size - mean**2)))


class PromptCache:
    """Embeddings of captions, and what stands for a dropped caption.

    Each distinct caption is encoded once where all of them fit in `max_bytes`, else those of a
    batch whenever it is asked for: SDXL's take 0.6 MB each, so 75 GB if all 118,287 captions of
    COCO differ.
    """

    def __init__(
        self,
        pipeline: Any,
        captions: Sequence[str],
        *,
        image_size: int,
        batch_size: int = 64,
        max_bytes: int = MAX_PROMPT_BYTES,
    ) -> None:
        """Encode `captions` with the pipeline's text encoders."""
        self._captions = list(captions)
        self._encode = partial(encode_prompts, pipeline, image_size=image_size)
        nothing = encode_no_prompt(pipeline, image_size=image_size)
        distinct = sorted(set(captions))
        self._fits = (
            len(distinct) * sum(v.numel() * v.element_size() for v in nothing.values()) <= max_bytes
        )
        batches = (
            [distinct[i : i + batch_size] for i in range(0, len(distinct), batch_size)]
            if self._fits
            else []
        )
        parts = [nothing, *map(self._encode, batches)]
        self._table = {k: torch.cat([p[k] for p in parts]).cpu() for k in nothing}
        row_of = {caption: row for row, caption in enumerate(distinct, start=1)}
        self._rows = np.array([row_of[c] for c in captions])

    def gather(
        self, positions: np.ndarray, dropped: np.ndarray, device: torch.device
    ) -> dict[str, torch.Tensor]:
        """Return the conditioning of captions at `positions` [B]; where `dropped` [B] is True, that of no prompt."""
        if self._fits:
            rows = torch.from_numpy(np.where(dropped, 0, self._rows[positions]))
            return {k: v[rows].to(device) for k, v in self._table.items()}
        with torch.autocast(device.type, enabled=False):  # in the precision of the table
            fresh = self._encode([self._captions[p] for p in positions])
        drop = torch.from_numpy(dropped).to(device)
        return {
            k: torch.where(
                drop.view(-1, *[1] * (v.ndim - 1)), self._table[k].to(device), v.to(device)
            )
            for k, v in fresh.items()
        }
