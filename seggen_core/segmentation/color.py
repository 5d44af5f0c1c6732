"""The colour distortion of SSD (Liu et al., ECCV 2016), as Mask2Former trains with.

Brightness changes by -32 to 32 grey levels of 255; contrast and saturation by a factor of 0.5 to
1.5; hue by a turn of up to 36 degrees (18 of the 180 steps that 8-bit colour codes have). Each is
done with probability 0.5. Contrast comes right after brightness, or last, with probability 0.5.
Values are clipped after each change, but not rounded to whole grey levels as the 8-bit originals
are: results differ by a grey level or two.

Shape legend: images float32 [B, 3, H, W] in [0, 1].
"""

import torch

NUM_DRAWS = 9
"""Random numbers of an image."""

_BRIGHTNESS = 32 / 255
_FACTOR = 0.5
_HUE = 18
_HUE_STEPS = 180


def distort_colors(images: torch.Tensor, *, draws: torch.Tensor) -> torch.Tensor:
    """Return images with the colours changed.

    Args:
        images: a batch.
        draws: float32 [B, NUM_DRAWS], uniform in [0, 1).
    """
    is_done, amount = draws[:, :4] < 0.5, draws[:, 5:]
    contrast_first = draws[:, 4] < 0.5
    brightness = torch.where(is_done[:, 0], _BRIGHTNESS * (2 * amount[:, 0] - 1), 0.0)
    contrast, saturation = (
        torch.where(is_done[:, k], 1 + _FACTOR * (2 * amount[:, k] - 1), 1.0) for k in (1, 2)
    )
    # A whole number of steps, as 8-bit colour codes have them.
    steps = (amount[:, 3] * (2 * _HUE + 1)).floor() - _HUE
    hue = torch.where(is_done[:, 3], steps / _HUE_STEPS, 0.0)

    images = (images + _spread(brightness)).clamp(0, 1)
    first = _spread(torch.where(contrast_first, contrast, 1.0))
    last = _spread(torch.where(contrast_first, 1.0, contrast))
    images = (images * first).clamp(0, 1)
    images = change_saturation_and_hue(images, saturation=saturation, hue=hue)
    return (images * last).clamp(0, 1)


def change_saturation_and_hue(
    images: torch.Tensor, *, saturation: torch.Tensor, hue: torch.Tensor
) -> torch.Tensor:
    """Return images with the saturation of HSV multiplied, at most to 1, and the hue turned.

    Args:
        images: a batch.
        saturation: factors, float32 [B].
        hue: turns in shares of the circle, float32 [B].
    """
    value = images.amax(1)
    chroma = value - images.amin(1)
    # What remains of the largest channel's lead after the saturation has changed.
    wanted = torch.minimum(chroma * saturation[:, None, None], value)
    red, green, blue = images.unbind(1)
    safe = torch.where(chroma > 0, chroma, 1.0)
    sector = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    angle = sector + 6 * hue[:, None, None]
    # Each channel of a pure colour of this hue: 1 within a sixth of its own hue, 0 beyond a third.
    shifts = torch.tensor([5.0, 3.0, 1.0], device=images.device)[None, :, None, None]
    place = (angle[:, None] + shifts) % 6
    lack = torch.minimum(place, 4 - place).clamp(0, 1)
    changed = value[:, None] - wanted[:, None] * lack
    unchanged = ((saturation == 1) & (hue == 0))[:, None, None, None]
    return torch.where(unchanged, images, changed)


def _spread(values: torch.Tensor) -> torch.Tensor:
    return values[:, None, None, None]
