"""What SeeDiff and DiffuMask share: one class, its prompts, and the samples that come of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from seggen_core.attention.capture import AttentionRecorder, capture_attention
from seggen_core.config import SamplingConfig
from seggen_core.config.attention import AttentionMethodConfig
from seggen_core.generators.sampling import sample_latents
from seggen_core.project.digests import content_digest, json_digest
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.store.cache import RecordCache
from seggen_core.store.format import EncodedSample, encode_sample
from seggen_core.store.reader import Sample
from seggen_core.synthesis.partition import PartitionContext, code_identity
from seggen_core.synthesis.prompts import ClassPrompt, PromptSource
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass
from seggen_core.training.precision import autocast, resolve_precision


@dataclass(frozen=True)
class CapturedImages:
    """Images and the attention that made them.

    Attributes:
        images: float32 [B, 3, H, W] in [0, 1], NaN where decoding failed.
        is_flagged: for each, whether the pipeline's safety checker, if it has one, flags it.
        recorder: the attention.
    """

    images: torch.Tensor
    is_flagged: list[bool]
    recorder: AttentionRecorder

    @property
    def is_finite(self) -> list[bool]:
        """Whether decoding worked, for each image."""
        return self.images.isfinite().flatten(1).all(1).tolist()

    @property
    def pixels(self) -> torch.Tensor:
        """The 8-bit values that are kept, float32 [B, 3, H, W] in 0..255; 0 where not finite."""
        return self.images.nan_to_num().mul(255).round()


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
    device = pipeline.unet.device
    with (
        capture_attention(
            pipeline.unet,
            class_tokens=[list(p.tokens) for p in prompts],
            cross_layers=request.cross_layers,
            cross_resolutions=request.cross_resolutions,
            self_resolutions=request.self_resolutions,
            per_layer=request.per_layer,
        ) as recorder,
        autocast(device, resolve_precision(sampling.precision, device)),
    ):
        latents = sample_latents(
            pipeline,
            sampling,
            prompts=[p.text for p in prompts],
            generators=list(generators),
            image_size=image_size,
        )
    decoded = pipeline.vae.decode(latents.float() / pipeline.vae.config.scaling_factor).sample
    images = decoded.mul(0.5).add(0.5).clamp(0, 1)
    is_flagged = [False] * len(prompts)
    if getattr(pipeline, "safety_checker", None) is not None:
        _, flags = pipeline.run_safety_checker(images.nan_to_num(), device, torch.float32)
        is_flagged = is_flagged if flags is None else [bool(f) for f in flags]
    return CapturedImages(images, is_flagged, recorder)


def to_segmentation_map(
    labels: np.ndarray, *, train_ids: Sequence[int], background_id: int = IGNORE_INDEX
) -> np.ndarray:
    """Return the train ids of a label map.

    Args:
        labels: uint8 [H, W]: k where class k (from 1) of the prompt is, 0 outside, IGNORE_INDEX
            where uncertain.
        train_ids: of the classes of the prompt.
        background_id: train id of what is outside.

    Returns:
        uint8 [H, W].
    """
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[0] = background_id
    table[1 : len(train_ids) + 1] = train_ids
    return table[labels]


class AttentionJob:
    """One class of one method, with its pipeline on the device.

    Attributes:
        name: "seediff" or "diffumask"; names streams and keys.
        settings: the method's section as it holds for the class.
        target: the class.
        pipeline: the foundation, a diffusers text-to-image pipeline with a UNet.
        context: the stage.
        cache: what earlier runs have made.
        prompts: prompt number i.
        model_hash: digest of the foundation.
    """

    def __init__(
        self,
        settings: AttentionMethodConfig,
        *,
        pipeline: Any,
        context: PartitionContext,
        cache: RecordCache,
    ) -> None:
        """Read the prompts.

        Raises:
            ConfigError: no class has the context's slug, or `ignore_background` is off and none is
                called background.
            PromptError: a prompt file is unreadable, or has no prompt of the class.
        """
        self.name, self.settings, self.pipeline = context.name, settings, pipeline
        self.context, self.cache = context, cache
        self.target: SegmentationClass = context.taxonomy.by_slug(context.class_slug)
        self.model_hash = content_digest(context.paths.model("foundation"))
        self.prompts = PromptSource(
            settings,
            target=self.target,
            taxonomy=context.taxonomy,
            tokenizer=pipeline.tokenizer,
            name=(self.seed, self.name),
            base=context.paths.root,
        )
        self._background_id = background_id(settings, context)
        common = [
            self.name,
            self.target.slug,
            self.seed,
            self.image_size,
            context.taxonomy.to_json(),
            self.model_hash,
            context.device.type,
            code_identity(context),
        ]
        self._common = json_digest(common, length=32)

    @property
    def seed(self) -> int:
        """The project's seed."""
        return self.context.config.seed

    @property
    def image_size(self) -> int:
        """Side of the images in pixels."""
        return self.context.config.dataset.image_size

    def noise(self, attempt: int) -> torch.Generator:
        """Return a fresh generator for the noise of an attempt."""
        return torch_generator(self.seed, self.name, self.target.slug, attempt)

    def digest(self, attempt: int, settings: dict[str, Any]) -> str:
        """Return a digest of all that an attempt depends on; `settings` are those of the method."""
        prompt = self.prompts[attempt]
        classes = [c.train_id for c in prompt.classes]
        parts = [self._common, settings, attempt, prompt.text, classes, prompt.tokens]
        return json_digest(parts, length=32)

    def sample(
        self, attempt: int, *, image: np.ndarray, labels: np.ndarray, quality: dict[str, float]
    ) -> EncodedSample:
        """Return the sample of an attempt.

        Args:
            attempt: its number.
            image: uint8 [H, W, 3].
            labels: uint8 [H, W], see `to_segmentation_map`.
            quality: scores by name.
        """
        prompt = self.prompts[attempt]
        metadata = {
            "class_slug": self.target.slug,
            "seed": derive_seed(self.seed, self.name, self.target.slug, attempt),
            "prompt": prompt.text,
            "labelled": [c.slug for c in prompt.classes],
            "model_hash": self.model_hash,
            "attempt": attempt,
            "quality": quality,
        }
        segmentation_map = to_segmentation_map(
            labels,
            train_ids=[c.train_id for c in prompt.classes],
            background_id=self._background_id,
        )
        key = f"{self.name}-{self.target.slug}-{attempt:06d}"
        sample = Sample(key, image, segmentation_map, None, metadata)
        return encode_sample(sample, num_classes=len(self.context.taxonomy))


def background_id(settings: AttentionMethodConfig, context: PartitionContext) -> int:
    """Return the train id of pixels outside of the masks.

    Raises:
        ConfigError: `ignore_background` is off and no class is called background.
    """
    if settings.ignore_background:
        return IGNORE_INDEX
    return context.taxonomy.by_slug("background").train_id
