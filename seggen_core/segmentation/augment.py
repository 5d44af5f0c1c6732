"""Random flip, scale, crop and colour jitter of images and their masks together.

They are the same for every arm. All choices of a step are drawn at once from one generator, so they
don't depend on what the pictures show.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from seggen_core.segmentation.segment_labels import VOID
from seggen_core.taxonomy import IGNORE_INDEX

NUM_DRAWS = 7
"""Random numbers of a sample."""


@dataclass(frozen=True)
class AugmentConfig:
    """What `augment_batch` draws from.

    Attributes:
        random_flip: mirror half of the samples.
        random_scale: (low, high) of the zoom, drawn uniformly. Above 1 a random window is cropped;
            below 1 the picture is put at a random place, and the rim around it is mid grey and
            ignored.
        color_jitter: brightness, contrast and saturation are each multiplied by a factor from [1 -
            jitter, 1 + jitter].
        crop_size: side of the square window that is left of the zoomed picture; None is the
            picture's own side.
    """

    random_flip: bool = True
    random_scale: tuple[float, float] = (1.0, 1.0)
    color_jitter: float = 0.0
    crop_size: int | None = None


def augment_batch(
    images: torch.Tensor,
    *,
    segmentation_maps: torch.Tensor,
    config: AugmentConfig,
    draws: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment a batch; its size stays, unless the config crops it.

    Args:
        images: uint8 [B, 3, H, W].
        segmentation_maps: uint8 or int32 [B, H, W], labels (`segmentation.segment_labels`).
        config: what to do.
        draws: float32 [B, NUM_DRAWS], uniform in [0, 1), on the images' device. What a number is
            for doesn't depend on the config.

    Returns:
        images: float32 [B, 3, H, W] in [0, 1]; segmentation_maps: int64 [B, H, W]; H and W are
        `crop_size` where it is given.
    """
    mirrored = torch.where((draws[:, 0] < 0.5) & config.random_flip, -1.0, 1.0)
    low, high = config.random_scale
    scale = low + (high - low) * draws[:, 1]
    assert images.shape[-2] == images.shape[-1] or config.crop_size is None, "squares are zoomed"
    side = images.shape[-1]
    crop = side if config.crop_size is None else config.crop_size
    scale = scale * (
        side / crop
    )  # a smaller window shows less: the same as zooming in, at fewer pixels
    offset = 2 * draws[:, 2:4] - 1
    pictures = jitter_colors(
        images.float() / 255, factors=1 + config.color_jitter * (2 * draws[:, 4:7] - 1)
    )

    # An output pixel at x in [-1, 1] shows the input at x / scale + shift; the shift keeps the
    # smaller frame in the larger one.
    reach = (1 - 1 / scale).abs()
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0], theta[:, 1, 1] = mirrored / scale, 1 / scale
    theta[:, :, 2] = offset * reach[:, None]
    grid = F.affine_grid(theta, [*images.shape[:2], crop, crop], align_corners=False)
    # grid_sample fills with 0: colours are moved down by a half, so that the rim is grey; ids are
    # moved up by one, and what comes back as 0 lies outside the picture. Segment ids are below
    # 2 ** 24, so float32 holds them exactly.
    pictures = F.grid_sample(pictures - 0.5, grid, mode="bilinear", align_corners=False) + 0.5
    ids = (
        F.grid_sample(
            segmentation_maps[:, None].float() + 1, grid, mode="nearest", align_corners=False
        )[:, 0].long()
        - 1
    )
    ignored = IGNORE_INDEX if segmentation_maps.dtype == torch.uint8 else VOID
    return pictures, torch.where(ids < 0, ignored, ids)


def jitter_colors(images: torch.Tensor, *, factors: torch.Tensor) -> torch.Tensor:
    """Change brightness, contrast (about the image's mean grey) and saturation, in this order.

    Args:
        images: float32 [B, 3, H, W] in [0, 1].
        factors: float32 [B, 3], of the three.
    """
    brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)
    images = images * brightness
    grey = images.mean(dim=(1, 2, 3), keepdim=True)
    images = grey + (images - grey) * contrast
    grey = images.mean(dim=1, keepdim=True)
    return (grey + (images - grey) * saturation).clamp(0, 1)
