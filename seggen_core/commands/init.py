"""`seggen init`: write params.yaml for a dataset from a profile."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seggen_core.commands.init_splits import (
    COUNTS,
    checked,
    default_splits,
    fitting_counts,
    has_own_classes,
    open_with_splits,
)

if TYPE_CHECKING:
    from seggen_core.datasets.reader import DatasetReader
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write params.yaml for a dataset, from a profile"

_BORROWED = dict.fromkeys(
    (
        "coco_stuff",
        "cvat",
        "folder",
        "huggingface",
        "label_studio",
        "labelme",
        "mapillary",
        "voc",
        "yolo",
    ),
    "ade20k",
)
"""The profile that a dataset starts from if no paper has settings for it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--dataset",
        help="name of the reader: ade20k, coco_panoptic, cvat, folder, ... (default: the one that "
        "--root is laid out for)",
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
    from seggen_core.config.overrides import parse_override
    from seggen_core.errors import ConfigError

    try:
        return parse_override(text.removeprefix("dataset."))
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
    from seggen_core.config.overrides import set_value
    from seggen_core.datasets.reader import SPLITS
    from seggen_core.datasets.recognise import recognise_dataset
    from seggen_core.errors import ConfigError, DatasetError
    from seggen_core.project.shipped import profile_file
    from seggen_core.project.storage import written_whole

    out: Path = arguments.params
    if out.exists() and not arguments.force:
        raise ConfigError(f"{out} exists; --force replaces it, --params names another file")
    if arguments.dataset is None and arguments.root is None:
        raise ConfigError(
            "nothing says which data; give their folder as --root, or --dataset scenes"
        )
    if arguments.dataset is None:
        arguments.dataset = recognise_dataset(arguments.root)
        print(f"{arguments.root} is laid out for the reader {arguments.dataset}")
    if arguments.dataset != "scenes" and arguments.root is None:
        raise ConfigError(f"{arguments.dataset} is read from disk; give its folder as --root")
    profile = arguments.profile or _BORROWED.get(arguments.dataset, arguments.dataset)
    settings: dict[str, Any] = {"name": arguments.dataset}
    if arguments.root is not None:
        settings["root"] = settings["reads"] = _written_root(arguments.root, paths=paths)
    for keys, value in arguments.set:
        set_value(settings, keys, value)
    try:
        text, reader = _adapt(profile_file(profile, root=paths.root), settings, paths=paths)
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
    from seggen_core.config.params_text import set_key, without_comments_on_the_dataset
    from seggen_core.datasets.open import open_dataset

    profile = load_config(source)
    text = read_params_text(source)
    tree = parse_params(text, name=str(source))
    # Types first: what follows looks into the settings.
    checked(tree | {"dataset": dict(settings)}, source=source)
    is_own = settings["name"] == profile.dataset.name and not has_own_classes(
        tree, settings, source=source, paths=paths
    )
    if not is_own:
        text = without_comments_on_the_dataset(text, name=settings["name"], profile=profile.profile)
        tree = parse_params(text, name=str(source))

    # 1. Where the files of the splits are, and which splits there are.
    changes = {} if is_own else default_splits(settings, known=tree["dataset"], paths=paths)
    changes |= settings
    more, reader = open_with_splits(tree, changes, settings, source=source, paths=paths)
    changes |= more
    section = tree["dataset"] | changes

    # 2. Counts of the profile that this dataset can't give.
    if settings["name"] != "scenes":
        wanted = {key: section[key] for key in COUNTS if section.get(key) is not None}
        asked = {key for key in COUNTS if key in settings}
        config = checked(tree | {"dataset": section}, source=source)
        changes |= fitting_counts(wanted, reader, dataset=config.dataset, keep=asked)

    # 3. The text: keys of the section one by one, so that all else stays as it is.
    for key, value in changes.items():
        if value != tree["dataset"].get(key):
            text = set_key(text, key, value, section="dataset")
    config = checked(parse_params(text, name=str(source)), source=source)
    reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
    if is_own and set(config.classes) <= set(reader.taxonomy.slugs):
        return text, reader
    text = set_key(text, "classes", reader.taxonomy.slugs)
    checked(parse_params(text, name=str(source)), source=source)
    return text, reader
