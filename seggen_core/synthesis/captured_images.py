"""Images from a text-to-image pipeline, with the attention that made them."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seggen_core.attention.capture import AttentionRecorder, capture_attention
from seggen_core.attention.masks import ACCEPTED
from seggen_core.config import SamplingConfig
from seggen_core.generators.sampling import sample_latents
from seggen_core.synthesis.mask_quality import FLAGGED_IMAGE, NOT_FINITE_IMAGE
from seggen_core.synthesis.prompts import ClassPrompt
from seggen_core.training.precision import autocast, resolve_precision


@dataclass(frozen=True)
class CapturedImages:
    """Images and the attention that made them.

    Attributes:
        pixels: the 8-bit values that are kept, float32 [B, 3, H, W] in 0..255; 0 where decoding
            failed.
        status: per image "accepted", or why it can't be used: decoding failed, or the pipeline's
            safety checker, if it has one, flags it.
        recorder: the attention.
    """

    pixels: torch.Tensor
    status: list[str]
    recorder: AttentionRecorder

    @property
    def arrays(self) -> np.ndarray:
        """`pixels` as files have them: uint8 [B, H, W, 3]."""
        return self.pixels.permute(0, 2, 3, 1).to("cpu", torch.uint8).numpy()


@dataclass(frozen=True)
class CaptureRequest:
    """Which attention to record; arguments of `capture_attention`."""

    cross_layers: Sequence[str] | None = None
    cross_resolutions: Sequence[int] | None = None
    self_resolutions: Sequence[int] | None = None
    per_layer: bool = False


def run_with_capture(
    pipeline: Any,
    *,
    prompts: Sequence[ClassPrompt],
    generators: Sequence[torch.Generator],
    sampling: SamplingConfig,
    image_size: int,
    request: CaptureRequest,
) -> CapturedImages:
    """Make one image per prompt, all in one call of the networks, and record attention.

    The autoencoder decodes in float32 outside of autocast, as `generators.sampling` does.

    Args:
        pipeline: a diffusers text-to-image pipeline with a UNet; with the scheduler to sample by.
        prompts: B prompts.
        generators: of the noise of each.
        sampling: steps, guidance and precision.
        image_size: side of the images in pixels.
        request: what to record; attention maps are float32 always.
    """
    (captured,) = run_with_captures(
        pipeline,
        prompts=prompts,
        generators=generators,
        sampling=sampling,
        image_size=image_size,
        requests=[request],
    )
    return captured


def run_with_captures(
    pipeline: Any,
    *,
    prompts: Sequence[ClassPrompt],
    generators: Sequence[torch.Generator],
    sampling: SamplingConfig,
    image_size: int,
    requests: Sequence[CaptureRequest],
) -> list[CapturedImages]:
    """Do as `run_with_capture` for several requests at once: the images are made once.

    Returns:
        The images with the attention of each request. A recorder may hold more resolutions than its
        request names; each map has the same bits as if it alone had been recorded.
    """
    device = pipeline.unet.device
    merged = _merge(requests)
    with ExitStack() as stack:
        recorders = {
            layers: stack.enter_context(
                capture_attention(
                    pipeline.unet,
                    class_tokens=[list(p.tokens) for p in prompts],
                    cross_layers=layers,
                    cross_resolutions=request.cross_resolutions,
                    self_resolutions=request.self_resolutions,
                    per_layer=request.per_layer,
                )
            )
            for layers, request in merged.items()
        }
        stack.enter_context(autocast(device, resolve_precision(sampling.precision, device)))
        latents = sample_latents(
            pipeline,
            sampling,
            prompts=[p.text for p in prompts],
            generators=list(generators),
            image_size=image_size,
        )
    decoded = pipeline.vae.decode(latents.float() / pipeline.vae.config.scaling_factor).sample
    images = decoded.mul(0.5).add(0.5).clamp(0, 1)
    is_finite = images.isfinite().flatten(1).all(1).tolist()
    status = [ACCEPTED if finite else NOT_FINITE_IMAGE for finite in is_finite]
    images = images.nan_to_num()
    if getattr(pipeline, "safety_checker", None) is not None:
        _, flags = pipeline.run_safety_checker(images, device, torch.float32)
        for k, is_flagged in enumerate(flags or ()):
            status[k] = FLAGGED_IMAGE if is_flagged else status[k]
    pixels = images.mul(255).round()
    return [CapturedImages(pixels, status, recorders[_layers(request)]) for request in requests]


def _layers(request: CaptureRequest) -> tuple[str, ...] | None:
    return None if request.cross_layers is None else tuple(request.cross_layers)


def _merge(requests: Sequence[CaptureRequest]) -> dict[tuple[str, ...] | None, CaptureRequest]:
    """Return one request for each choice of layers: a recorder averages over one such choice."""
    merged: dict[tuple[str, ...] | None, CaptureRequest] = {}
    for request in requests:
        layers = _layers(request)
        other = merged.get(layers, request)
        merged[layers] = CaptureRequest(
            layers,
            _union(other.cross_resolutions, request.cross_resolutions),
            _union(other.self_resolutions, request.self_resolutions),
            other.per_layer or request.per_layer,
        )
    return merged


def _union(first: Sequence[int] | None, second: Sequence[int] | None) -> list[int] | None:
    return None if first is None or second is None else sorted({*first, *second})
