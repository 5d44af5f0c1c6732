"""Which sample fills which slot of which training step: real ones, and the synthetic ones that replace them (SegGen 3.4).

Real samples come epoch by epoch, each epoch a permutation named by (seed, epoch); the draw for slot
b of step t is named by (seed, t, b). No name holds the arm, so all arms with the same real samples
see them in the same order and replace them in the same slots (under the same p_aug); they differ in
what they are replaced by.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from seggen_core.config import SegmenterConfig, VariantConfig
from seggen_core.errors import ConfigError
from seggen_core.project.rng import numpy_rng
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX

CACHE_BYTES = 2 * 1024**3
"""Decoded samples that a `PairPool` keeps in memory."""


@dataclass(frozen=True)
class SyntheticSample:
    """One synthetic sample, as the index of its store lists it.

    Attributes:
        method: what made it.
        key: in its store.
        source_key: the real sample it was made from; None where it was made from a class prompt
            alone.
    """

    method: str
    key: str
    source_key: str | None


@dataclass(frozen=True)
class Slot:
    """One place in a batch: the real sample it belongs to and the position of the synthetic one that replaces it, if any."""

    real_key: str
    synthetic: int | None


def select_sources(
    samples: Sequence[SyntheticSample], *, real_keys: Sequence[str]
) -> list[SyntheticSample]:
    """Keep the samples that were made from one of `real_keys`, or from no real sample.

    A segmenter that is given N real samples mustn't see synthetic ones made from others (SegGen
    Table 4, low-data rows).
    """
    allowed = {*real_keys, None}
    return [sample for sample in samples if sample.source_key in allowed]


def phase_lengths(config: SegmenterConfig) -> tuple[int, ...]:
    """Return the steps of each training phase: one under "replace"; pre-training and fine-tuning under "pretrain".

    Each phase has its own warm-up and decay, for every arm: without synthetic samples it is
    pre-trained on real ones, as SegGen's baselines are (4.2).
    """
    if config.strategy == "replace":
        return (config.num_steps,)
    first = round(config.num_steps * config.pretrain_share)
    return tuple(n for n in (first, config.num_steps - first) if n)


class BatchPlan:
    """The slots of every step, a pure function of the arguments."""

    def __init__(
        self,
        config: SegmenterConfig,
        *,
        real_keys: Sequence[str],
        synthetic: Sequence[SyntheticSample],
        synthetic_only: bool,
        seed: int,
        subset_seed: int,
    ) -> None:
        """Index the synthetic samples by method and source.

        Args:
            config: `strategy`, `p_aug`, `num_steps`, `pretrain_share` and `batch_size` are used.
            real_keys: the arm's real samples; under `synthetic_only` those that its synthetic ones
                were made from.
            synthetic: positions in it are what `Slot.synthetic` holds.
            synthetic_only: every slot is replaced.
            seed, subset_seed: name of the random streams.

        Raises:
            ConfigError: there is no real sample.
        """
        if not real_keys:
            raise ConfigError(
                "the arm has no real sample to take its batches from (run: dvc repro dataset)"
            )
        assert synthetic or not synthetic_only
        self._config = config
        self._real_keys = sorted(real_keys)
        self._name = (seed, "train_seg", subset_seed)
        self._synthetic_only = synthetic_only
        self._by_method: dict[str, list[int]] = {}
        self._by_source: dict[tuple[str, str | None], list[int]] = {}
        for position, sample in enumerate(synthetic):
            self._by_method.setdefault(sample.method, []).append(position)
            self._by_source.setdefault((sample.method, sample.source_key), []).append(position)
        self._methods = sorted(self._by_method)
        # Upper ends of the methods' shares of [0, 1).
        self._method_ends = np.cumsum([len(self._by_method[m]) for m in self._methods]) / max(
            len(synthetic), 1
        )
        self.num_synthetic = len(synthetic)
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def slots(self, step: int) -> list[Slot]:
        """Return the slots of `step`, `batch_size` of them.

        A slot is replaced with the step's probability. Which method: with a probability
        proportional to its number of samples. Which of them: uniformly, among those made from the
        slot's real sample; among all of the method where it has none from that one (attention
        methods start from prompts, and a class partition may not have been made).
        """
        share = self._replaced_share(step)
        return [self._slot(step, b, share) for b in range(self._config.batch_size)]

    def _slot(self, step: int, b: int, share: float) -> Slot:
        epoch, place = divmod(step * self._config.batch_size + b, len(self._real_keys))
        real_key = self._real_keys[self._epoch(epoch)[place]]
        rng = numpy_rng(*self._name, "slot", step, b)
        coin, method, sample = rng.random(3)
        if not self._methods or coin >= share:
            return Slot(real_key, None)
        chosen = self._methods[int(np.searchsorted(self._method_ends, method, side="right"))]
        candidates = self._by_source.get((chosen, real_key)) or self._by_method[chosen]
        return Slot(real_key, candidates[int(sample * len(candidates))])

    def _replaced_share(self, step: int) -> float:
        if self._synthetic_only:
            return 1.0
        if self._config.strategy == "replace":
            return self._config.p_aug
        return 1.0 if step < round(self._config.num_steps * self._config.pretrain_share) else 0.0

    def _permutation(self, epoch: int) -> list[int]:
        return numpy_rng(*self._name, "epoch", epoch).permutation(len(self._real_keys)).tolist()


def count_unmatched(
    samples: Sequence[SyntheticSample], *, real_keys: Sequence[str]
) -> dict[str, int]:
    """Return, per method that starts from real samples, how many of `real_keys` it has no sample for."""
    sources: dict[str, set[str]] = {}
    for sample in samples:
        if sample.source_key is not None:
            sources.setdefault(sample.method, set()).add(sample.source_key)
    return {method: len(set(real_keys) - found) for method, found in sorted(sources.items())}


def shuffled_masks(samples: Sequence[SyntheticSample], *, seed: int, subset_seed: int) -> list[int]:
    """Return the control's pairing: image i gets the mask of sample ``result[i]``, made from another real sample.

    A derangement over sources, not only over samples: all ImgSyn images of one source share its
    mask, so that another sample of the same source would bring the right mask back. Samples without
    a source count as one source each. A random permutation is mended by swaps; one that helps
    exists as long as no source makes up more than half of the samples.

    Raises:
        ConfigError: a source makes up more than half of the samples.
    """
    groups: dict[str, int] = {}
    labels = []
    for position, sample in enumerate(samples):
        source = (
            f"prompt {position}" if sample.source_key is None else f"source {sample.source_key}"
        )
        labels.append(groups.setdefault(source, len(groups)))
    group = np.array(labels, np.int64)
    largest = int(np.bincount(group).max(initial=0))
    if not samples or 2 * largest > len(samples):
        raise ConfigError(
            f"masks can't be shuffled: {largest} of {len(samples)} synthetic samples come from one real sample, more than half; "
            "raise dataset.subset_size or the number of samples of the other methods"
        )
    rng = numpy_rng(seed, "train_seg", subset_seed, "shuffle")
    order = rng.permutation(len(samples))
    for i in np.flatnonzero(group[order] == group):
        if group[order[i]] == group[i]:
            helpful = np.flatnonzero((group[order] != group[i]) & (group != group[order[i]]))
            j = rng.choice(helpful)
            order[i], order[j] = order[j], order[i]
    return order.tolist()


class PairPool:
    """Images and masks by key: a real sample's key, or a synthetic one's position (as `Slot` names them).

    Decoded pairs are kept as uint8 while they fit in `cache_bytes`; others are read again each
    time.
    """

    def __init__(self, *, cache_bytes: int = CACHE_BYTES) -> None:
        self._places: dict[str | int, tuple[SampleStore, str, SampleStore, str]] = {}
        self._kept: dict[str | int, tuple[np.ndarray, np.ndarray]] = {}
        self._hidden: dict[str | int, tuple[int, ...]] = {}
        self._room = cache_bytes

    def add(
        self,
        key: str | int,
        *,
        image: tuple[SampleStore, str],
        mask: tuple[SampleStore, str],
        hidden_ids: Sequence[int] = (),
    ) -> None:
        """Say where the image and the mask of `key` are: stores, and keys in them; the two differ in the shuffled control.

        Train ids in `hidden_ids` are read as IGNORE_INDEX.
        """
        self._places[key] = (*image, *mask)
        if hidden_ids:
            self._hidden[key] = tuple(hidden_ids)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, key: str | int) -> tuple[np.ndarray, np.ndarray]:
        """Return image uint8 [H, W, 3] and mask uint8 [H, W]."""
        if key in self._kept:
            return self._kept[key]
        image_store, image_key, mask_store, mask_key = self._places[key]
        pair = image_store.read_image(image_key), mask_store.read_mask(mask_key)
        if key in self._hidden:
            pair[1][np.isin(pair[1], self._hidden[key])] = IGNORE_INDEX
        size = pair[0].nbytes + pair[1].nbytes
        if size <= self._room:
            self._room -= size
            self._kept[key] = pair
        return pair

    def read_batch(self, slots: Sequence[Slot]) -> tuple[np.ndarray, np.ndarray]:
        """Return images uint8 [B, H, W, 3] and masks uint8 [B, H, W] of one step's slots."""
        pairs = [self.read(s.real_key if s.synthetic is None else s.synthetic) for s in slots]
        return np.stack([image for image, _ in pairs]), np.stack([mask for _, mask in pairs])


@dataclass(frozen=True)
class Arm:
    """What an arm trains on.

    Attributes:
        plan: which samples, step by step.
        pool: where they are.
        facts: num_real, num_synthetic (by method), and unmatched_sources: by method, the real
            samples that it has nothing for.
    """

    plan: BatchPlan
    pool: PairPool
    facts: dict[str, Any]


def open_arm(
    variant: VariantConfig,
    *,
    config: SegmenterConfig,
    real: SampleStore,
    real_keys: Sequence[str],
    partitions: Mapping[str, Sequence[SampleStore]],
    seed: int,
    subset_seed: int,
    hidden_ids: Sequence[int] = (),
) -> Arm:
    """Bring an arm's real and synthetic samples together.

    Args:
        variant: the arm.
        config: the training.
        real: the training split.
        real_keys: the real samples it is given; for ``real: none`` the ones that its synthetic
            samples were made from.
        partitions: by method, the stores of the classes.
        seed, subset_seed: name of the random streams.
        hidden_ids: train ids whose real labels are ignored.

    Raises:
        ConfigError: one of the methods has nothing for these real samples.
    """
    # 1. Synthetic samples, without those made from real samples that this segmenter isn't given.
    stores = {
        (method, key): store
        for method, group in partitions.items()
        for store in group
        for key in store.keys()  # noqa: SIM118
    }
    listed = [
        SyntheticSample(method, key, source_key if isinstance(source_key, str) else None)
        for method, group in partitions.items()
        for store in group
        for key, source_key in zip(store.index["key"], store.index["source_key"], strict=True)
    ]
    synthetic = select_sources(listed, real_keys=real_keys)
    absent = sorted(set(partitions) - {sample.method for sample in synthetic})
    if absent:
        raise ConfigError(
            f"{', '.join(absent)}: no sample was made from one of the {len(real_keys)} real ones of subset seed {subset_seed}; "
            f"`classes` may not hold the rarest class of any of them (run: dvc repro {' '.join(absent)})"
        )
    masks = (
        shuffled_masks(synthetic, seed=seed, subset_seed=subset_seed)
        if variant.shuffle_masks
        else range(len(synthetic))
    )

    # 2. Where every image and mask is, and which fill a batch.
    pool = PairPool()
    if variant.real != "none":
        for key in real_keys:
            pool.add(key, image=(real, key), mask=(real, key), hidden_ids=hidden_ids)
    places = [(stores[sample.method, sample.key], sample.key) for sample in synthetic]
    for position, mask in enumerate(masks):
        pool.add(position, image=places[position], mask=places[mask])
    plan = BatchPlan(
        config,
        real_keys=real_keys,
        synthetic=synthetic,
        synthetic_only=variant.real == "none",
        seed=seed,
        subset_seed=subset_seed,
    )
    facts = {
        "num_real": 0 if variant.real == "none" else len(real_keys),
        "num_synthetic": {
            method: sum(s.method == method for s in synthetic) for method in partitions
        },
        "unmatched_sources": count_unmatched(synthetic, real_keys=real_keys),
    }
    return Arm(plan, pool, facts)
