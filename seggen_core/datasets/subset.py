"""Which samples: limits, held-out stretches, low-data subsets and class partitions."""

from collections import deque
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from seggen_core.config import SegGenConfig
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


def subset_faults(config: SegGenConfig, *, num_train: int) -> list[str]:
    """Return a sentence for each subset that is larger than the training split.

    An arm's would be met when it is trained, after the generators. A list of words has no samples.
    """
    sizes = {"dataset.subset_size": config.dataset.subset_size}
    sizes |= {
        f"variants.{name}.subset_size": arm.subset_size for name, arm in config.variants.items()
    }
    return [
        f"{key} is {size}, but there are {num_train} training samples; lower it or remove it"
        for key, size in sizes.items()
        if size is not None and size > num_train > 0
    ]


def subset_union(subsets: Mapping[str, Sequence[str]]) -> set[str]:
    """Return the keys that are in any subset: the real samples that MaskSyn and ImgSyn start from.

    Args:
        subsets: the sample keys of each subset, as subsets.json has them.
    """
    return {key for keys in subsets.values() for key in keys}


def class_partitions(
    counts_per_sample: Mapping[str, Sequence[int]],
    taxonomy: Taxonomy,
    *,
    sources: Collection[str] | None = None,
) -> dict[str, list[str]]:
    """Assign every source to one class that it shows: the rarest, unless another class is short.

    Rarity is the class's share of the labelled pixels of all the samples given (the training
    split); one pixel is presence; equally rare classes are taken in train-id order. By this rule
    alone a class that is in nearly every sample (sky) gets none. So `_fill_short_classes` then
    moves samples to the classes that have fewer than half of an equal share.

    The partitions are disjoint, and their union is `sources`. So MaskSyn and ImgSyn over all
    classes make exactly the papers' set, whoever gets which sample.

    Args:
        counts_per_sample: pixels per train id of every training sample, by sample key.
        taxonomy: the classes.
        sources: keys of the samples to assign (`subset_union`); None takes all.

    Returns:
        Sorted keys by class slug, in train-id order. A class gets none if no source shows it, or
        if there are fewer sources than classes in them and it is the rarest of none.

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
    if sources is not None:
        wanted = [i for i, key in enumerate(keys) if key in sources]
        keys, counts = [keys[i] for i in wanted], counts[wanted]
    if not keys:
        return partition
    assigned = by_rarity[(counts[:, by_rarity] > 0).argmax(axis=1)]
    _fill_short_classes(assigned, counts=counts, by_rarity=by_rarity)
    for key, class_id in zip(keys, assigned, strict=True):
        partition[taxonomy[int(class_id)].slug].append(key)
    return partition


def _fill_short_classes(assigned: np.ndarray, *, counts: np.ndarray, by_rarity: np.ndarray) -> None:
    """Move samples to classes that have few, until each has its least number if that is possible.

    The least number is half of an equal share of the samples, or 1 where that is less than one, but
    no more than the samples that show the class. With fewer samples than classes nothing is moved.
    Rarer classes are served first, one sample each in turn. A class takes the sample that it covers
    the largest part of, from a class that has more than it needs; if only classes that can spare
    none show it, one of those takes another sample in exchange, and so on.

    Args:
        assigned: int [N], the class of each sample; changed in place.
        counts: int [N, num_classes], pixels of each class.
        by_rarity: int [num_classes], train ids, the rarest first.
    """
    present = counts > 0
    shares = counts / counts.sum(axis=1, keepdims=True)
    num_samples, num_showing = len(assigned), present.sum(axis=0)
    num_classes = int((num_showing > 0).sum())
    if num_samples < num_classes:
        return
    for level in range(1, max(num_samples // (2 * num_classes), 1) + 1):
        least = np.minimum(num_showing, level)
        for class_id in by_rarity:
            sizes = np.bincount(assigned, minlength=len(least))
            if sizes[class_id] < least[class_id]:
                spare = sizes > least
                for sample, taker in _exchange(int(class_id), assigned, present, shares, spare):
                    assigned[sample] = taker


def _exchange(
    class_id: int,
    assigned: np.ndarray,
    present: np.ndarray,
    shares: np.ndarray,
    spare: np.ndarray,
) -> list[tuple[int, int]]:
    """Find the shortest chain of moves that gives a class one more sample.

    Returns:
        (sample, the class that takes it) for each move; none where no chain ends at a class that
        can spare a sample (`spare`, bool [num_classes]).
    """
    taken_by: dict[int, tuple[int, int]] = {}
    """Of each class that may give: the sample that it gives, and the class that takes it."""
    pending = deque([class_id])
    while pending:
        taker = pending.popleft()
        showing = np.flatnonzero(present[:, taker] & (assigned != taker))
        best_first = showing[np.argsort(-shares[showing, taker], kind="stable")]
        givers = {int(assigned[i]): int(i) for i in best_first[::-1]}  # the best one stays
        for giver in sorted(givers, key=lambda g: (-shares[givers[g], taker], g)):
            if giver in taken_by or giver == class_id:
                continue
            taken_by[giver] = givers[giver], taker
            if spare[giver]:
                chain, link = [], giver
                while link != class_id:
                    chain.append(taken_by[link])
                    link = taken_by[link][1]
                return chain
            pending.append(giver)
    return []
