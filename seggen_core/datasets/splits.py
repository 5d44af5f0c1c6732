"""From the splits that a dataset publishes to train, val and test."""

from collections.abc import Callable, Mapping, Sequence

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.subset import hold_out, limit
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.rng import numpy_rng

VALIDATION_SHARE = 0.1
"""Share of the training samples taken for validation where `num_val` doesn't say; for test too."""

_MIN_TRAIN = 3

Runs = Callable[[Sequence[str]], list[list[str]]]
"""Cuts sorted keys into stretches of neighbouring samples."""


def published_splits(config: DatasetConfig) -> tuple[Split, ...]:
    """Return the published splits whose files are needed."""
    needed: dict[str, tuple[Split, ...]] = {
        "published": ("train", "val", "test"),
        "val_as_test": ("train", "val"),
        "val_from_train": ("train", "test"),
        "all_from_train": ("train",),
    }
    return needed[config.splits]


def places(
    config: DatasetConfig, *, split: Split, layout: Mapping[Split, SplitFiles]
) -> SplitFiles:
    """Return where the files of a published split are: `layout`, changed by `dataset.files`."""
    return layout.get(split, SplitFiles()).model_copy(
        update=config.files.get(split, SplitFiles()).model_dump(exclude_none=True)
    )


def plan_splits(
    published: Mapping[Split, Sequence[str]],
    *,
    config: DatasetConfig,
    seed: int,
    dataset: str,
    runs: Runs | None = None,
) -> dict[Split, tuple[Split, list[str]]]:
    """Return for each split the published split that its files are in, and its keys.

    With `val_as_test` the published val is the test split. With all but `published`, validation
    comes out of train, and with `all_from_train` test does so before: whole stretches where
    neighbouring samples show the same scene (`runs`), else a uniform draw. They leave train;
    validation stays in it, too, with `keep_val_in_train`.

    A split that isn't among `published` is drawn from train: `num_val` or `num_test` samples, by
    default a tenth, and a third at most.

    Raises:
        ConfigError: more samples are asked for than there are.
        DatasetError: a published split has no sample.
    """
    for split, keys in published.items():
        if not keys:
            raise DatasetError(
                f"{dataset} has no {split} samples; expected at least one: check dataset.root and "
                "dataset.files"
            )
    counts: dict[Split, int | None] = {
        "train": config.num_train,
        "val": config.num_val,
        "test": config.num_test,
    }
    chosen: dict[Split, tuple[Split, list[str]]]
    if config.splits == "published":
        chosen = {split: (split, list(keys)) for split, keys in published.items()}
        for split in ("test", "val"):
            if split not in chosen:
                rest, held_keys = _take_out(
                    chosen["train"][1], split=split, count=counts[split], seed=seed, dataset=dataset
                )
                chosen |= {"train": ("train", rest), split: ("train", held_keys)}
                counts[split] = None
    else:
        train = list(published["train"])
        test: tuple[Split, list[str]]
        if config.splits == "all_from_train":
            count = config.num_test or max(1, round(VALIDATION_SHARE * len(train)))
            held = _hold_out(train, split="test", count=count, seed=seed, runs=runs)
            test = ("train", [k for k in train if k in held])
            train = [k for k in train if k not in held]
        else:
            source: Split = "val" if config.splits == "val_as_test" else "test"
            test = (source, list(published[source]))
        count = config.num_val or max(1, round(VALIDATION_SHARE * len(train)))
        held = _hold_out(train, split="val", count=count, seed=seed, runs=runs)
        remaining = train if config.keep_val_in_train else [k for k in train if k not in held]
        chosen = {
            "train": ("train", remaining),
            "val": ("train", [k for k in train if k in held]),
            "test": test,
        }
    return {
        s: (source, limit(keys, count=counts[s], seed=seed, split=s))
        for s in SPLITS
        for source, keys in (chosen[s],)
    }


def _hold_out(
    train: Sequence[str], *, split: Split, count: int, seed: int, runs: Runs | None
) -> set[str]:
    """Return `count` keys that leave train for another split.

    Raises:
        ConfigError: no training sample would be left.
    """
    if count >= len(train):
        raise ConfigError(
            f"dataset.num_{split} is {count}, but it is taken out of {len(train)} training "
            "samples; lower it"
        )
    if runs is not None:
        return hold_out(runs(train), count=count, seed=seed)
    stream = ("hold-out",) if split == "val" else ("hold-out", split)
    chosen = numpy_rng(seed, *stream).choice(len(train), size=count, replace=False)
    return {train[i] for i in chosen}


def _take_out(
    train: Sequence[str], *, split: Split, count: int | None, seed: int, dataset: str
) -> tuple[list[str], list[str]]:
    """Draw the samples of a split that isn't there; return those that stay in train, and them."""
    if len(train) < _MIN_TRAIN:
        raise DatasetError(
            f"{dataset} has no {split} split and {len(train)} training samples; expected at least "
            f"{_MIN_TRAIN} to take some for it, or a {split} split of its own"
        )
    wanted = count or max(1, round(VALIDATION_SHARE * len(train)))
    wanted = min(wanted, len(train) // 3)
    held = set(numpy_rng(seed, "hold-out", split).choice(len(train), size=wanted, replace=False))
    rest = [key for i, key in enumerate(train) if i not in held]
    return rest, [key for i, key in enumerate(train) if i in held]
