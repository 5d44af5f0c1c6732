"""Subsets, held-out runs and class partitions, against hand-worked cases and over random data."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seggen_core.datasets.open import open_project_dataset
from seggen_core.datasets.subset import class_partitions, draw_subset, hold_out, limit
from seggen_core.datasets.validate import validate_project
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.paths import ProjectPaths
from seggen_core.reports.plan_inputs import count_samples
from seggen_core.taxonomy import Taxonomy
from tests.datasets.layouts import WRITERS
from tests.minimal_config import BASELINE, minimal_config

TAXONOMY = Taxonomy.from_names(stuff=["sky", "road"], things=["car", "person"])


def _random_counts(num_samples: int, *, seed: int, rare: float = 0.1) -> dict[str, list[int]]:
    rng = np.random.default_rng(seed)
    present = rng.random((num_samples, 4)) < [1.0, 0.8, 0.3, rare]
    pixels = present * rng.integers(1, 1000, (num_samples, 4)) // [1, 1, 1, 4] + present
    return {f"train-{i:05d}": row.tolist() for i, row in enumerate(pixels)}


def test_partition_takes_the_rarest_class_present() -> None:
    counts = {
        "a": [90, 10, 0, 0],
        "b": [50, 0, 49, 1],  # one pixel of the rarest class is presence
        "c": [0, 60, 40, 0],
        "d": [100, 0, 0, 0],
        "e": [0, 0, 11, 0],
    }  # totals: sky 240, road 70, car 100, person 1
    assert class_partitions(counts, TAXONOMY) == {
        "sky": ["d"],
        "road": ["a", "c"],
        "car": ["e"],
        "person": ["b"],
    }


def test_rarity_is_pixels_not_samples() -> None:
    counts = {
        "a": [1, 50, 0, 0],
        "b": [1, 49, 0, 0],
        "c": [1, 0, 0, 0],
    }  # sky is in all samples, with the fewest pixels
    assert class_partitions(counts, TAXONOMY, sources={"b"})["sky"] == ["b"]
    # Of all three, half of an equal share goes to the road: the sample that shows most of it.
    assert class_partitions(counts, TAXONOMY)["road"] == ["a"]


def test_partition_breaks_ties_by_train_id_and_keeps_classes_that_nothing_shows_empty() -> None:
    counts = {"a": [5, 5, 0, 0], "b": [5, 5, 0, 0]}
    assert class_partitions(counts, TAXONOMY) == {
        "sky": ["b"],
        "road": ["a"],
        "car": [],
        "person": [],
    }
    assert class_partitions({"a": counts["a"]}, TAXONOMY)["sky"] == ["a"]  # fewer than classes


def test_a_class_gets_its_sample_through_others_that_have_none_to_spare() -> None:
    # By rarity a and b go to the road, c to the car, and the sky gets none. Only c shows the sky,
    # so the car takes b from the road.
    counts = {"a": [0, 9, 0, 0], "b": [0, 8, 1, 0], "c": [97, 0, 3, 0]}
    assert class_partitions(counts, TAXONOMY) == {
        "sky": ["c"],
        "road": ["a"],
        "car": ["b"],
        "person": [],
    }


def test_classes_have_half_of_an_equal_share_if_so_many_samples_show_them() -> None:
    # The sky is in all 64 samples and never the rarest class in one.
    counts = {f"{i:02d}": [100 + i, 10, 0, 1] for i in range(60)}
    counts |= {f"{i:02d}": [100, 10, 1, 0] for i in range(60, 64)}
    sizes = {slug: len(keys) for slug, keys in class_partitions(counts, TAXONOMY).items()}
    assert sizes == {"sky": 8, "road": 8, "car": 4, "person": 44}
    assert class_partitions(counts, TAXONOMY)["sky"] == [f"{i}" for i in range(52, 60)]


@pytest.mark.parametrize("seed", range(5))
def test_partition_is_disjoint_complete_and_independent_of_order(seed: int) -> None:
    counts = _random_counts(200, seed=seed)
    sources = set(list(counts)[:: seed + 1])
    partition = class_partitions(counts, TAXONOMY, sources=sources)
    everything = [k for keys in partition.values() for k in keys]
    assert sorted(everything) == sorted(sources)
    assert len(everything) == len(set(everything))
    totals = np.sum(list(counts.values()), axis=0)
    num_moved = 0
    for c in TAXONOMY:
        num_showing = sum(counts[key][c.train_id] > 0 for key in sources)
        assert len(partition[c.slug]) >= min(len(sources) // 8, num_showing)
        for key in partition[c.slug]:
            present = np.flatnonzero(counts[key])
            assert c.train_id in present
            num_moved += totals[c.train_id] != totals[present].min()
    assert num_moved <= len(sources) // 2, "most samples stay with their rarest class"
    assert class_partitions(dict(reversed(counts.items())), TAXONOMY, sources=sources) == partition


@pytest.mark.parametrize("seed", range(20))
def test_no_class_is_without_a_sample_if_that_can_be(seed: int) -> None:
    """As many samples as classes: each class gets one exactly if a matching exists."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(12)
    names = [f"c{i}" for i in range(12)]
    taxonomy = Taxonomy.from_names(stuff=names, things=[])
    present = rng.random((12, 12)) < 0.15
    present[np.arange(12), order] = True  # so that there is one
    counts = {f"{i:02d}": (row * rng.integers(1, 50, 12)).tolist() for i, row in enumerate(present)}
    assert [len(keys) for keys in class_partitions(counts, taxonomy).values()] == [1] * 12


def test_partition_refuses_a_sample_without_labels() -> None:
    with pytest.raises(DatasetError, match=r"1 samples have no labelled pixel \(b\)"):
        class_partitions({"a": [1, 0, 0, 0], "b": [0, 0, 0, 0]}, TAXONOMY)


def test_subset_is_a_deterministic_draw_that_depends_on_both_seeds() -> None:
    counts = _random_counts(100, seed=0)
    drawn = draw_subset(counts, size=20, seed=0, subset_seed=0)
    assert len(drawn) == len(set(drawn)) == 20
    assert drawn == sorted(drawn)
    assert drawn == draw_subset(dict(reversed(counts.items())), size=20, seed=0, subset_seed=0)
    assert drawn != draw_subset(counts, size=20, seed=0, subset_seed=1)
    assert drawn != draw_subset(counts, size=20, seed=1, subset_seed=0)
    assert draw_subset(counts, size=None, seed=0, subset_seed=0) == sorted(counts)


@pytest.mark.parametrize("subset_seed", range(20))
def test_subset_holds_every_class_that_occurs(subset_seed: int) -> None:
    counts = _random_counts(300, seed=1, rare=0.01)
    assert 0 < sum(row[3] > 0 for row in counts.values()) < 10
    drawn = draw_subset(counts, size=4, seed=0, subset_seed=subset_seed)
    assert len(drawn) == 4
    assert (np.sum([counts[k] for k in drawn], axis=0) > 0).all()


def test_subset_swaps_a_sample_for_one_that_has_its_classes_too() -> None:
    for subset_seed in range(6):
        assert draw_subset(
            {"a": [1, 0], "b": [1, 1], "c": [1, 0]}, size=1, seed=0, subset_seed=subset_seed
        ) == ["b"]


def test_subset_smaller_than_the_number_of_classes_takes_what_is_possible() -> None:
    counts = {"a": [1, 0, 0, 0], "b": [0, 1, 0, 0], "c": [0, 0, 1, 0], "d": [0, 0, 0, 1]}
    assert len(draw_subset(counts, size=2, seed=0, subset_seed=0)) == 2


def test_subset_is_uniform_where_nothing_has_to_be_mended() -> None:
    counts = {f"{i:02d}": [1, 1, 1, 1] for i in range(20)}
    drawn = [k for s in range(400) for k in draw_subset(counts, size=5, seed=0, subset_seed=s)]
    _, times = np.unique(drawn, return_counts=True)
    assert len(times) == 20
    assert 60 < times.min() <= times.max() < 140  # 100 expected, standard deviation 8.7


def test_subset_larger_than_the_split_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"dataset\.subset_size is 5, but there are 2 training samples"
    ):
        draw_subset({"a": [1], "b": [1]}, size=5, seed=0, subset_seed=0)


def test_hold_out_takes_ends_of_runs_in_proportion() -> None:
    runs = [[f"a{i}" for i in range(10)], [f"b{i}" for i in range(5)], ["c0"]]
    ends = set()
    for seed in range(12):
        held = hold_out(runs, count=4, seed=seed)  # exact shares 2.5, 1.25, 0.25: 3, 1, 0
        assert len(held) == 4
        a = sorted(k for k in held if k[0] == "a")
        assert a in (["a0", "a1", "a2"], ["a7", "a8", "a9"])
        assert "c0" not in held
        ends.add(a[0])
    assert ends == {"a0", "a7"}
    with pytest.raises(ConfigError, match="lower it"):
        hold_out(runs, count=16, seed=0)


def test_limit_keeps_order_and_draws_by_seed() -> None:
    keys = [f"{i:03d}" for i in range(50)]
    chosen = limit(keys, count=10, seed=0, split="train")
    assert chosen == sorted(chosen)
    assert len(set(chosen)) == 10
    assert chosen != limit(keys, count=10, seed=1, split="train")
    assert limit(keys, count=None, seed=0, split="train") == keys


@pytest.mark.parametrize("key", ["dataset.subset_size", "variants.baseline.subset_size"])
def test_a_subset_larger_than_train_is_said_before_anything_runs(tmp_path: Path, key: str) -> None:
    root = tmp_path / "dataset"
    root.mkdir()
    section = WRITERS["camvid"](root) | {"root": root, "splits": "val_as_test", "num_val": 1}
    sections: dict[str, Any] = {"variants": {"baseline": BASELINE}}
    if key.startswith("dataset"):
        section |= {"subset_size": 100}
    else:
        sections["variants"]["baseline"] = BASELINE | {"subset_size": 100}
    config = minimal_config(section, **sections)
    paths = ProjectPaths(tmp_path)
    words = f"{key} is 100, but there are 2 training samples; lower it or remove it"
    report = validate_project(config, paths=paths, headers_only=True)
    assert words in [problem.what for problem in report.problems]
    assert words in count_samples(config, paths=paths)[1]
    with pytest.raises(ConfigError, match=words):
        open_project_dataset(config, base=tmp_path)
