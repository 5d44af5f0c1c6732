"""Synthetic samples and their real sources, and the control that mixes them up."""

from collections.abc import Sequence

import numpy as np

from seggen_core.errors import ConfigError
from seggen_core.segmentation.mixing import SyntheticSample, TrainingSeed


def select_sources(
    samples: Sequence[SyntheticSample], *, real_keys: Sequence[str]
) -> list[SyntheticSample]:
    """Return the samples whose source is one of `real_keys`, or that have none.

    A segmenter that is given N real samples mustn't see synthetic ones of other sources (SegGen
    Table 4, low-data rows).
    """
    allowed = {*real_keys, None}
    return [sample for sample in samples if sample.source_key in allowed]


def count_unmatched(
    samples: Sequence[SyntheticSample], *, real_keys: Sequence[str]
) -> dict[str, int]:
    """Return how many of `real_keys` are no sample's source, by method that has sources."""
    sources: dict[str, set[str]] = {}
    for sample in samples:
        if sample.source_key is not None:
            sources.setdefault(sample.method, set()).add(sample.source_key)
    return {method: len(set(real_keys) - keys) for method, keys in sorted(sources.items())}


def shuffled_masks(samples: Sequence[SyntheticSample], *, seed: TrainingSeed) -> list[int]:
    """Return the control's pairing: image i gets the mask of sample ``result[i]``.

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
            f"masks can't be shuffled: {largest} of {len(samples)} synthetic samples come from one "
            "real sample, more than half; raise dataset.subset_size or the number of samples of "
            "the other methods"
        )
    rng = seed.numpy_rng("shuffle")
    order = rng.permutation(len(samples))
    for i in np.flatnonzero(group[order] == group):
        if group[order[i]] == group[i]:
            helpful = np.flatnonzero((group[order] != group[i]) & (group != group[order[i]]))
            j = rng.choice(helpful)
            order[i], order[j] = order[j], order[i]
    return order.tolist()
