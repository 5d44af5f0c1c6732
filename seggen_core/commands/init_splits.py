"""Which splits and how many samples a dataset has, for `seggen init`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggen_core.config import DatasetConfig, SegGenConfig
    from seggen_core.datasets.reader import DatasetReader
    from seggen_core.project.paths import ProjectPaths

COCO_FORMATS = ("coco_instance", "coco_panoptic")
"""Readers of published datasets whose format others use for classes of their own."""

_NUM_TRIED = 8
"""Test samples that are read to see whether there are labels."""

COUNTS = ("num_train", "num_val", "num_test", "subset_size")
_EXPECTED = {
    "published": {"val", "test"},
    "val_from_train": {"test"},
    "val_as_test": {"test"},
    "all_from_train": set[str](),
}
"""The published splits that each value of `dataset.splits` is about."""

_NO_FOLDER = "a split is missing"
_DRAWN = {"val_from_train": "val comes", "all_from_train": "val and test come"}
"""What is drawn from train under values of `dataset.splits`, in words."""

_LARGEST_VALIDATION_SHARE = 0.2
"""A profile's `num_val` is not taken over where it would take more of the training samples."""


def default_splits(
    settings: Mapping[str, Any], *, known: Mapping[str, Any], paths: "ProjectPaths"
) -> dict[str, Any]:
    """Return how a dataset that borrows a profile is split, if the user does not say."""
    default: dict[str, Any] = dict.fromkeys({"keep_val_in_train", "use_sbd"} & known.keys(), False)
    if settings["name"] == "folder":
        return default | _folder_splits(settings, base=paths.root)
    return default | {"splits": "published" if settings["name"] == "scenes" else "val_as_test"}


def checked(tree: Mapping[str, Any], *, source: Path) -> "SegGenConfig":
    """Check a profile's tree after changes; ConfigError names the profile."""
    from seggen_core.config.load import check_config

    return check_config(tree, name=f"{source} with what init sets in it")


def _open(
    tree: Mapping[str, Any], changes: Mapping[str, Any], *, source: Path, paths: "ProjectPaths"
) -> "DatasetReader":
    """Open the dataset of a profile with changed keys, without any count."""
    from seggen_core.datasets.open import open_dataset

    section = {k: v for k, v in (tree["dataset"] | changes).items() if k not in COUNTS}
    if section["name"] == "scenes":  # drawn as asked for
        section = tree["dataset"] | changes
    config = checked({**tree, "dataset": section}, source=source)
    return open_dataset(config.dataset, seed=config.seed, base=paths.root)


def has_own_classes(
    tree: Mapping[str, Any], settings: Mapping[str, Any], *, source: Path, paths: "ProjectPaths"
) -> bool:
    """Whether the user's files list other classes than the dataset whose format they have."""
    from seggen_core.errors import SegGenError

    if settings["name"] not in COCO_FORMATS:
        return False
    train_alone = {"splits": "all_from_train", **settings}
    try:
        return _open(tree, train_alone, source=source, paths=paths).conventions.has_own_classes
    except SegGenError:  # it is said when the dataset is opened in earnest
        return False


def open_with_splits(
    tree: Mapping[str, Any],
    changes: Mapping[str, Any],
    settings: Mapping[str, Any],
    *,
    source: Path,
    paths: "ProjectPaths",
) -> tuple[dict[str, Any], "DatasetReader"]:
    """Open the dataset with the splits that are there.

    Public datasets keep the labels of their test split, so profiles evaluate on val. A dataset of
    the user's own in such a format may have a test split with labels: it is the test split then.
    It may also have no val.

    Args:
        tree: the profile.
        changes: keys of its section `dataset` that are replaced.
        settings: those of them that the user gave, which stay.
        source, paths: the profile's file, named in errors; the project.

    Returns:
        Keys of the section `dataset` that say so, and the reader, opened without counts.
    """
    from seggen_core.errors import DatasetError

    if changes["name"] in ("scenes", "folder") or "splits" in settings:
        return {}, _open(tree, changes, source=source, paths=paths)
    published = {"splits": "published", "keep_val_in_train": False, "num_val": None}
    known = tree["dataset"].keys() | changes.keys()
    errors: list[DatasetError] = []
    unread = ""
    for choice in (
        {k: v for k, v in published.items() if k in known and k not in settings},
        {"splits": "val_from_train"},
        {},
        {"splits": "all_from_train"},
    ):
        try:
            reader = _open(tree, {**changes, **choice}, source=source, paths=paths)
            # Of the user's own data, a split that isn't there would come out of train.
            if reader.drawn_splits & _EXPECTED[str(choice.get("splits", "val_as_test"))]:
                errors.append(DatasetError(_NO_FOLDER))
                continue
            if choice.get("splits") in ("published", "val_from_train"):
                unread = _fault_of_test(reader)  # it may have no labels
                if unread:
                    errors.append(DatasetError(unread))
                    continue
        except DatasetError as error:
            errors.append(error)
        else:
            if unread:
                print(f"note: the test split isn't read, because no sample of it can be: {unread}")
            drawn = _DRAWN.get(str(choice.get("splits")))
            if drawn is not None and str(errors[-1]) != _NO_FOLDER:
                print(f"note: {drawn} out of train, because {errors[-1]}")
            return choice, reader
    raise errors[2]  # of the profile's own splits


def _fault_of_test(reader: "DatasetReader") -> str:
    """Return what is wrong with the first test sample if none that is tried is sound, else ""."""
    from seggen_core.errors import DatasetError

    keys = reader.keys("test")
    faults: list[str] = []
    for key in keys[:: max(1, len(keys) // _NUM_TRIED)][:_NUM_TRIED]:
        try:
            reader.read("test", key)
        except DatasetError as error:
            faults.append(str(error))
        else:
            return ""
    return faults[0]


def fitting_counts(
    wanted: Mapping[str, int],
    reader: "DatasetReader",
    *,
    dataset: "DatasetConfig",
    keep: set[str],
) -> dict[str, int | None]:
    """Return new values of the counts that the dataset is too small for; None takes all there is.

    Args:
        wanted: what the profile says.
        reader: of the dataset, opened without counts.
        dataset: the section that it was opened with.
        keep: counts that the user asked for.
    """
    from seggen_core.datasets.splits import VALIDATION_SHARE

    counts: dict[str, int | None] = {}
    train, val, test = (len(reader.keys(split)) for split in ("train", "val", "test"))
    if dataset.splits != "published":
        published = train if dataset.keep_val_in_train else train + val
        num_val = wanted.get("num_val", 0)
        if num_val > _LARGEST_VALIDATION_SHARE * published:
            num_val = counts["num_val"] = max(1, round(VALIDATION_SHARE * published))
            train = train if dataset.keep_val_in_train else published - num_val
        elif not dataset.keep_val_in_train:
            train = published - (num_val or val)
    elif wanted.get("num_val", 0) > val:
        counts["num_val"] = None
    if wanted.get("num_train", 0) > train:
        counts["num_train"] = None
    if wanted.get("num_test", 0) > test:
        counts["num_test"] = None
    if wanted.get("subset_size", 0) > (counts.get("num_train") or train):
        counts["subset_size"] = None
    return {key: value for key, value in counts.items() if key not in keep}


def _folder_splits(changes: Mapping[str, Any], *, base: Path) -> dict[str, Any]:
    """Return `splits` as the folders of the layout "folder" are there.

    Its own test split is the test split, if it has masks. Validation is taken out of training where
    there is none, and so is test where there is neither; a val without a test split is taken for
    test.
    """
    from seggen_core.config import DatasetConfig
    from seggen_core.datasets.folder import find_layout

    if "splits" in changes:
        return {"splits": changes["splits"]}
    known = {k: changes[k] for k in ("name", "root", "files") if k in changes}
    root = base / changes["root"]
    layout, _ = find_layout(DatasetConfig.model_validate(known), root=root)
    has_val, has_test = "val" in layout, "test" in layout
    files = changes.get("files") or {}
    if has_test and "test" not in files and not _holds_masks(root / str(layout["test"].masks)):
        has_test = False
        instead = "val" if has_val else "a part of train"
        print(
            f"note: {root / str(layout['test'].images)} has no masks and isn't read; {instead} is "
            "the test split"
        )
    if has_test:
        splits = "published" if has_val else "val_from_train"
    else:
        splits = "val_as_test" if has_val else "all_from_train"
    return {"splits": splits} | ({"files": files} if files else {})


def _holds_masks(folder: Path) -> bool:
    from seggen_core.datasets.files import MASK_SUFFIXES, list_files

    if not folder.is_dir():
        return False
    return bool(list_files(folder, kind="mask", suffixes=MASK_SUFFIXES, subfolders="keyed").names)
