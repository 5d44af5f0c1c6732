"""`seggen init`: write params.yaml for a dataset from a profile."""

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from seggen_core.config import DatasetConfig, SegGenConfig
    from seggen_core.datasets.reader import DatasetReader
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write params.yaml for a dataset, from a profile"

_BORROWED = {"coco_stuff": "ade20k", "folder": "ade20k", "mapillary": "ade20k"}
"""The profile that a dataset starts from if no paper has settings for it."""
_COUNTS = ("num_train", "num_val", "num_test", "subset_size")
_LARGEST_VALIDATION_SHARE = 0.2
"""A profile's `num_val` is not taken over where it would take more of the training samples."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--dataset",
        required=True,
        help="name of the reader: ade20k, coco_panoptic, voc2012, folder, ...",
    )
    parser.add_argument("--root", type=Path, help="folder of the dataset on disk")
    parser.add_argument(
        "--profile",
        help="folder below profiles/ to start from (default: the dataset's own, else ade20k)",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        type=_parse_setting,
        metavar="KEY=VALUE",
        help="a key of the section dataset, its value in YAML; once for each: classes_file=my.csv, "
        "files.train.images=photos, splits=val_from_train, image_size=256",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace the parameter file that is there"
    )


def _parse_setting(text: str) -> tuple[list[str], Any]:
    from seggen_core.config.params_file import parse_params
    from seggen_core.errors import ConfigError

    key, mark, value = text.partition("=")
    if not mark or not re.fullmatch(r"\w{1,40}(\.\w{1,40}){0,4}", key, flags=re.ASCII):
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is not KEY=VALUE")
    try:
        return key.removeprefix("dataset.").split("."), parse_params(value, name=key)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Write the file that `--params` names, if the dataset can be opened with it.

    Raises:
        ConfigError: the file exists, there is no such dataset or profile, no root is given, or a
            setting is wrong.
        DatasetError: the dataset isn't laid out as its reader expects.
        StorageError: the file can't be written.
    """
    from seggen_core.datasets.reader import SPLITS
    from seggen_core.errors import ConfigError, DatasetError
    from seggen_core.project.storage import written_whole

    out: Path = arguments.params
    if out.exists() and not arguments.force:
        raise ConfigError(f"{out} exists; --force replaces it, --params names another file")
    if arguments.dataset != "scenes" and arguments.root is None:
        raise ConfigError(f"{arguments.dataset} is read from disk; give its folder as --root")
    profile = arguments.profile or _BORROWED.get(arguments.dataset, arguments.dataset)
    settings: dict[str, Any] = {"name": arguments.dataset}
    if arguments.root is not None:
        settings["root"] = settings["reads"] = _written_root(arguments.root, paths=paths)
    for keys, value in arguments.set:
        _merge(settings, keys, value)
    try:
        text, reader = _adapt(_profile_path(profile, paths=paths), settings, paths=paths)
    except DatasetError as error:
        raise DatasetError(
            f"{error}\nnothing was written; if the files are there under other names, say which: "
            "--set KEY=VALUE takes every key of the section dataset (docs/datasets.md)"
        ) from None
    with written_whole(out) as file:
        file.write_text(text, encoding="utf-8")
    counts = ", ".join(f"{split} {len(reader.keys(split))}" for split in SPLITS)
    print(
        f"{out}: {arguments.dataset} ({counts} samples, {len(reader.taxonomy)} classes) with the "
        f"profile {profile}"
    )
    print("next: seggen validate, seggen show, seggen plan; then: dvc repro ablation")
    return 0


def _profile_path(profile: str, *, paths: "ProjectPaths") -> Path:
    """Return the parameter file of a profile; ConfigError names the profiles if it has none."""
    from seggen_core.errors import ConfigError

    folder = paths.root / "profiles"
    path = folder / profile / "params.yaml"
    if not path.is_file():
        known = sorted(p.parent.name for p in folder.glob("*/params.yaml"))
        raise ConfigError(
            f"there is no profile {profile!r} in {folder}; it has: {', '.join(known) or 'none'} "
            f"(datasets without one of their own: {', '.join(sorted(_BORROWED))})"
        )
    return path


def _written_root(root: Path, *, paths: "ProjectPaths") -> str:
    """Return the root as params.yaml names it: relative to the project where it lies in it.

    Raises:
        ConfigError: it holds the project's results, so that DVC would watch what it makes itself.
    """
    from seggen_core.errors import ConfigError

    root = root.resolve()
    if paths.data.resolve().is_relative_to(root):
        raise ConfigError(
            f"{root} holds {paths.data}, where results go; expected a folder of the dataset alone"
        )
    base = paths.root.resolve()
    return (root.relative_to(base) if root.is_relative_to(base) else root).as_posix()


def _merge(tree: dict[str, Any], keys: list[str], value: Any) -> None:
    from seggen_core.errors import ConfigError

    for key in keys[:-1]:
        tree = tree.setdefault(key, {})
        if not isinstance(tree, dict):
            raise ConfigError(
                f"--set {'.'.join(keys)}: {key!r} has a value already and is no section; set one "
                "of the two"
            )
    tree[keys[-1]] = value


def _adapt(
    source: Path, settings: Mapping[str, Any], *, paths: "ProjectPaths"
) -> tuple[str, "DatasetReader"]:
    """Change a profile's text for a dataset, and open the dataset with it.

    Args:
        source: the profile's parameter file.
        settings: keys of the section `dataset`, the reader's name among them.
        paths: the project.

    Returns:
        The text, and the reader that it describes.
    """
    from seggen_core.config import load_config
    from seggen_core.config.params_file import parse_params, read_params_text
    from seggen_core.datasets.open import open_dataset

    profile = load_config(source)
    text = read_params_text(source)
    tree = parse_params(text, name=str(source))
    # Types first: what follows looks into the settings.
    _checked(tree | {"dataset": dict(settings)}, source=source)
    is_own = settings["name"] == profile.dataset.name and not _has_own_classes(
        tree, settings, source=source, paths=paths
    )
    if not is_own:
        text = _without_comments_on_the_dataset(
            text, name=settings["name"], profile=profile.profile
        )
        tree = parse_params(text, name=str(source))

    # 1. Where the files of the splits are, and which splits there are.
    changes = {} if is_own else _default_splits(settings, known=tree["dataset"], paths=paths)
    changes |= settings
    more, reader = _open_with_splits(tree, changes, settings, source=source, paths=paths)
    changes |= more
    section = tree["dataset"] | changes

    # 2. Counts of the profile that this dataset can't give.
    if settings["name"] != "scenes":
        wanted = {key: section[key] for key in _COUNTS if section.get(key) is not None}
        asked = {key for key in _COUNTS if key in settings}
        config = _checked(tree | {"dataset": section}, source=source)
        changes |= _fitting_counts(wanted, reader, dataset=config.dataset, keep=asked)

    # 3. The text: keys of the section one by one, so that all else stays as it is.
    for key, value in changes.items():
        if value != tree["dataset"].get(key):
            text = set_key(text, key, value, section="dataset")
    config = _checked(parse_params(text, name=str(source)), source=source)
    reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
    if is_own and set(config.classes) <= set(reader.taxonomy.slugs):
        return text, reader
    text = set_key(text, "classes", reader.taxonomy.slugs)
    _checked(parse_params(text, name=str(source)), source=source)
    return text, reader


def _default_splits(
    settings: Mapping[str, Any], *, known: Mapping[str, Any], paths: "ProjectPaths"
) -> dict[str, Any]:
    """Return how a dataset that borrows a profile is split, if the user does not say."""
    default: dict[str, Any] = dict.fromkeys({"keep_val_in_train", "use_sbd"} & known.keys(), False)
    if settings["name"] == "folder":
        return default | _folder_splits(settings, base=paths.root)
    return default | {"splits": "published" if settings["name"] == "scenes" else "val_as_test"}


def _checked(tree: Mapping[str, Any], *, source: Path) -> "SegGenConfig":
    from seggen_core.config.load import check_config

    return check_config(tree, name=f"{source} with what init sets in it")


def _open(
    tree: Mapping[str, Any], changes: Mapping[str, Any], *, source: Path, paths: "ProjectPaths"
) -> "DatasetReader":
    """Open the dataset of a profile with changed keys, without any count."""
    from seggen_core.datasets.open import open_dataset

    section = {k: v for k, v in (tree["dataset"] | changes).items() if k not in _COUNTS}
    if section["name"] == "scenes":  # drawn as asked for
        section = tree["dataset"] | changes
    config = _checked({**tree, "dataset": section}, source=source)
    return open_dataset(config.dataset, seed=config.seed, base=paths.root)


def _has_own_classes(
    tree: Mapping[str, Any], settings: Mapping[str, Any], *, source: Path, paths: "ProjectPaths"
) -> bool:
    """Whether the user's files list other classes than the dataset whose format they have."""
    from seggen_core.errors import SegGenError

    if settings["name"] not in ("coco_instance", "coco_panoptic"):
        return False
    train_alone = {"splits": "all_from_train", **settings}
    try:
        return _open(tree, train_alone, source=source, paths=paths).conventions.has_own_classes
    except SegGenError:  # it is said when the dataset is opened in earnest
        return False


def _open_with_splits(
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
    for choice in (
        {k: v for k, v in published.items() if k in known and k not in settings},
        {"splits": "val_from_train"},
        {},
        {"splits": "all_from_train"},
    ):
        try:
            reader = _open(tree, {**changes, **choice}, source=source, paths=paths)
            if choice.get("splits") in ("published", "val_from_train"):
                reader.read("test", reader.keys("test")[0])  # the test split may have no labels
        except DatasetError as error:
            errors.append(error)
        else:
            return choice, reader
    raise errors[2]  # of the profile's own splits


def _fitting_counts(
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
    """Return `splits`, and perhaps `files`, as the folders of the layout "folder" are there.

    Its own test split is the test split. Validation is taken out of training where there is none,
    and so is test where there is neither; a val without a test split is taken for test.
    """
    if "splits" in changes:
        return {"splits": changes["splits"]}
    root = base / changes["root"]
    files = changes.get("files") or {}

    def exists(split: str) -> bool:
        places = files.get(split) or {}
        return (root / (places.get("images") or f"images/{split}")).is_dir()

    has_val, has_test = exists("val"), exists("test")
    if not exists("train") and not has_val and not has_test and (root / "images").is_dir():
        files = files | {"train": {"images": "images", "masks": "masks"}}
    if has_test:
        splits = "published" if has_val else "val_from_train"
    else:
        splits = "val_as_test" if has_val else "all_from_train"
    return {"splits": splits} | ({"files": files} if files else {})


def _without_comments_on_the_dataset(text: str, *, name: str, profile: str) -> str:
    """Return a profile's text without the comments that are about its own dataset.

    They are those at the top and in the section `dataset`.
    """
    body = text[re.search(r"^\w", text, flags=re.MULTILINE).start() :]  # type: ignore[union-attr]
    block = re.search(r"^dataset:.*\n((?:[ \t].*\n|\n(?=[ \t]))*)", body, flags=re.MULTILINE)
    assert block is not None
    lines = [re.sub(r"\s+#.*$", "", line) for line in block[1].splitlines()]
    section = "".join(f"{line}\n" for line in lines if line.strip())
    head = (
        f"# A dataset read by {name!r}, with the models and schedules of the profile {profile!r}:\n"
        "# check sizes, steps and numbers of samples against yours (run: seggen plan).\n"
        "# Every key is documented in seggen_core/config/; an unknown or mistyped one is an "
        "error.\n"
    )
    return head + body[: block.start(1)] + section + body[block.end(1) :]


def set_key(text: str, key: str, value: Any, *, section: str | None = None) -> str:
    """Return YAML `text` with one key of a section (or of the top level) set.

    Everything else stays as it is, comments too.
    """
    line = f"{key}: {json.dumps(value, ensure_ascii=False)}"
    if section is None:
        changed, count = re.subn(
            rf"^{key}:.*\n(?:[ \t].*\n)*", lambda _: line + "\n", text, count=1, flags=re.MULTILINE
        )
        assert count == 1, key
        return changed
    block = re.search(rf"^{section}:.*\n((?:[ \t].*\n|\n(?=[ \t]))*)", text, flags=re.MULTILINE)
    assert block is not None, section
    body, count = re.subn(
        rf"^  {key}:.*$", lambda _: f"  {line}", block[1], count=1, flags=re.MULTILINE
    )
    if not count:
        body = f"  {line}\n{block[1]}"
    return text[: block.start(1)] + body + text[block.end(1) :]
