"""Which samples: limits, held-out stretches, low-data subsets and class partitions."""

from collections.abc import Mapping, Sequence

import numpy as np

from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.rng import numpy_rng
from seggen_core.taxonomy import Taxonomy


def limit(keys: Sequence[str], *, count: int | None, seed: int, split: str) -> list[str]:
    """Return `count` of `keys` (all for None), drawn uniformly by seed and left in their order.

    Raises:
        ConfigError: there are fewer.
    """
    if count is None:
        return list(keys)
    if count > len(keys):
        raise ConfigError(
            f"dataset.num_{split} is {count}, but the dataset has {len(keys)} {split} samples; "
            "lower it or remove it to take all"
        )
    chosen = numpy_rng(seed, "limit", split).choice(len(keys), size=count, replace=False)
    return [keys[i] for i in sorted(chosen)]


def hold_out(runs: Sequence[Sequence[str]], *, count: int, seed: int) -> set[str]:
    """Choose `count` keys for validation.

    Each run of neighbouring samples gives a share in proportion to its length, from its beginning
    or its end as the seed says. Shares are rounded by largest remainder (the earlier run at a tie).

    Raises:
        ConfigError: `count` leaves nothing to train on.
    """
    total = sum(len(run) for run in runs)
    if count >= total:
        raise ConfigError(
            f"dataset.num_val is {count}, but it is taken out of {total} training samples; lower it"
        )
    exact = [count * len(run) / total for run in runs]
    shares = [int(e) for e in exact]
    by_remainder = sorted(range(len(runs)), key=lambda i: (shares[i] - exact[i], i))
    for i in by_remainder[: count - sum(shares)]:
        shares[i] += 1
    held: set[str] = set()
    for i, (run, share) in enumerate(zip(runs, shares, strict=True)):
        at_end = numpy_rng(seed, "hold-out", i).random() < 0.5
        held.update(run[len(run) - share :] if at_end else run[:share])
    return held


def draw_subset(
    counts_per_sample: Mapping[str, Sequence[int]], *, size: int | None, seed: int, subset_seed: int
) -> list[str]:
    """Draw the N real samples that a segmenter trains on (SegGen Table 4, low-data rows).

    The draw is uniform, then changed so that every class occurs if that is possible: while a class
    of the training split is missing, the first sample of the permutation that has it comes in, and
    the last drawn one whose classes all occur elsewhere goes out. The rarest missing class (by
    samples) comes first.

    Args:
        counts_per_sample: pixels per train id of every training sample.
        size: N; None takes all.
        seed: of the project.
        subset_seed: each gives another draw.

    Returns:
        Sorted keys.

    Raises:
        ConfigError: there are fewer than N samples.
    """
    keys = sorted(counts_per_sample)
    if size is None:
        return keys
    if size > len(keys):
        raise ConfigError(
            f"dataset.subset_size is {size}, but there are {len(keys)} training samples; lower it "
            "or remove it to take all"
        )
    present = np.array([np.asarray(counts_per_sample[k]) > 0 for k in keys])
    order = numpy_rng(seed, "subset", subset_seed).permutation(len(keys))
    chosen = [int(i) for i in order[:size]]
    spare = [int(i) for i in order[size:]]
    occurs = present.sum(axis=0)
    for class_id in sorted(np.flatnonzero(occurs), key=lambda c: (occurs[c], c)):
        if present[chosen, class_id].any():
            continue
        newcomer = next(i for i in spare if present[i, class_id])
        held = present[chosen].sum(axis=0)
        # Redundant: each of its classes is held by another chosen sample, or comes with the
        # newcomer.
        redundant = [
            i for i in reversed(chosen) if not (present[i] & (held == 1) & ~present[newcomer]).any()
        ]
        if redundant:
            chosen[chosen.index(redundant[0])] = newcomer
            spare.remove(newcomer)
    return sorted(keys[i] for i in chosen)


def rarest_class_partition(
    counts_per_sample: Mapping[str, Sequence[int]], taxonomy: Taxonomy
) -> dict[str, list[str]]:
    """Assign every training sample to the rarest class present in it.

    Rarity is the class's share of the labelled pixels of all the samples given (the training
    split); one pixel is presence; equally rare classes are taken in train-id order. The partitions
    are disjoint and their union is complete, so MaskSyn and ImgSyn over all classes make exactly
    the papers' set.

    Args:
        counts_per_sample: pixels per train id, by sample key.
        taxonomy: the classes.

    Returns:
        Sorted keys by class slug, in train-id order; empty for a class that is the rarest of no
        sample.

    Raises:
        DatasetError: a sample has no labelled pixel.
    """
    keys = sorted(counts_per_sample)
    partition: dict[str, list[str]] = {slug: [] for slug in taxonomy.slugs}
    if not keys:
        return partition
    counts = np.array([counts_per_sample[k] for k in keys], dtype=np.int64)
    assert counts.shape[1] == len(taxonomy), (counts.shape, len(taxonomy))
    empty = [k for k, c in zip(keys, counts, strict=True) if not c.any()]
    if empty:
        raise DatasetError(
            f"{len(empty)} samples have no labelled pixel ({', '.join(empty[:5])}); expected at "
            "least one (run: seggen validate)"
        )
    by_rarity = np.argsort(counts.sum(axis=0), kind="stable")
    rarest = by_rarity[(counts[:, by_rarity] > 0).argmax(axis=1)]
    for key, class_id in zip(keys, rarest, strict=True):
        partition[taxonomy[int(class_id)].slug].append(key)
    return partition
