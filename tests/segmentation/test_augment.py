import pytest
import torch

from seggen_core.segmentation.augment import NUM_DRAWS, AugmentConfig, augment_batch

SIZE = 32


def blocks(batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images whose first channel is 10 times the class id, and their maps.

    Classes come in blocks of 8 pixels.
    """
    maps = (
        torch.arange(16, dtype=torch.uint8)
        .reshape(4, 4)
        .repeat_interleave(8, 0)
        .repeat_interleave(8, 1)
    )
    maps = maps.expand(batch, SIZE, SIZE).contiguous()
    return (maps * 10)[:, None].expand(batch, 3, SIZE, SIZE).contiguous(), maps


def augment(
    config: AugmentConfig, *, batch: int = 6, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    images, maps = blocks(batch)
    draws = torch.rand(batch, NUM_DRAWS, generator=torch.Generator().manual_seed(seed))
    return augment_batch(images, segmentation_maps=maps, config=config, draws=draws)


def test_without_augmentation_nothing_changes() -> None:
    images, maps = blocks(4)
    pictures, ids = augment(AugmentConfig(random_flip=False), batch=4)
    torch.testing.assert_close(pictures, images.float() / 255, atol=1e-5, rtol=0)
    assert ids.dtype == torch.int64 and torch.equal(ids, maps.long())


def test_flip_mirrors_image_and_map_of_some_samples() -> None:
    images, maps = blocks(40)
    pictures, ids = augment(AugmentConfig(random_flip=True), batch=40)
    mirrored = [bool(torch.equal(i, m.long().flip(-1))) for i, m in zip(ids, maps, strict=True)]
    assert 10 < sum(mirrored) < 30
    for was, picture, image, i, m in zip(mirrored, pictures, images, ids, maps, strict=True):
        assert torch.equal(i, m.long().flip(-1) if was else m.long())
        torch.testing.assert_close(
            picture, (image.flip(-1) if was else image).float() / 255, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("scale", [(0.5, 0.8), (1.2, 2.0)])
def test_image_and_map_stay_aligned(scale: tuple[float, float]) -> None:
    pictures, ids = augment(AugmentConfig(random_scale=scale), batch=20)
    inside = ids != 255
    # Interpolated edges apart, the colour of each pixel tells its class.
    ids_of_pictures = pictures[:, 0] * 25.5
    right = (ids_of_pictures - ids).abs() < 0.05
    assert right[inside].float().mean() > 0.75
    around = torch.nn.functional.unfold(
        torch.nn.functional.pad(ids[:, None].float(), (1, 1, 1, 1), value=255), 3
    )
    around = around.reshape(20, 9, SIZE, SIZE)
    assert (around.amax(1) != around.amin(1))[inside & ~right].all()
    far_outside = (around == 255).all(1)
    assert far_outside.any() == (scale[1] < 1)
    assert (pictures.movedim(1, -1)[far_outside] == 0.5).all()


def test_zooming_out_ignores_the_rim_and_zooming_in_fills_the_frame() -> None:
    _, small = augment(AugmentConfig(random_scale=(0.5, 0.5)))
    assert ((small != 255).flatten(1).sum(1) == (SIZE // 2) ** 2).all()
    assert all(set(s.unique().tolist()) == {*range(16), 255} for s in small)
    _, large = augment(AugmentConfig(random_scale=(2.0, 2.0)))
    assert (large != 255).all()
    assert len({tuple(s.unique().tolist()) for s in large}) > 1  # different windows


def test_a_crop_is_a_window_of_the_zoomed_picture() -> None:
    maps = blocks(6)[1]
    pictures, ids = augment(AugmentConfig(random_flip=False, crop_size=SIZE // 2))
    assert pictures.shape == (6, 3, SIZE // 2, SIZE // 2) and ids.shape == (6, SIZE // 2, SIZE // 2)
    for window, whole in zip(ids, maps.long(), strict=True):
        cropped = (
            whole.unfold(0, SIZE // 2, 1).unfold(1, SIZE // 2, 1).reshape(-1, SIZE // 2, SIZE // 2)
        )
        different = (cropped != window).flatten(1).float().mean(1).min()
        assert different < 0.15, (
            "each is a part of its map, but for half a pixel at the edges of blocks"
        )
    _, larger = augment(AugmentConfig(random_flip=False, crop_size=2 * SIZE))
    assert (
        larger.shape[1:] == (2 * SIZE, 2 * SIZE)
        and ((larger != 255).flatten(1).sum(1) == SIZE**2).all()
    )


def test_jitter_changes_colours_only_and_stays_in_range() -> None:
    plain, ids = augment(AugmentConfig(random_flip=False))
    pictures, same_ids = augment(AugmentConfig(random_flip=False, color_jitter=0.5))
    assert torch.equal(ids, same_ids)
    assert pictures.min() >= 0 and pictures.max() <= 1
    assert (pictures - plain).abs().amax(dim=(1, 2, 3)).min() > 0.01


def test_draws_are_named_by_the_generator_alone() -> None:
    config = AugmentConfig(True, (0.7, 1.4), 0.3)
    assert all(
        torch.equal(a, b)
        for a, b in zip(augment(config, seed=3), augment(config, seed=3), strict=True)
    )
    assert not torch.equal(augment(config, seed=3)[0], augment(config, seed=4)[0])
    # Colour jitter draws its numbers whether it is on or off: it can't change which samples are
    # mirrored or cropped.
    assert torch.equal(
        augment(config, seed=3)[1], augment(AugmentConfig(True, (0.7, 1.4), 0.0), seed=3)[1]
    )
