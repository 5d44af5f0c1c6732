"""From the splits that a dataset publishes to train, val and test."""

from collections.abc import Callable, Mapping, Sequence

from seggen_core.config import DatasetConfig, Split, SplitFiles
from seggen_core.datasets.reader import SPLITS
from seggen_core.datasets.subset import hold_out, limit
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.rng import numpy_rng

VALIDATION_SHARE = 0.1
"""Share of the training samples taken for validation where `num_val` doesn't say; for test too."""

Runs = Callable[[Sequence[str]], list[list[str]]]
"""Cuts sorted keys into stretches of neighbouring samples."""


_SOURCES: dict[str, dict[Split, Split]] = {
    "published": {"val": "val", "test": "test"},
    "val_as_test": {"test": "val"},
    "val_from_train": {"test": "test"},
    "all_from_train": {},
}
"""The published split that val and test are taken from, for each value of `dataset.splits`."""


def published_splits(config: DatasetConfig) -> tuple[Split, ...]:
    """Return the published splits whose files are needed."""
    needed = {"train", *_SOURCES[config.splits].values()}
    return tuple(split for split in SPLITS if split in needed)


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

    A split that `dataset.splits` takes from no published split, or from one that isn't there, comes
    out of train: whole stretches where neighbouring samples show the same scene (`runs`), else a
    uniform draw. Test comes out first. Its samples leave train; those of validation stay in it,
    too, with `keep_val_in_train`.

    Raises:
        ConfigError: more samples are asked for than there are.
        DatasetError: a published split has no sample, or train has too few to take some out.
    """
    for split, keys in published.items():
        if not keys:
            raise DatasetError(
                f"{dataset} has no {split} samples; expected at least one: check dataset.root and "
                "dataset.files"
            )
    counts = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
    train = list(published["train"])
    chosen: dict[Split, tuple[Split, list[str]]] = {}
    held_out: tuple[Split, Split] = ("test", "val")
    for split in held_out:
        source = _SOURCES[config.splits].get(split)
        if source is not None and source in published:
            chosen[split] = (source, list(published[source]))
            continue
        count = counts[split] or max(1, round(VALIDATION_SHARE * len(train)))
        if source is not None:  # expected, but not there: take what train can spare
            count = min(count, len(train) // 3)
        if count == 0:
            raise DatasetError(
                f"{dataset} has no {split} split and {len(train)} training samples; expected at "
                f"least 3 to take some for it, or a {split} split of its own"
            )
        held = _hold_out(train, split=split, count=count, seed=seed, runs=runs)
        chosen[split] = ("train", [k for k in train if k in held])
        counts[split] = None
        if split == "test" or not config.keep_val_in_train:
            train = [k for k in train if k not in held]
    chosen["train"] = ("train", train)
    return {
        split: (source, limit(keys, count=counts[split], seed=seed, split=split))
        for split in SPLITS
        for source, keys in (chosen[split],)
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
            "sample(s), of which one has to be left; "
            + ("lower it" if count > 1 else "add samples: train, val and test need one each")
        )
    if runs is not None:
        return hold_out(runs(train), count=count, seed=seed)
    stream = ("hold-out",) if split == "val" else ("hold-out", split)
    chosen = numpy_rng(seed, *stream).choice(len(train), size=count, replace=False)
    return {train[i] for i in chosen}
