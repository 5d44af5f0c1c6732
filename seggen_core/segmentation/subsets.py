"""Which of the stored samples an arm of its own size gets; no store is made again."""

from collections.abc import Mapping, Sequence

import numpy as np

from seggen_core.datasets.subset import draw_subset
from seggen_core.errors import ConfigError
from seggen_core.segmentation.mixing import SyntheticSample, TrainingSeed


def arm_subset(
    subsets: Mapping[str, Sequence[str]],
    *,
    size: int | None,
    counts: Mapping[str, Sequence[int]],
    seed: TrainingSeed,
) -> list[str]:
    """Return the real samples that an arm of N samples gets with a subset seed.

    A smaller N takes a part of the seed's subset, with every class of it if that is possible
    (`draw_subset`). A larger one adds samples to it: first those of the other seeds' subsets, which
    MaskSyn and ImgSyn have started from too, then others of the training split. So synthetic
    samples of the arm's own samples exist as far as any exist. Larger subsets hold the smaller
    ones from the seed's subset upward.

    Args:
        subsets: of subsets.json: sample keys by subset seed.
        size: N; None is the seed's subset as it is.
        counts: pixels per train id of every training sample.
        seed: names the subset and the draw.

    Returns:
        Sample keys; sorted.

    Raises:
        ConfigError: there are fewer than N training samples.
    """
    subset = list(subsets[str(seed.subset_seed)])
    if size is None or size == len(subset):
        return subset
    if size < len(subset):
        among = {key: counts[key] for key in subset}
        return draw_subset(among, size=size, seed=seed.seed, subset_seed=seed.subset_seed)
    if size > len(counts):
        raise ConfigError(
            f"subset_size of the arm is {size}, but there are {len(counts)} training samples; "
            "lower it, or write real: all"
        )
    others = sorted({key for keys in subsets.values() for key in keys} - set(subset))
    rest = sorted(set(counts) - set(subset) - set(others))
    rng = seed.numpy_rng("arm subset")
    queue = [*rng.permutation(others), *rng.permutation(rest)]
    return sorted([*subset, *map(str, queue[: size - len(subset)])])


def limit_synthetic(
    samples: Sequence[SyntheticSample],
    *,
    groups: Sequence[str],
    num_synthetic: int | None,
    seed: TrainingSeed,
) -> list[int]:
    """Return the positions of the synthetic samples that an arm reads, ascending.

    Each method gives its share of `num_synthetic`, and each of its groups the same share of what it
    has: the first samples of all groups come first. Which groups round up is drawn by the seed.
    What a smaller number chooses, a larger one chooses, too.

    Args:
        samples: all that the arm may read.
        groups: what each sample belongs to within its method: its source or, where there is none,
            its class.
        num_synthetic: how many; None takes all.
        seed: names the draw.

    Raises:
        ConfigError: there are fewer.
    """
    if num_synthetic is None:
        return list(range(len(samples)))
    if num_synthetic > len(samples):
        raise ConfigError(
            f"num_synthetic of the arm is {num_synthetic}, but subset seed {seed.subset_seed} has "
            f"{len(samples)} synthetic samples; lower it, or make more "
            "(samples_per_source, samples_per_class)"
        )
    members: dict[tuple[str, str], list[int]] = {}
    for position, (sample, group) in enumerate(zip(samples, groups, strict=True)):
        members.setdefault((sample.method, group), []).append(position)
    rank = np.empty(len(samples))
    offsets = seed.numpy_rng("synthetic samples").random(len(members))
    for offset, key in zip(offsets, sorted(members), strict=True):
        positions = members[key]
        rank[positions] = (np.arange(len(positions)) + offset) / len(positions)
    return sorted(np.argsort(rank, kind="stable")[:num_synthetic].tolist())
