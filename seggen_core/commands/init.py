"""`seggen init`: write params.yaml for a dataset from a profile."""

import argparse
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seggen_core.commands.init_own import (
    OWN_DATA_READERS,
    gpu_memory,
    is_own_data,
    own_settings,
    pretrained_segmenter,
)
from seggen_core.commands.init_places import places_of_own_data, read_some, written_path
from seggen_core.commands.init_splits import (
    COUNTS,
    checked,
    default_splits,
    fitting_counts,
    has_own_classes,
    open_with_splits,
)
from seggen_core.commands.init_words import add_words_arguments, words_text

if TYPE_CHECKING:
    from seggen_core.datasets.reader import DatasetReader
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write params.yaml for a dataset, from a profile"

_BORROWED = {"coco_stuff": "ade20k", "mapillary": "ade20k"}
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
        help="folder below profiles/ to start from (default: the dataset's own; for your own data "
        "own on a GPU and own_cpu without one, fitted to the number of images)",
    )
    parser.add_argument("--images", type=Path, help="folder of your images; needs --masks")
    parser.add_argument("--masks", type=Path, help="folder of your masks, called as the images")
    add_words_arguments(parser)
    parser.add_argument(
        "--gpu-memory",
        type=_parse_gigabytes,
        metavar="GB",
        help="memory of the GPU to plan for, 0 for none (default: this machine's)",
    )
    parser.add_argument(
        "--segmenter",
        metavar="DIR_OR_REPO",
        help="pretrained Mask2Former to start from: a folder, a repository of the Hub, or none "
        "(default: a small one of the Hub, on a GPU)",
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
    from seggen_core.datasets.reader import SPLITS
    from seggen_core.errors import ConfigError, DatasetError
    from seggen_core.project.shipped import profile_file
    from seggen_core.project.storage import written_whole

    out: Path = arguments.params
    if out.exists() and not arguments.force:
        raise ConfigError(f"{out} exists; --force replaces it, --params names another file")
    if arguments.words is not None:
        return _write_words(arguments, paths=paths)
    try:
        settings = _settings(arguments, paths=paths)
        name = settings["name"]
        is_own = arguments.profile is None and is_own_data(settings, paths=paths)
        gpu_gb = _gpu_gb(arguments) if is_own else None
        profile = arguments.profile or _BORROWED.get(name, name)
        if is_own:
            profile = "own_cpu" if gpu_gb is None else "own"
        text, reader = _adapt(profile_file(profile, root=paths.root), settings, paths=paths)
        read_some(reader, settings=settings)
    except DatasetError as error:
        raise DatasetError(
            f"{error}\nnothing was written; --set KEY=VALUE takes every key of the section "
            "dataset, names of files and folders among them (docs/datasets.md)"
        ) from None
    about = ""
    if is_own:
        text, about = _fit_to_own(
            text, arguments, num_train=len(reader.keys("train")), gpu_gb=gpu_gb
        )
    with written_whole(out) as file:
        file.write_text(text, encoding="utf-8")
    counts = ", ".join(f"{split} {len(reader.keys(split))}" for split in SPLITS)
    print(
        f"{out}: {name} ({counts} samples, {len(reader.taxonomy)} classes) with the "
        f"profile {profile}"
    )
    if about:
        print(about)
    if "class_list" in settings:
        print(
            "classes are named by what the masks hold: correct the names in class_list and classes"
        )
    if is_own and reader.conventions.max_unlisted_share == 1 and not settings.get("background"):
        print("what no shape covers is ignored; --set background=background makes a class of it")
    _fit_pipeline(arguments, paths=paths, is_words=False)
    print("next: seggen validate, seggen show, seggen plan; then: dvc repro ablation")
    return 0


def _write_words(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Write the parameters of a list of words, and a dvc.yaml with the stages that it can run."""
    from seggen_core.config.overrides import set_value
    from seggen_core.project.storage import write_text_whole

    settings: dict[str, Any] = {}
    for keys, value in arguments.set:
        set_value(settings, keys, value)
    text, about = words_text(arguments, settings, paths=paths)
    write_text_whole(arguments.params, text)
    print(f"{arguments.params}: {about}")
    _fit_pipeline(arguments, paths=paths, is_words=True)
    print("next: seggen plan; then: dvc repro; then: seggen predict PHOTO --arm seediff")
    return 0


def _fit_pipeline(arguments: argparse.Namespace, *, paths: "ProjectPaths", is_words: bool) -> None:
    """Let dvc.yaml have the stages of the dataset, where DVC reads the written parameters."""
    from seggen_core.commands.pipeline_text import fit_pipeline

    if arguments.params.name == "params.yaml" and (
        said := fit_pipeline(paths.root, is_words=is_words)
    ):
        print(said)
    if not (paths.root / "dvc.yaml").is_file():
        print(
            f"note: {paths.root} has no dvc.yaml, which DVC needs; make a project, and run init "
            "--force there: seggen new my-project"
        )


def _settings(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> dict[str, Any]:
    """Return the keys of the section `dataset` that the options say.

    Raises:
        ConfigError: they don't go together, or don't say which data.
        DatasetError: a folder is laid out for no reader, or for several.
    """
    from seggen_core.config.overrides import set_value
    from seggen_core.datasets.recognise import recognise_dataset
    from seggen_core.errors import ConfigError

    if (arguments.images is None) != (arguments.masks is None):
        raise ConfigError("--images and --masks go together; give both folders")
    if arguments.images is not None:
        if arguments.root is not None or arguments.dataset not in (None, "folder"):
            raise ConfigError("--images and --masks say where the data are; leave --root out")
        settings, notes = places_of_own_data(
            arguments.images,
            arguments.masks,
            paths=paths,
            stated={keys[0] for keys, _ in arguments.set},
        )
        for note in notes:
            print(f"note: {note}")
        arguments.root = settings["root"]
    elif arguments.dataset is None and arguments.root is None:
        raise ConfigError(
            "nothing says which data; give their folder as --root, or --images and --masks, or "
            "--words, or --dataset scenes"
        )
    else:
        if arguments.dataset is None:
            arguments.dataset = recognise_dataset(arguments.root)
            print(f"{arguments.root} is laid out for the reader {arguments.dataset}")
        settings = {"name": _known(arguments.dataset)}
    if settings["name"] == "words":
        raise ConfigError("a list of words is read from a file; give it as --words FILE")
    if settings["name"] != "scenes" and arguments.root is None:
        raise ConfigError(f"{arguments.dataset} is read from disk; give its folder as --root")
    if arguments.root is not None:
        settings["root"] = settings["reads"] = _written_root(arguments.root, paths=paths)
    for keys, value in arguments.set:
        set_value(settings, keys, value)
    return settings


def _known(dataset: str) -> str:
    """Return the name of a reader; ConfigError names what there is."""
    from typing import get_args

    from seggen_core.config import DatasetConfig
    from seggen_core.errors import ConfigError

    known = get_args(DatasetConfig.model_fields["name"].annotation)
    if dataset not in known:
        close = get_close_matches(dataset, known, n=1)
        meant = f"did you mean {close[0]}? " if close else ""
        raise ConfigError(f"there is no reader {dataset!r}; {meant}there are: {', '.join(known)}")
    return dataset


def _gpu_gb(arguments: argparse.Namespace) -> float | None:
    """Return the memory of the GPU to plan for; None is no GPU."""
    if arguments.gpu_memory is None:
        return gpu_memory()
    return arguments.gpu_memory or None


def _parse_gigabytes(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 10_000:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is no number of gigabytes from 0 on")
    return value


def _fit_to_own(
    text: str, arguments: argparse.Namespace, *, num_train: int, gpu_gb: float | None
) -> tuple[str, str]:
    """Fit a profile's text to the number of images and the machine; return also a line on it."""
    from seggen_core.config.params_text import set_path
    from seggen_core.errors import ConfigError

    changes = own_settings(num_train, gpu_gb=gpu_gb)
    if gpu_gb is None and arguments.segmenter not in (None, "none"):
        raise ConfigError(
            "--segmenter names a Mask2Former, and without a GPU a small HRNet is trained from "
            "scratch; leave it out, or plan for a GPU by --gpu-memory GB"
        )
    about = "without a GPU: on photographs, a foundation this small lifts nothing (docs/results.md)"
    if gpu_gb is not None:
        segmenter, about = pretrained_segmenter(arguments.segmenter)
        changes |= segmenter
    for path, value in changes.items():
        text = set_path(text, path, value)
    return text, about


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
    return written_path(root, paths=paths)


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
    is_own = (
        settings["name"] == profile.dataset.name
        and settings["name"] not in OWN_DATA_READERS
        and not has_own_classes(tree, settings, source=source, paths=paths)
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
