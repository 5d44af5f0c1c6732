"""What the UNet is pretrained on: latents and token ids of scenes, or of the training images."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from seggen_core.config import PretrainConfig
from seggen_core.generators.latent_cache import cache_latents
from seggen_core.generators.pixels import to_pixels
from seggen_core.scenes.stream import stream_scene

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTokenizer


_IMAGES_PER_CALL = 8


def tokenize(captions: Sequence[str], *, tokenizer: "CLIPTokenizer") -> torch.Tensor:
    """Return token ids of `captions`, int64 [N, tokenizer.model_max_length]: padded or cut."""
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


class LatentSource(Protocol):
    """Where a step's samples come from."""

    def draw(
        self, step: int, rng: np.random.Generator, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled latents [B, C, h, w] and token ids [B, T] for `step`, drawn with `rng`."""


class SceneLatentPool:
    """The most recent scenes of one process's stream, as latents and token ids.

    Scenes come in groups of `refresh`: group g holds scenes ``g * refresh`` and following. Step t
    draws from the `pool_size` scenes that begin with group t + 1, so each step brings a new group,
    and the pool of any step follows from the step alone.
    """

    def __init__(
        self,
        config: PretrainConfig,
        *,
        seed: int,
        vae: "AutoencoderKL",
        tokenizer: "CLIPTokenizer",
        rank: int = 0,
        num_processes: int = 1,
    ) -> None:
        """Hold nothing yet.

        Args:
            config: of the stream and the pool.
            seed: of the stream.
            vae: on the device to encode on.
            tokenizer: of the captions.
            rank, num_processes: which scenes of the stream are this process's: each
                `num_processes`-th from `rank` on.
        """
        self._config, self._seed, self._vae, self._tokenizer = config, seed, vae, tokenizer
        self._rank, self._num_processes = rank, num_processes
        self._num_groups = -(-config.pool_size // config.refresh)
        self._groups: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def draw(
        self, step: int, rng: np.random.Generator, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `LatentSource`; the scenes of a step are different ones."""
        pool_size, refresh = self._config.pool_size, self._config.refresh
        first_group = step + 1
        wanted = range(first_group, first_group + self._num_groups)
        for group in [g for g in self._groups if g not in wanted]:
            del self._groups[group]
        for group in wanted:
            if group not in self._groups:
                self._groups[group] = self._encode(group)
        # Slot j holds the scene of the pool whose index is congruent to j.
        slots = rng.choice(pool_size, batch_size, replace=False)
        scenes = first_group * refresh + (slots - first_group * refresh) % pool_size
        rows = [(self._groups[scene // refresh], scene % refresh) for scene in scenes.tolist()]
        return (
            torch.stack([latents[row] for (latents, _), row in rows]),
            torch.stack([input_ids[row] for (_, input_ids), row in rows]),
        )

    @torch.no_grad()
    def _encode(self, group: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return scaled latents [refresh, C, h, w] and token ids [refresh, T] of a group.

        A scene is always encoded in a call with `refresh` rows and in the same row of it: kernels
        round differently for other shapes and rows.
        """
        config = self._config
        scenes = [
            stream_scene(
                index * self._num_processes + self._rank,
                seed=self._seed,
                size=config.image_size,
                single_object_share=config.single_object_share,
                stuff_only_share=config.stuff_only_share,
            )
            for index in range(group * config.refresh, (group + 1) * config.refresh)
        ]
        pixels = to_pixels(np.stack([picture for picture, _ in scenes]))
        means = self._vae.encode(pixels.to(self._vae.device)).latent_dist.mean
        captions = [caption for _, caption in scenes]
        return (
            (means * self._vae.config.scaling_factor).to("cpu"),
            tokenize(captions, tokenizer=self._tokenizer),
        )


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
        """Encode all images into `file`, or reuse it (`cache_latents`)."""
        self._cache = cache_latents(
            vae,
            read_image=images.read_image,
            num_images=len(images.captions),
            file=file,
            batch_size=_IMAGES_PER_CALL,
        )
        self._scale = vae.config.scaling_factor
        self._input_ids = tokenize(images.captions, tokenizer=tokenizer)

    def draw(
        self, step: int, rng: np.random.Generator, batch_size: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `LatentSource`; random images, half of them flipped, whatever the `step`."""
        del step
        positions = rng.integers(0, len(self._input_ids), batch_size)
        flips = rng.random(batch_size) < 0.5
        latents = self._cache.gather(positions, flips) * self._scale
        return latents, self._input_ids[torch.from_numpy(positions)]
