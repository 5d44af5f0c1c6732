import colorsys

import pytest
import torch

from seggen_core.segmentation.color import (
    NUM_DRAWS,
    change_saturation_and_hue,
    distort_colors,
)

OFF = 0.9
"""A draw that leaves a change out."""
PIXEL = (0.5, 0.25, 0.125)


def distorted(pixel: tuple[float, float, float], **draws: float) -> list[float]:
    """Distort one pixel; `draws` are by the name of the change, "<change>_by" says how much."""
    row = [OFF] * 5 + [0.5] * 4
    names = ["brightness", "contrast", "saturation", "hue", "order"]
    for name, value in draws.items():
        kind = name.removesuffix("_by")
        row[names.index(kind) + (5 if name.endswith("_by") else 0)] = value
    image = torch.tensor(pixel)[None, :, None, None]
    return distort_colors(image, draws=torch.tensor([row])).flatten().tolist()


def test_nothing_drawn_nothing_changed() -> None:
    assert distorted(PIXEL) == pytest.approx(PIXEL)


def test_each_change_by_hand() -> None:
    # The draw 1 is the upper end of a range: 32 levels, half as much again, 18 of 180 hues.
    bright = distorted(PIXEL, brightness=0.1, brightness_by=1.0)
    assert bright == pytest.approx([value + 32 / 255 for value in PIXEL])
    dark = distorted(PIXEL, brightness=0.1, brightness_by=0.0)
    assert dark == pytest.approx([0.5 - 32 / 255, 0.25 - 32 / 255, 0.0], abs=1e-6)
    assert distorted(PIXEL, contrast=0.1, contrast_by=1.0) == pytest.approx([0.75, 0.375, 0.1875])
    # Saturation 0.75 times 1.5 is more than 1: the smallest channel falls to 0, the middle one in
    # proportion.
    saturated = distorted(PIXEL, saturation=0.1, saturation_by=1.0)
    assert saturated == pytest.approx([0.5, 0.5 / 3, 0.0], abs=1e-6)
    pale = distorted(PIXEL, saturation=0.1, saturation_by=0.0)
    assert pale == pytest.approx([0.5, 0.375, 0.3125])
    turned = distorted((1.0, 0.0, 0.0), hue=0.1, hue_by=36.5 / 37)
    assert turned == pytest.approx([1.0, 0.6, 0.0], abs=1e-6)  # 36 of 360 degrees from red
    turned = distorted((1.0, 0.0, 0.0), hue=0.1, hue_by=0.0)
    assert turned == pytest.approx([1.0, 0.0, 0.6], abs=1e-6)


def test_contrast_comes_before_or_after_the_clipping_of_the_others() -> None:
    both = {"brightness": 0.1, "brightness_by": 1.0, "contrast": 0.1, "contrast_by": 1.0}
    saturated = {"saturation": 0.1, "saturation_by": 1.0}
    pixel = (0.75, 0.7, 0.3)
    first = distorted(pixel, order=0.1, **both, **saturated)
    last = distorted(pixel, order=0.9, **both, **saturated)
    # Brightness gives (0.8755, 0.8255, 0.4255) in both.
    # First: contrast clips it to (1, 1, 0.6382), and the distance 0.3618 grows by a half.
    assert first == pytest.approx([1, 1, 1 - 1.5 * 0.3618], abs=1e-3)
    # Last: the distance 0.45 grows by a half, and contrast clips (0.8755, 0.8005, 0.2005).
    assert last == pytest.approx([1, 1, 1.5 * 0.2005], abs=1e-3)


def test_saturation_and_hue_are_those_of_hsv() -> None:
    images = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    images[0, :, 0, :3] = 0.4  # greys have no hue
    factors, turns = torch.tensor([0.5, 1.4, 1.0]), torch.tensor([0.08, -0.1, 0.0])
    changed = change_saturation_and_hue(images, saturation=factors, hue=turns)
    for b in range(3):
        for pixel, converted in zip(
            images[b].flatten(1).T.tolist(), changed[b].flatten(1).T.tolist(), strict=True
        ):
            hue, saturation, value = colorsys.rgb_to_hsv(*pixel)
            saturation = min(1.0, saturation * factors[b].item())
            expected = colorsys.hsv_to_rgb((hue + turns[b].item()) % 1, saturation, value)
            assert converted == pytest.approx(expected, abs=1e-5)


def test_half_of_the_images_get_each_change_and_values_stay_in_range() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.rand(400, NUM_DRAWS, generator=generator)
    images = torch.rand(400, 3, 2, 2, generator=generator)
    changed = distort_colors(images, draws=draws)
    assert changed.min() >= 0 and changed.max() <= 1
    untouched = (changed == images).flatten(1).all(1).float().mean()
    assert 0.02 < untouched < 0.12  # a sixteenth
