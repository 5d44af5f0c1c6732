"""What the UNet is pretrained on: latents and token ids, from the endless stream of scenes or from the training images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from seggen_core.config import PretrainConfig
from seggen_core.generators.autoencoder import to_pixels
from seggen_core.generators.latent_cache import cache_latents
from seggen_core.scenes.stream import stream_scene

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer


_IMAGES_PER_CALL = 8


def tokenize(captions: Sequence[str], *, tokenizer: "CLIPTokenizer") -> torch.Tensor:
    """Return token ids of `captions`, int64 [N, tokenizer.model_max_length]: padded, and cut where they are longer."""
    return tokenizer(
        list(captions),
        padding="max_length",
        truncation=True,
        max_length=tokenizer.model_max_length,
        return_tensors="pt",
    ).input_ids


@dataclass(frozen=True)
class CaptionedImages:
    """The real training split as pretraining reads it: never its masks.

    Attributes:
        read_image: returns image i, uint8 [H, W, 3].
        captions: one per image.
    """

    read_image: Callable[[int], np.ndarray]
    captions: Sequence[str]


class SceneLatentPool:
    """The most recent scenes of one process's stream, as latents and token ids; a few are replaced at every step.

    Slot ``j`` holds the newest stream index that is congruent to j, so the pool at any step can be
    rebuilt from the step alone.
    """

    def __init__(
        self,
        config: PretrainConfig,
        *,
        seed: int,
        vae: "AutoencoderKL",
        tokenizer: "CLIPTokenizer",
        step: int,
        rank: int,
        world: int,
    ) -> None:
        self._config, self._seed, self._vae, self._tokenizer = config, seed, vae, tokenizer
        self._rank, self._world = rank, world
        self._next = step * config.refresh
        self._latents: torch.Tensor | None = None
        self._input_ids: torch.Tensor | None = None
        for start in range(0, config.pool_size, 64):
            self._fill(range(self._next + start, self._next + min(start + 64, config.pool_size)))
        self._next += config.pool_size

    @torch.no_grad()
    def _fill(self, positions: range) -> None:
        config = self._config
        drawn = [
            stream_scene(
                p * self._world + self._rank,
                seed=self._seed,
                size=config.image_size,
                single_object_share=config.single_object_share,
                stuff_only_share=config.stuff_only_share,
            )
            for p in positions
        ]
        # Scene p is encoded in row p % refresh of a call with `refresh` rows, be it the first
        # filling, a later one or one after a resumption: kernels round differently for other shapes
        # and rows.
        device = next(self._vae.parameters()).device
        parts = []
        for start in range(
            positions.start - positions.start % config.refresh, positions.stop, config.refresh
        ):
            group = range(start, start + config.refresh)
            images = np.stack(
                [
                    drawn[min(max(p, positions.start), positions.stop - 1) - positions.start][0]
                    for p in group
                ]
            )
            means = (
                self._vae.encode(to_pixels(images).to(device)).latent_dist.mean
                * self._vae.config.scaling_factor
            )
            parts.append(means[[p in positions for p in group]].to("cpu"))
        latents = torch.cat(parts)
        ids = tokenize([caption for _, caption in drawn], tokenizer=self._tokenizer)
        if self._latents is None or self._input_ids is None:
            self._latents = torch.empty((config.pool_size, *latents.shape[1:]))
            self._input_ids = torch.empty((config.pool_size, ids.shape[1]), dtype=torch.long)
        slots = torch.tensor([p % config.pool_size for p in positions])
        self._latents[slots], self._input_ids[slots] = latents, ids

    def draw(self, rng: np.random.Generator, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Replace the oldest `refresh` scenes, then return latents and token ids of `number` random slots."""
        self._fill(range(self._next, self._next + self._config.refresh))
        self._next += self._config.refresh
        assert self._latents is not None
        assert self._input_ids is not None
        slots = torch.from_numpy(rng.choice(self._config.pool_size, number, replace=False))
        return self._latents[slots], self._input_ids[slots]


class ImageLatents:
    """The training images and their flips as latents, each as often as any other."""

    def __init__(
        self,
        images: CaptionedImages,
        *,
        vae: "AutoencoderKL",
        tokenizer: "CLIPTokenizer",
        file: Path,
    ) -> None:
        self._cache = cache_latents(
            vae,
            read_image=images.read_image,
            number=len(images.captions),
            file=file,
            batch_size=_IMAGES_PER_CALL,
        )
        self._scale = vae.config.scaling_factor
        self._input_ids = tokenize(images.captions, tokenizer=tokenizer)

    def draw(self, rng: np.random.Generator, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled latents [number, C, h, w] and token ids [number, T] of random images, half of them flipped."""
        positions = rng.integers(0, len(self._input_ids), number)
        flips = rng.random(number) < 0.5
        return self._cache.gather(positions, flips) * self._scale, self._input_ids[
            torch.from_numpy(positions)
        ]
