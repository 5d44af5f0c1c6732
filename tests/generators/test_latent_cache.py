from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seggen_core.generators.autoencoder import to_pixels
from seggen_core.generators.foundation import encode_no_prompt, encode_prompts
from seggen_core.generators.latent_cache import LatentCache, PromptCache, cache_latents
from tests.generators.tiny_sdxl import build_sdxl

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
CAPTIONS = ["a car", "a bus", "", "a car", "house"]


@pytest.fixture(scope="module")
def cache(tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    file = tmp_path_factory.mktemp("cache") / "new" / "latents.npy"
    done: list[int] = []
    made = cache_latents(
        tiny_pipeline.vae,
        read_image=IMAGES.__getitem__,
        number=5,
        file=file,
        batch_size=2,
        progress=done.append,
    )
    assert done == [2, 2, 1] and file.is_file()
    return made


def encode(vae: Any, images: np.ndarray) -> torch.Tensor:
    with torch.no_grad():
        return vae.encode(to_pixels(images)).latent_dist.mean


def test_latents_are_the_posterior_means_of_images_and_their_mirror_images(
    tiny_pipeline: Any, cache: LatentCache
) -> None:
    assert cache.latents.shape == (5, 2, 4, 16, 16) and cache.latents.dtype == np.float32
    for flip, images in ((False, IMAGES), (True, IMAGES[:, :, ::-1])):
        wanted = encode(tiny_pipeline.vae, images)
        torch.testing.assert_close(
            cache.gather(np.arange(5), np.full(5, flip)), wanted, rtol=1e-4, atol=1e-5
        )


def test_gather_takes_each_samples_own_side(cache: LatentCache) -> None:
    mixed = cache.gather(np.array([3, 3, 0]), np.array([False, True, True]))
    assert mixed.dtype == torch.float32
    assert np.array_equal(
        mixed.numpy(), np.stack([cache.latents[3, 0], cache.latents[3, 1], cache.latents[0, 1]])
    )


def test_std_is_that_of_all_latents(cache: LatentCache) -> None:
    assert cache.std == pytest.approx(float(np.std(cache.latents.astype(np.float64))), rel=1e-5)


def test_there_must_be_something_to_encode(tiny_pipeline: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to encode"):
        cache_latents(
            tiny_pipeline.vae,
            read_image=IMAGES.__getitem__,
            number=0,
            file=tmp_path / "x.npy",
            batch_size=2,
        )


@pytest.mark.parametrize("max_bytes", [2**30, 0], ids=["held", "encoded_anew"])
@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_every_position_gets_its_caption_and_dropped_ones_get_none(
    tiny_pipeline: Any, kind: str, max_bytes: int
) -> None:
    pipeline = tiny_pipeline if kind == "sd" else build_sdxl()
    prompts = PromptCache(pipeline, CAPTIONS, image_size=32, batch_size=2, max_bytes=max_bytes)
    positions, dropped = np.array([4, 1, 0, 2, 3]), np.array([False, True, False, False, True])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = prompts.gather(positions, dropped, torch.device("cpu"))
    nothing = encode_no_prompt(pipeline, image_size=32)
    for row, (position, drop) in enumerate(zip(positions, dropped, strict=True)):
        wanted = nothing if drop else encode_prompts(pipeline, [CAPTIONS[position]], image_size=32)
        assert found.keys() == wanted.keys()
        for key in wanted:
            torch.testing.assert_close(found[key][row], wanted[key][0], rtol=1e-4, atol=1e-5)
