"""Which sample fills which slot of which training step (SegGen 3.4).

Slots hold real samples, and synthetic ones that replace them. Real samples come epoch by epoch,
each epoch a permutation named by (seed, epoch); the draw for slot b of step t is named by
(seed, t, b). No name holds the arm, so all arms with the same real samples see them in the same
order and replace them in the same slots (under the same p_aug); they differ in what they are
replaced by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError
from seggen_core.project.rng import numpy_rng

_NO_SOURCE = ""
"""Stands for the sources of slots where there are no real samples."""


@dataclass(frozen=True)
class TrainingSeed:
    """Names the random streams of one training.

    Attributes:
        seed: of the project.
        subset_seed: of the low-data subset.
    """

    seed: int
    subset_seed: int

    def name(self, *parts: str | int) -> tuple[str | int, ...]:
        """Return the name of a stream, for the functions of `project.rng`."""
        return (self.seed, "train_seg", self.subset_seed, *parts)

    def numpy_rng(self, *parts: str | int) -> np.random.Generator:
        """Return a generator for the stream called `parts`."""
        return numpy_rng(*self.name(*parts))


@dataclass(frozen=True)
class SyntheticSample:
    """One synthetic sample, as the index of its store lists it.

    Attributes:
        method: "masksyn", ...
        key: in its store.
        source_key: the real sample it was generated from; None where a class prompt alone is the
            source.
    """

    method: str
    key: str
    source_key: str | None


@dataclass(frozen=True)
class Slot:
    """One place in a batch.

    Attributes:
        real_key: the real sample it belongs to.
        synthetic: position of the synthetic sample that replaces it; None where none does.
    """

    real_key: str
    synthetic: int | None


def phase_lengths(config: SegmenterConfig) -> tuple[int, ...]:
    """Return the number of steps of each training phase.

    There is one phase under "plain" and "replace"; pre-training and fine-tuning under "pretrain".
    Each phase has its own warm-up and decay, in every arm: an arm without synthetic samples is
    pre-trained on real ones, as SegGen's baselines are (4.2).
    """
    if config.strategy != "pretrain":
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
        seed: TrainingSeed,
    ) -> None:
        """Index the synthetic samples by method and source.

        Args:
            config: `strategy`, `p_aug`, `num_steps`, `pretrain_share` and `batch_size` are used.
            real_keys: the arm's real samples; under `synthetic_only` the sources of its synthetic
                ones, none where there are no real samples at all.
            synthetic: positions in it are what `Slot.synthetic` holds.
            synthetic_only: every slot is replaced.
            seed: names the random streams.

        Raises:
            ConfigError: there is no real sample, and the arm isn't `synthetic_only`.
        """
        if not real_keys and not synthetic_only:
            raise ConfigError(
                "the arm has no real sample to take its batches from (run: dvc repro dataset)"
            )
        assert synthetic or not synthetic_only
        self._config = config
        self._real_keys = sorted(real_keys) or [_NO_SOURCE]
        self._seed = seed
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
        self.batch_size = config.batch_size
        self._epoch = lru_cache(maxsize=2)(self._permutation)

    def slots(self, step: int) -> list[Slot]:
        """Return the slots of `step`, `batch_size` of them.

        A slot is replaced with the step's probability, by a method drawn in proportion to its
        number of samples. The sample is drawn uniformly among those generated from the slot's real
        sample; among all of the method where there is none from that one (attention methods start
        from prompts, and a class partition may be missing).
        """
        share = self._replaced_share(step)
        return [self._slot(step, b, share) for b in range(self._config.batch_size)]

    def _slot(self, step: int, b: int, share: float) -> Slot:
        epoch, place = divmod(step * self._config.batch_size + b, len(self._real_keys))
        real_key = self._real_keys[self._epoch(epoch)[place]]
        rng = self._seed.numpy_rng("slot", step, b)
        coin, method, sample = rng.random(3)
        if not self._methods or coin >= share:
            return Slot(real_key, None)
        chosen = self._methods[int(np.searchsorted(self._method_ends, method, side="right"))]
        candidates = self._by_source.get((chosen, real_key)) or self._by_method[chosen]
        return Slot(real_key, candidates[int(sample * len(candidates))])

    def _replaced_share(self, step: int) -> float:
        if self._synthetic_only:
            return 1.0
        if self._config.strategy != "pretrain":
            return self._config.p_aug
        return 1.0 if step < round(self._config.num_steps * self._config.pretrain_share) else 0.0

    def _permutation(self, epoch: int) -> list[int]:
        rng = self._seed.numpy_rng("epoch", epoch)
        return rng.permutation(len(self._real_keys)).tolist()
