import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seggen_core.errors import StorageError
from seggen_core.generators.latent_cache import LatentCache, cache_latents
from seggen_core.generators.pixels import to_pixels

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def cache(tiny_pipeline: Any, tmp_path_factory: pytest.TempPathFactory) -> LatentCache:
    file = tmp_path_factory.mktemp("cache") / "new" / "latents.npy"
    done: list[int] = []
    cached = cache_latents(
        tiny_pipeline.vae,
        read_image=IMAGES.__getitem__,
        num_images=5,
        file=file,
        batch_size=2,
        progress=done.append,
    )
    assert done == [2, 2, 1] and file.is_file()
    return cached


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
            num_images=0,
            file=tmp_path / "x.npy",
            batch_size=2,
        )


def encode_all(vae: Any, file: Path, *, read: Callable[[int], np.ndarray]) -> LatentCache:
    return cache_latents(vae, read_image=read, num_images=5, file=file, batch_size=2)


def forbidden(_: int) -> np.ndarray:
    raise AssertionError("the images are encoded again")


def test_a_finished_cache_is_reused(tiny_pipeline: Any, tmp_path: Path) -> None:
    first = encode_all(tiny_pipeline.vae, tmp_path / "l.npy", read=IMAGES.__getitem__)
    again = encode_all(tiny_pipeline.vae, tmp_path / "l.npy", read=forbidden)
    assert again.std == first.std and again.latents.dtype == first.latents.dtype
    assert np.array_equal(again.latents, first.latents)


def test_an_unfinished_cache_is_encoded_again(tiny_pipeline: Any, tmp_path: Path) -> None:
    whole = encode_all(tiny_pipeline.vae, tmp_path / "whole.npy", read=IMAGES.__getitem__)

    def killed(position: int) -> np.ndarray:
        if position == 3:
            raise KeyboardInterrupt
        return IMAGES[position]

    with pytest.raises(KeyboardInterrupt):
        encode_all(tiny_pipeline.vae, tmp_path / "l.npy", read=killed)
    resumed = encode_all(tiny_pipeline.vae, tmp_path / "l.npy", read=IMAGES.__getitem__)
    assert np.array_equal(resumed.latents, whole.latents) and resumed.std == whole.std


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_cache_is_said_and_encoded_again(
    tiny_pipeline: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    file = tmp_path / "l.npy"
    first = np.array(encode_all(tiny_pipeline.vae, file, read=IMAGES.__getitem__).latents)
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flipped" else content[:-100])
    again = encode_all(tiny_pipeline.vae, file, read=IMAGES.__getitem__)
    assert np.array_equal(again.latents, first) and "l.npy has changed" in caplog.text


def test_a_full_disk_is_one_message(tiny_pipeline: Any, tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageError, match=r"can't write the latents .*l\.npy: .*Free some"):
            encode_all(tiny_pipeline.vae, tmp_path / "l.npy", read=IMAGES.__getitem__)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


def test_all_blocks_are_there_before_the_first_latent_is_written(
    tiny_pipeline: Any, tmp_path: Path
) -> None:
    # A sparse file would fill the disk while it is written to, and the process would die of SIGBUS.
    file, blocks = tmp_path / "l.npy", []

    def read(position: int) -> np.ndarray:
        if position >= 2:
            blocks.append(file.stat().st_blocks * 512 >= file.stat().st_size)
        return IMAGES[position]

    encode_all(tiny_pipeline.vae, file, read=read)
    assert blocks == [True] * 3
