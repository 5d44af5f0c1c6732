"""What SeeDiff and DiffuMask share: one class, its prompts and its samples."""

import shutil
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch

from seggen_core.colors.class_colors import read_synonyms
from seggen_core.config.attention import AttentionMethodConfig
from seggen_core.config.mask_recipe import has_same_images
from seggen_core.generators.foundation import fetch_pipeline, load_pipeline
from seggen_core.generators.pipeline_folder import read_scale_factor, read_tokenizer
from seggen_core.project.digests import content_digest, json_digest
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.stage import Stage
from seggen_core.store.cache import RecordCache
from seggen_core.store.format import EncodedSample, encode_sample
from seggen_core.store.reader import Sample
from seggen_core.synthesis.attention_previews import MaskStory
from seggen_core.synthesis.kept_attention import AttentionKeeper, KeptAttention, capture_kept
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
        sink: the store that is made; `store`, `settings` and `cache` are its.
        others: stores with the same images. Their records are made with those of `sink`, from the
            same calls of the network.
        stage: the method and the class.
        target: the class.
        seed: of the project.
        image_size: side of the images in pixels.
        keeper: the attention of its attempts, with `keep_attention`, within `keeping`.
        model_hash: digest of the foundation.
        prompts: the prompt of each attempt.
    """

    noun: ClassVar[str]
    advice: ClassVar[str]
    needs_self_attention: ClassVar[bool] = True
    """Whether kept attention has the self-attention, too."""
    keeper: AttentionKeeper | None = None

    def __init__(
        self, stage: Stage, sink: MaskSink[Settings], *, others: Sequence[MaskSink[Settings]] = ()
    ) -> None:
        """Read the prompts; the foundation is loaded when the first image is to be made.

        Args:
            stage: the method and the class.
            sink: the store to make.
            others: stores with the same images, whose records are made with it.

        Raises:
            ConfigError: no class has the stage's slug, or `ignore_background` is off and none is
                called background.
            FoundationError: there is no foundation, or its tokenizer can't be read.
            PromptError: a prompt can't be used, or there is none of the class.
        """
        self.stage, self.name, self.sink, self.others = stage, stage.name, sink, others
        self.store, self.cache = sink.store, sink.cache
        self.settings: Settings = sink.settings
        self.target: SegmentationClass = stage.taxonomy.by_slug(stage.class_slug)
        self.seed, self.image_size = stage.config.seed, stage.config.dataset.image_size
        for each in (sink, *others):
            self._background_id(each)  # refuses what has none, before anything is sampled
        foundation = fetch_pipeline(stage.paths.model("foundation"))
        stage.run.log_input(name="foundation", path=foundation)
        self.model_hash = content_digest(foundation)
        synonyms = read_synonyms(stage.paths.taxonomy) | self.settings.synonyms
        self.prompts = PromptSource(
            self.settings.model_copy(update={"synonyms": synonyms}),
            target=self.target,
            taxonomy=stage.taxonomy,
            tokenizer=read_tokenizer(foundation),
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

    @cached_property
    def pipeline(self) -> Any:
        """The foundation, a diffusers text-to-image pipeline with a UNet, on the stage's device.

        Raises:
            FoundationError: it can't be loaded.
        """
        return load_pipeline(self.stage.paths.model("foundation")).to(self.stage.device)

    @cached_property
    def vae_scale(self) -> int:
        """Image pixels per latent along a side."""
        return read_scale_factor(self.stage.paths.model("foundation"))

    @contextmanager
    def keeping(self) -> Iterator[None]:
        """Keep attention within the context, if the settings say so; else delete what was kept.

        A mask recipe with the images of its method shares the method's attention.

        Raises:
            StorageError: it can't be kept.
        """
        if not self.settings.keep_attention:
            yield
            shutil.rmtree(self._kept_folder(self.store), ignore_errors=True)
            return
        with AttentionKeeper(
            self._kept_folder(self._image_store),
            make=self._make_kept,
            digest=self._kept_digest,
            micro_batch_size=self.settings.sampling.micro_batch_size,
        ) as self.keeper:
            yield
            if self._image_store == self.store:
                self.keeper.prune(self.max_attempts)
        self.keeper = None

    @property
    def _image_store(self) -> str:
        """Name of the method or recipe whose images these are."""
        method = self.stage.config.attention_settings(self.name)
        return self.name if has_same_images(method, self.settings) else self.store

    def _kept_folder(self, store: str) -> Path:
        return self.stage.paths.kept_attention(store, self.target.slug)

    def _kept_digest(self, attempt: int) -> str:
        sampling = self.settings.sampling.model_dump(mode="json")
        return self.attempt_digest(attempt, {"kept": sampling})

    @torch.no_grad()
    def _make_kept(self, attempts: range) -> list[KeptAttention]:
        return capture_kept(
            self.pipeline,
            prompts=[self.prompts[k] for k in attempts],
            generators=[self.noise(k) for k in attempts],
            sampling=self.settings.sampling,
            image_size=self.image_size,
            self_resolutions=None if self.needs_self_attention else [],
        )

    @property
    @abstractmethod
    def max_attempts(self) -> int:
        """How many attempts there are at most."""

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
