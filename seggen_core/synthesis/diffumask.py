"""DiffuMask's candidates for samples of one class, and which of them are kept (ICCV 2023).

Candidates are generated first, more than are needed by the share that noise learning drops.
AffinityNet then learns from all of them, each gets its own threshold, and the pairs that the others
don't explain are dropped.

Shape legend: N candidates; H, W of an image; s side of a map.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from seggen_core.attention.affinity_net import AffinityNet, train_affinity_net
from seggen_core.attention.diffumask import DiffuMasks, diffumask_masks
from seggen_core.attention.masks import (
    ACCEPTED,
    attention_status,
    rescale,
    silence,
    upsample,
)
from seggen_core.attention.pamr import MaskRefiner
from seggen_core.config import DiffuMaskConfig
from seggen_core.generators.sampling import make_scheduler
from seggen_core.store.format import EncodedSample
from seggen_core.store.records import Record, pack_array, unpack_array
from seggen_core.synthesis.attention_method import AttentionMethod, MaskSink
from seggen_core.synthesis.attention_previews import MaskStory
from seggen_core.synthesis.captured_images import CaptureRequest, run_with_captures
from seggen_core.synthesis.kept_attention import KeptAttention
from seggen_core.synthesis.mask_quality import mask_status, soft_mask_quality
from seggen_core.synthesis.noise_learning import cross_validated_confidence, least_confident
from seggen_core.synthesis.outcomes import Attempt

NOT_NEEDED = "not_needed"
LOW_CONFIDENCE = "low_confidence"


@dataclass(frozen=True, eq=False)
class Candidates:
    """Images with the attention that their masks are cut from.

    Attributes:
        images: uint8 [N, H, W, 3].
        scores: float32 [N, s, s], aggregated cross-attention at latent size.
        status: per image "accepted", or why it can't be used.
    """

    images: np.ndarray
    scores: np.ndarray
    status: list[str]

    @classmethod
    def from_kept(
        cls,
        attentions: Sequence[KeptAttention],
        indices: Sequence[int],
        *,
        layers: Sequence[str] | None,
        size: int,
    ) -> "Candidates":
        """Take images with kept attention.

        Args:
            attentions: N images.
            indices: of the class among those of each image's prompt.
            layers: names of the cross-attention layers that count; None takes all.
            size: side of the scores.

        Raises:
            AttentionError: the network has no such layer.
        """
        scores = [
            one.mean_cross_map(index, layers=layers, size=size)
            for one, index in zip(attentions, indices, strict=True)
        ]
        return cls(
            images=np.stack([one.image for one in attentions]),
            scores=torch.stack(scores).numpy(),
            status=[one.status for one in attentions],
        )


@dataclass(frozen=True, eq=False)
class LabelledCandidates:
    """Masks of candidates, and which of them are kept.

    Attributes:
        status: per candidate "accepted" or the reason for its rejection.
        quality: per candidate the scores of `mask_quality`, the threshold chosen, its match with V,
            and the confidence of noise learning.
        labels: uint8 [N, H, W], 1 where the class is.
        maps: float32 [N, s, s] by name, for the previews.
    """

    status: list[str]
    quality: list[dict[str, float]]
    labels: np.ndarray
    maps: dict[str, np.ndarray]


def num_candidates(settings: DiffuMaskConfig) -> int:
    """Return how many images are made.

    They fill the network calls, and leave `samples_per_class` after noise learning.
    """
    dropped = (
        0.0 if settings.noise_learning is None else min(settings.noise_learning.drop_share, 0.9)
    )
    micro = settings.sampling.micro_batch_size
    return math.ceil(settings.samples_per_class / (1 - dropped) / micro) * micro


class DiffuMask(AttentionMethod[DiffuMaskConfig]):
    """One class of DiffuMask.

    A sample depends on all candidates of its class, so a later run can't take single samples over.
    """

    needs_self_attention = False
    noun = "candidates of"
    advice = "diffumask.thresholds, affinity_net or the lowest scores"

    @property
    def max_attempts(self) -> int:
        """All candidates."""
        return num_candidates(self.settings)

    def attempts(self) -> list[Attempt]:
        """Make the candidates that the cache doesn't hold, and label all of them."""
        labelled = self._labelled
        return [
            Attempt(k, self.prompts[k].text, status, labelled.quality[k])
            for k, status in enumerate(labelled.status)
        ]

    def sample(self, attempt: int) -> EncodedSample:
        """Return the sample of an accepted candidate."""
        return self.encode(
            attempt,
            self.sink,
            image=self._candidates.images[attempt],
            labels=self._labelled.labels[attempt],
            quality=self._labelled.quality[attempt],
        )

    def story(self, attempt: int) -> MaskStory:
        """Return what the mask of an accepted candidate came from."""
        maps = {name: m[attempt] for name, m in self._labelled.maps.items()}
        return MaskStory.from_soft_maps(maps, self._labelled.labels[attempt])

    @cached_property
    def _labelled(self) -> LabelledCandidates:
        return label_candidates(
            self._candidates,
            settings=self.settings,
            name=(self.seed, "diffumask", self.target.slug),
            device=self.stage.device,
        )

    @cached_property
    def _candidates(self) -> Candidates:
        """All candidates; each call of the network is committed."""
        count, micro = num_candidates(self.settings), self.settings.sampling.micro_batch_size
        title = f"{self.store} {self.target.slug}"
        if self.keeper is not None:
            attempts = tqdm(range(count), desc=title, unit="image", disable=None)
            return Candidates.from_kept(
                [self.keeper.get(k) for k in attempts],
                [0] * count,
                layers=self.settings.cross_attention_layers,
                size=self.image_size // self.vae_scale,
            )
        self.pipeline.scheduler = make_scheduler(self.pipeline, self.settings.sampling)
        records: list[Record] = []
        starts = range(0, count, micro)
        for start in tqdm(starts, desc=title, unit="call", disable=None):
            call = range(start, start + micro)
            call_records = self._cached_records(self.sink, call)
            if len(call_records) < micro:
                self._make_call(call)
                call_records = [
                    self.cache.read_back(digest) for digest in self._digests(self.sink, call)
                ]
            records += call_records
        return Candidates(
            images=np.stack([unpack_array(record.members["image"]) for record in records]),
            scores=np.stack([unpack_array(record.members["scores"]) for record in records]),
            status=[record.info["status"] for record in records],
        )

    def _digests(self, sink: MaskSink[DiffuMaskConfig], attempts: range) -> list[str]:
        relevant = sink.settings.model_dump(
            mode="json", include={"sampling", "cross_attention_layers"}
        )
        return [self.attempt_digest(k, relevant) for k in attempts]

    def _cached_records(self, sink: MaskSink[DiffuMaskConfig], attempts: range) -> list[Record]:
        records = map(sink.cache.find, self._digests(sink, attempts))
        return [record for record in records if record is not None]

    @torch.no_grad()
    def _make_call(self, attempts: range) -> None:
        """Make one call of the network, and commit it to every store that lacks some of it.

        That of `sink` comes last, so that a run that was killed in between makes the call again.
        """
        lacking = [s for s in self.others if len(self._cached_records(s, attempts)) < len(attempts)]
        sinks = [*lacking, self.sink]
        captures = run_with_captures(
            self.pipeline,
            prompts=[self.prompts[k] for k in attempts],
            generators=[self.noise(k) for k in attempts],
            sampling=self.settings.sampling,
            image_size=self.image_size,
            requests=[
                CaptureRequest(cross_layers=s.settings.cross_attention_layers, self_resolutions=[])
                for s in sinks
            ],
        )
        size = self.image_size // self.vae_scale
        for sink, captured in zip(sinks, captures, strict=True):
            images = captured.arrays
            scores = captured.recorder.mean_cross_map(size)[:, 0].cpu().numpy()
            digests = self._digests(sink, attempts)
            for k, (digest, status) in enumerate(zip(digests, captured.status, strict=True)):
                members = {"image": pack_array(images[k]), "scores": pack_array(scores[k])}
                sink.cache.add(digest, Record({"status": status}, members))
            sink.cache.commit()


def label_candidates(
    candidates: Candidates,
    *,
    settings: DiffuMaskConfig,
    name: Sequence[str | int],
    device: torch.device,
) -> LabelledCandidates:
    """Make a mask of every candidate and say which are kept.

    Args:
        candidates: of one class.
        settings: the method.
        name: of the random streams.
        device: where to compute.

    Raises:
        AttentionError: AffinityNet finds nothing to learn from.
    """
    scores = torch.from_numpy(candidates.scores).to(device)
    usable = scores.sum((1, 2)).isfinite()
    scores = rescale(silence(scores, usable))
    images = torch.from_numpy(candidates.images).to(device).permute(0, 3, 1, 2)

    # 1. What AffinityNet learns, and each image's best threshold.
    good = usable & torch.tensor([s == ACCEPTED for s in candidates.status], device=device)
    network = None
    if settings.affinity_net is not None and good.any():
        network = train_affinity_net(
            images[good], scores[good], config=settings.affinity_net, name=name
        )
    masks = _cut_masks(images, scores, network=network, settings=settings)
    quality = _qualities(masks)

    # 2. Which masks can be used, which of them the others explain, and no more than are needed.
    status = _status(candidates, scores, usable=usable, quality=quality, settings=settings)
    accepted = _accepted(status)
    learning = settings.noise_learning
    if learning is not None and len(accepted) >= learning.num_folds:
        streams = (*name, "noise learning")
        confidence = cross_validated_confidence(
            images[accepted], masks.binary[accepted], config=learning, name=streams
        ).tolist()
        for k, value in zip(accepted, confidence, strict=True):
            quality[k]["confidence"] = round(value, 6)
        for place in least_confident(confidence, drop_share=learning.drop_share):
            status[accepted[place]] = LOW_CONFIDENCE
    for k in _accepted(status)[settings.samples_per_class :]:
        status[k] = NOT_NEEDED
    maps = {
        "cross_attention": scores,
        "affinity_map": masks.reference.float(),
        "soft_mask": masks.soft,
    }
    return LabelledCandidates(
        status,
        quality,
        masks.binary.to("cpu", torch.uint8).numpy(),
        {title: m.cpu().numpy() for title, m in maps.items()},
    )


def _status(
    candidates: Candidates,
    scores: torch.Tensor,
    *,
    usable: torch.Tensor,
    quality: Sequence[dict[str, float]],
    settings: DiffuMaskConfig,
) -> list[str]:
    """Return why a candidate can't be used, or "accepted"."""
    masks = attention_status(usable, scores.flatten(1).any(1))
    return [
        image if image != ACCEPTED else mask_status(mask, scored, config=settings)
        for image, mask, scored in zip(candidates.status, masks, quality, strict=True)
    ]


def _accepted(status: Sequence[str]) -> list[int]:
    return [k for k, reason in enumerate(status) if reason == ACCEPTED]


def _cut_masks(
    images: torch.Tensor,
    scores: torch.Tensor,
    *,
    network: AffinityNet | None,
    settings: DiffuMaskConfig,
) -> DiffuMasks:
    """Return the masks of all candidates, `batch_size` of them at a time."""
    batches = torch.arange(len(images)).split(settings.batch_size)
    parts = [
        diffumask_masks(
            upsample(scores[batch], images.shape[-1]),
            refiner=MaskRefiner(
                images[batch].float() / 255, settings.pamr_iterations, settings.pamr_dilations
            ),
            thresholds=settings.thresholds,
            background_score=settings.background_score,
            affinity_net=network,
            refine=settings.pamr,
        )
        for batch in tqdm(batches, desc="cut masks", unit="batch", disable=None)
    ]
    return DiffuMasks(
        binary=torch.cat([part.binary for part in parts]),
        soft=torch.cat([part.soft for part in parts]),
        reference=torch.cat([part.reference for part in parts]),
        threshold=torch.cat([part.threshold for part in parts]),
        match=torch.cat([part.match for part in parts]),
    )


def _qualities(masks: DiffuMasks) -> list[dict[str, float]]:
    quality: list[dict[str, Any]] = soft_mask_quality(
        masks.soft,
        mask=masks.binary,
        threshold=masks.threshold,
        seed_counts=(masks.binary & masks.reference).sum((1, 2)),
    )
    for k, scores in enumerate(quality):
        scores["threshold"] = round(float(masks.threshold[k]), 6)
        scores["match"] = round(float(masks.match[k]), 6)
    return quality
