"""Arms of their own size: real subsets, and a number of synthetic samples."""

from collections import Counter

import numpy as np
import pytest

from seggen_core.datasets.subset import draw_subset
from seggen_core.errors import ConfigError
from seggen_core.segmentation.mixing import SyntheticSample, TrainingSeed
from seggen_core.segmentation.subsets import arm_subset, limit_synthetic

KEYS = [f"train-{i:05d}" for i in range(60)]
COUNTS = {key: [9, i % 2, 5 * (i % 7 == 0)] for i, key in enumerate(KEYS)}
SUBSETS = {str(s): draw_subset(COUNTS, size=12, seed=3, subset_seed=s) for s in (0, 1)}
SEED = TrainingSeed(3, 1)


def subset(size: int | None, seed: TrainingSeed = SEED) -> list[str]:
    return arm_subset(SUBSETS, size=size, counts=COUNTS, seed=seed)


def test_subsets_grow_from_the_seeds_own() -> None:
    seed_keys, union = set(SUBSETS["1"]), set(SUBSETS["0"]) | set(SUBSETS["1"])
    assert subset(None) == subset(12) == SUBSETS["1"]
    previous: set[str] = set()
    for size in (12, 13, len(union), len(union) + 5, 60):
        keys = subset(size)
        assert keys == sorted(keys) and len(set(keys)) == size
        assert previous <= set(keys) and seed_keys <= set(keys)
        # What synthetic samples start from comes before what they don't.
        assert set(keys) <= union or union <= set(keys)
        previous = set(keys)
    assert subset(13) != subset(13, TrainingSeed(4, 1))


def test_smaller_subsets_are_a_part_and_keep_every_class() -> None:
    for size in (3, 6, 11):
        keys = subset(size)
        assert len(keys) == size and set(keys) <= set(SUBSETS["1"])
        assert np.all(np.sum([COUNTS[key] for key in keys], axis=0) > 0)


def test_more_samples_than_there_are_is_an_error() -> None:
    with pytest.raises(ConfigError, match="subset_size of the arm is 61, but there are 60"):
        subset(61)


def synthetic_samples() -> tuple[list[SyntheticSample], list[str]]:
    """Two methods: four sources of six samples, and two classes of twelve."""
    samples = [SyntheticSample("imgsyn", f"i{s}{n}", KEYS[s]) for s in range(4) for n in range(6)]
    samples += [SyntheticSample("seediff", f"s{c}{n}", None) for c in "ab" for n in range(12)]
    return samples, [s.source_key or s.key[1] for s in samples]


def test_synthetic_samples_are_spread_over_methods_and_groups() -> None:
    samples, groups = synthetic_samples()
    chosen = {
        n: limit_synthetic(samples, groups=groups, num_synthetic=n, seed=SEED) for n in range(1, 49)
    }
    assert chosen[48] == limit_synthetic(samples, groups=groups, num_synthetic=None, seed=SEED)
    for size, positions in chosen.items():
        assert positions == sorted(set(positions)) and len(positions) == size
        assert set(positions) <= set(chosen.get(size + 1, positions))
    counts = Counter((samples[i].method, groups[i]) for i in chosen[24])
    assert sum(n for (method, _), n in counts.items() if method == "imgsyn") == 12
    assert set(counts.values()) <= {2, 3, 4, 6}
    firsts = {key: [i for i in chosen[24] if groups[i] == key] for key in set(groups)}
    for key, positions in firsts.items():  # of each group its first ones
        start = groups.index(key)
        assert positions == list(range(start, start + len(positions)))
    other = TrainingSeed(3, 0)
    assert any(
        limit_synthetic(samples, groups=groups, num_synthetic=n, seed=other) != chosen[n]
        for n in chosen
    )


def test_more_synthetic_samples_than_there_are_is_an_error() -> None:
    samples, groups = synthetic_samples()
    with pytest.raises(ConfigError, match="is 49, but subset seed 1 has 48 synthetic samples"):
        limit_synthetic(samples, groups=groups, num_synthetic=49, seed=SEED)
