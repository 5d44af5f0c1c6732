"""What SeeDiff and DiffuMask share: one class, its prompts and its samples."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from seggen_core.config.attention import AttentionMethodConfig
from seggen_core.generators.foundation import load_pipeline
from seggen_core.project.digests import content_digest, json_digest
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.stage import Stage
from seggen_core.store.cache import RecordCache
from seggen_core.store.format import EncodedSample, encode_sample
from seggen_core.store.reader import Sample
from seggen_core.synthesis.attention_previews import MaskStory
from seggen_core.synthesis.outcomes import Attempt
from seggen_core.synthesis.partition import code_identity
from seggen_core.synthesis.prompts import PromptSource
from seggen_core.taxonomy import IGNORE_INDEX, SegmentationClass

Settings = TypeVar("Settings", bound=AttentionMethodConfig)


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


@dataclass(frozen=True, eq=False)
class MaskSink(Generic[Settings]):
    """A store that gets masks of the images of one class.

    Attributes:
        store: name of the method or mask recipe, whose folder it fills.
        settings: the method's section as it holds for the store and the class.
        cache: of its records.
    """

    store: str
    settings: Settings
    cache: RecordCache


class AttentionMethod(ABC, Generic[Settings]):
    """One class of one of the methods, with its pipeline on the device.

    Attributes:
        noun: what it calls its attempts in messages.
        advice: what to change where no attempt is accepted.
        name: "seediff" or "diffumask"; names streams.
        own: the store that is made; `store`, `settings` and `cache` are its.
        others: stores with the same images. Their records are made with those of `own`, from the
            same calls of the network.
        stage: the method and the class.
        target: the class.
        seed: of the project.
        image_size: side of the images in pixels.
        pipeline: the foundation, a diffusers text-to-image pipeline with a UNet.
        model_hash: digest of the foundation.
        prompts: the prompt of each attempt.
    """

    noun: ClassVar[str]
    advice: ClassVar[str]

    def __init__(
        self, stage: Stage, own: MaskSink[Settings], *, others: Sequence[MaskSink[Settings]] = ()
    ) -> None:
        """Load the foundation and read the prompts.

        Args:
            stage: the method and the class.
            own: the store to make.
            others: stores with the same images, whose records are made with it.

        Raises:
            ConfigError: no class has the stage's slug, or `ignore_background` is off and none is
                called background.
            FoundationError: the foundation can't be loaded.
            PromptError: a prompt file is unreadable, or has no prompt of the class.
        """
        self.stage, self.name, self.own, self.others = stage, stage.name, own, others
        self.store, self.cache = own.store, own.cache
        self.settings: Settings = own.settings
        self.target: SegmentationClass = stage.taxonomy.by_slug(stage.class_slug)
        self.seed, self.image_size = stage.config.seed, stage.config.dataset.image_size
        for sink in (own, *others):
            self._background_id(sink)  # refuses what has none, before anything is sampled
        foundation = stage.paths.model("foundation")
        self.pipeline: Any = load_pipeline(foundation).to(stage.device)
        stage.run.log_input(name="foundation", path=foundation)
        self.model_hash = content_digest(foundation)
        self.prompts = PromptSource(
            self.settings,
            target=self.target,
            taxonomy=stage.taxonomy,
            tokenizer=self.pipeline.tokenizer,
            name=(self.seed, self.name),
            base=stage.paths.root,
        )
        common = [
            self.name,
            self.target.slug,
            self.seed,
            self.image_size,
            stage.taxonomy.to_json(),
            self.model_hash,
            stage.device.type,
            code_identity(stage),
        ]
        self._common = json_digest(common, length=32)

    @abstractmethod
    def attempts(self) -> list[Attempt]:
        """Return all attempts; those that the cache doesn't hold are made."""

    @abstractmethod
    def sample(self, attempt: int) -> EncodedSample:
        """Return the sample of an accepted attempt."""

    @abstractmethod
    def story(self, attempt: int) -> MaskStory:
        """Return what the mask of an accepted attempt came from."""

    def digest(self, attempt: int) -> str | None:  # noqa: ARG002 (for subclasses)
        """Return the digest of the attempt's record; None where a later run can't use it."""
        return None

    def story_digest(self, attempt: int) -> str | None:  # noqa: ARG002 (for subclasses)
        """Return the digest of the story's record; None where a later run can't use it."""
        return None

    def _background_id(self, sink: MaskSink[Settings]) -> int:
        if sink.settings.ignore_background:
            return IGNORE_INDEX
        return self.stage.taxonomy.by_slug("background").train_id

    def noise(self, attempt: int) -> torch.Generator:
        """Return a fresh generator for the noise of an attempt."""
        return torch_generator(self.seed, self.name, self.target.slug, attempt)

    def attempt_digest(self, attempt: int, settings: dict[str, Any]) -> str:
        """Return a digest of all that an attempt depends on; `settings` are those of the method."""
        prompt = self.prompts[attempt]
        classes = [c.train_id for c in prompt.classes]
        parts = [self._common, settings, attempt, prompt.text, classes, prompt.tokens]
        return json_digest(parts, length=32)

    def encode(
        self,
        attempt: int,
        sink: MaskSink[Settings],
        *,
        image: np.ndarray,
        labels: np.ndarray,
        quality: dict[str, float],
    ) -> EncodedSample:
        """Return the sample of an attempt.

        Args:
            attempt: its number.
            sink: the store that gets it.
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
            background_id=self._background_id(sink),
        )
        key = f"{sink.store}-{self.target.slug}-{attempt:06d}"
        sample = Sample(key, image, segmentation_map, None, metadata)
        num_classes = len(self.stage.taxonomy)
        return encode_sample(sample, num_classes=num_classes, **sink.settings.encoding)
