import numpy as np
import pytest
import torch

from seggen_core.attention.pamr import pamr, pamr_affinity


def literal_pamr(image, mask, *, num_iterations, dilations):
    """Refine [H, W] pixel by pixel on an image [C, H, W].

    After equations (6) to (8) of the paper, with the reference code's scale.
    """
    channels, height, width = image.shape

    def clamp(y, x):
        return min(max(y, 0), height - 1), min(max(x, 0), width - 1)

    weights, places = {}, {}
    for y in range(height):
        for x in range(width):
            around = [
                clamp(y + dy * d, x + dx * d)
                for d in dilations
                for dy in (-1, 0, 1)
                for dx in (-1, 0, 1)
                if (dy, dx) != (0, 0)
            ]
            kernel = np.zeros(len(around))
            for c in range(channels):
                values = [image[(c, *p)] for p in around]
                deviation = np.std(values + [image[c, y, x]] * len(dilations), ddof=1)
                for j, value in enumerate(values):
                    kernel[j] += -abs(image[c, y, x] - value) / (1e-8 + 0.1 * deviation) / channels
            exponential = np.exp(kernel - kernel.max())
            weights[y, x], places[y, x] = exponential / exponential.sum(), around
    for _ in range(num_iterations):
        refined = np.zeros_like(mask)
        for i, around in places.items():
            refined[i] = sum(w * mask[p] for w, p in zip(weights[i], around, strict=True))
        mask = refined
    return mask


@pytest.mark.parametrize("dilations", [(1,), (1, 2), (1, 2, 4, 8)])
def test_matches_a_literal_transcription(dilations):
    rng = np.random.default_rng(0)
    images, masks = rng.random((2, 3, 9, 7)), rng.random((2, 2, 9, 7))
    refined = pamr(torch.tensor(images), torch.tensor(masks), num_iterations=3, dilations=dilations)
    for b in range(2):
        for c in range(2):
            expected = literal_pamr(images[b], masks[b, c], num_iterations=3, dilations=dilations)
            np.testing.assert_allclose(refined[b, c], expected, atol=2e-6)


def test_weights_are_convex_and_do_not_depend_on_the_colours_unit():
    images = torch.rand(1, 3, 12, 12)
    weights = pamr_affinity(images, dilations=(1, 2))
    assert weights.shape == (1, 16, 12, 12)
    torch.testing.assert_close(weights.sum(1), torch.ones(1, 12, 12))
    torch.testing.assert_close(
        weights, pamr_affinity(images * 255 - 40, dilations=(1, 2)), atol=1e-4, rtol=1e-3
    )


def test_a_flat_image_averages_and_a_flat_mask_stays():
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(pamr_affinity(flat, dilations=(1,)), torch.full((1, 8, 8, 8), 1 / 8))
    mask = torch.full((1, 1, 8, 8), 0.7)
    torch.testing.assert_close(
        pamr(torch.rand(1, 3, 8, 8), mask, num_iterations=5, dilations=(1, 2)), mask
    )


def test_a_ragged_mask_snaps_to_the_edge_in_the_image():
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 1
    image += 0.02 * torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    truth = torch.zeros(1, 1, 16, 16)
    truth[..., 8:] = 1
    ragged = truth.clone()
    ragged[..., ::2, 8:10] = 0
    refined = pamr(image, ragged, num_iterations=10, dilations=(1, 2))
    assert ((ragged >= 0.5) == truth.bool()).float().mean() < 0.95
    assert ((refined >= 0.3) == truth.bool()).all()


def test_images_of_a_batch_do_not_mix():
    images, masks = torch.rand(3, 3, 10, 10), torch.rand(3, 1, 10, 10)
    together = pamr(images, masks, num_iterations=4, dilations=(1, 2))
    alone = torch.cat(
        [
            pamr(images[i : i + 1], masks[i : i + 1], num_iterations=4, dilations=(1, 2))
            for i in range(3)
        ]
    )
    assert torch.equal(together, alone)
