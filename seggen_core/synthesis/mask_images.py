"""Masks off the shelf: images of prompts, and where the prompts' words are in them.

No dataset, no training: a text-to-image pipeline's own attention makes the masks, by SeeDiff,
Dataset Diffusion, cross-attention alone or DiffuMask. Attention is kept in a `RecordCache`, so a
change of any setting of the masks makes no image again, and doesn't load the networks.

Shape legend: P words of a prompt; H, W of the image; s side of a map.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from seggen_core.attention.masks import ACCEPTED
from seggen_core.config import DiffuMaskConfig, SamplingConfig, SeeDiffConfig
from seggen_core.project.digests import json_digest
from seggen_core.project.rng import torch_generator
from seggen_core.store.cache import RecordCache
from seggen_core.synthesis.diffumask import Candidates, LabelledCandidates, label_candidates
from seggen_core.synthesis.from_attention import label_kept
from seggen_core.synthesis.kept_attention import KeptAttention, capture_kept
from seggen_core.synthesis.prompts import ClassPrompt
from seggen_core.taxonomy import SegmentationClass


@dataclass(frozen=True)
class MaskRequest:
    """One image to make, and the words to look for in it.

    Attributes:
        name: of its files.
        prompt: its text, with the words that it names and their tokens.
        seed: of the noise.
    """

    name: str
    prompt: ClassPrompt
    seed: int


@dataclass(frozen=True, eq=False)
class MaskedImage:
    """An image with its mask.

    Attributes:
        image: uint8 [H, W, 3].
        mask: uint8 [H, W]: ``train_id + 1`` of a word where it is, 0 outside of all, IGNORE_INDEX
            where uncertain.
        status: by the slug of each word, "accepted" or why its mask can't be used.
        quality: scores of the first word's mask.
        maps: float32 [s, s] in [0, 1] by name: what the first word's mask came from.
    """

    image: np.ndarray
    mask: np.ndarray
    status: Mapping[str, str]
    quality: Mapping[str, float]
    maps: Mapping[str, np.ndarray]


class AttentionSource:
    """Images with their attention, kept or fresh."""

    def __init__(
        self,
        load: Callable[[], Any],
        *,
        model: str,
        sampling: SamplingConfig,
        image_size: int,
        cache: RecordCache | None,
    ) -> None:
        """Load nothing yet.

        Args:
            load: returns the pipeline on its device; called when the first image is to be made.
            model: identifies the pipeline, and the kind of device that it computes on.
            sampling: the sampler. A call has one image, so an image depends on no other.
            image_size: side of the images in pixels.
            cache: where attention is kept; None keeps none.
        """
        self._load, self._cache = load, cache
        self._sampling = sampling.model_copy(update={"micro_batch_size": 1})
        self._image_size = image_size
        self._common = [model, self._sampling.model_dump(mode="json"), image_size]
        self.num_made = 0

    @cached_property
    def _pipeline(self) -> Any:
        return self._load()

    @torch.no_grad()
    def get(self, request: MaskRequest) -> KeptAttention:
        """Return the image of a request with its attention; it is made where it wasn't kept.

        Raises:
            AttentionError: the network's attention can't be captured.
            StorageError: it can't be kept.
        """
        prompt = request.prompt
        parts = [*self._common, prompt.text, prompt.tokens, request.seed]
        digest = json_digest(parts, length=32)
        record = None if self._cache is None else self._cache.find(digest)
        if record is not None:
            return KeptAttention.from_record(record)
        (attention,) = capture_kept(
            self._pipeline,
            prompts=[prompt],
            generators=[torch_generator("mask", prompt.text, request.seed)],
            sampling=self._sampling,
            image_size=self._image_size,
        )
        self.num_made += 1
        if self._cache is not None:
            self._cache.add(digest, attention.to_record())
            self._cache.commit()
        return attention


def seediff_image(
    attention: KeptAttention, prompt: ClassPrompt, *, config: SeeDiffConfig, device: torch.device
) -> MaskedImage:
    """Cut the masks of a prompt's words by SeeDiff or a strategy that its section knows.

    Raises:
        AttentionError: the network has no layer or resolution that `config` asks for.
    """
    samples = label_kept(attention, prompt.classes, config=config, device=device)
    slugs = [known.slug for known in prompt.classes]
    return MaskedImage(
        image=attention.image,
        mask=_word_ids(samples.labels[0], prompt.classes),
        status=dict(zip(slugs, samples.class_status[0], strict=True)),
        quality=samples.quality[0],
        maps={name: m[0] for name, m in samples.maps.items()},
    )


def diffumask_images(
    attentions: Sequence[KeptAttention],
    prompts: Sequence[ClassPrompt],
    *,
    config: DiffuMaskConfig,
    device: torch.device,
) -> list[MaskedImage]:
    """Cut masks by DiffuMask, which learns from all images of a word.

    Each word is a class of its own; a pixel that several claim goes to the largest soft mask.

    Raises:
        AttentionError: AffinityNet finds nothing to learn from, or the network lacks a layer.
    """
    words = sorted({c for p in prompts for c in p.classes}, key=lambda c: c.train_id)
    word_masks: list[dict[SegmentationClass, _WordMask]] = [{} for _ in prompts]
    for word in words:
        rows = [k for k, prompt in enumerate(prompts) if word in prompt.classes]
        labelled = _label_word(
            word,
            [attentions[k] for k in rows],
            [prompts[k] for k in rows],
            config=config,
            device=device,
        )
        for place, k in enumerate(rows):
            word_masks[k][word] = _WordMask.of(labelled, place)
    return [
        _combine(attentions[k].image, {word: word_masks[k][word] for word in prompt.classes})
        for k, prompt in enumerate(prompts)
    ]


@dataclass(frozen=True, eq=False)
class _WordMask:
    """DiffuMask's mask of one word in one image."""

    status: str
    quality: Mapping[str, float]
    binary: np.ndarray
    maps: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, labelled: LabelledCandidates, place: int) -> "_WordMask":
        return cls(
            status=labelled.status[place],
            quality=labelled.quality[place],
            binary=labelled.labels[place] > 0,
            maps={name: m[place] for name, m in labelled.maps.items()},
        )


def _label_word(
    word: SegmentationClass,
    attention: Sequence[KeptAttention],
    prompts: Sequence[ClassPrompt],
    *,
    config: DiffuMaskConfig,
    device: torch.device,
) -> LabelledCandidates:
    settings = config.model_copy(update={"samples_per_class": len(attention)})
    size = max(max(m.shape[-1] for m in one.cross.values()) for one in attention)
    candidates = Candidates.from_kept(
        attention,
        [prompt.classes.index(word) for prompt in prompts],
        layers=config.for_class(word.slug).cross_attention_layers,
        size=size,
    )
    return label_candidates(
        candidates, settings=settings, name=("mask", "diffumask", word.slug), device=device
    )


def _combine(image: np.ndarray, word_masks: Mapping[SegmentationClass, _WordMask]) -> MaskedImage:
    claims = np.stack([np.where(f.binary, f.maps["soft_mask"], -1.0) for f in word_masks.values()])
    labels = np.where(claims.max(0) >= 0, claims.argmax(0) + 1, 0).astype(np.uint8)
    first = next(iter(word_masks.values()))
    return MaskedImage(
        image=image,
        mask=_word_ids(labels, tuple(word_masks)),
        status={word.slug: f.status for word, f in word_masks.items()},
        quality=first.quality,
        maps=first.maps,
    )


def _word_ids(labels: np.ndarray, classes: Sequence[SegmentationClass]) -> np.ndarray:
    """Return a mask of word ids from a label map of the prompt's own numbering."""
    table = np.arange(256, dtype=np.uint8)
    table[1 : len(classes) + 1] = [known.train_id + 1 for known in classes]
    return table[labels]


def is_usable(image: MaskedImage) -> bool:
    """Return whether at least one word has a mask that can be used."""
    return ACCEPTED in image.status.values()
