"""`seggen init`: write params.yaml for a dataset from a profile."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.datasets.reader import DatasetReader
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write params.yaml for a dataset, from a profile"

_BORROWED = {"coco_stuff": "ade20k", "folder": "ade20k", "mapillary": "ade20k"}
"""The profile that a dataset starts from if no paper has settings for it."""


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
        "--force", action="store_true", help="replace the parameter file that is there"
    )


def run(arguments: argparse.Namespace, *, paths: "ProjectPaths") -> int:
    """Write the file that `--params` names, if the dataset can be opened with it.

    Raises:
        ConfigError: the file exists, there is no such dataset or profile, or no root is given.
        DatasetError: the dataset isn't laid out as its reader expects.
    """
    from seggen_core.datasets.reader import SPLITS
    from seggen_core.errors import ConfigError

    out: Path = arguments.params
    if out.exists() and not arguments.force:
        raise ConfigError(f"{out} exists; --force replaces it, --params names another file")
    if arguments.dataset != "scenes" and arguments.root is None:
        raise ConfigError(f"{arguments.dataset} is read from disk; give its folder as --root")
    profile = arguments.profile or _BORROWED.get(arguments.dataset, arguments.dataset)
    text, reader = _adapt(
        _profile_path(profile, paths=paths),
        dataset=arguments.dataset,
        dataset_root=arguments.root,
        paths=paths,
    )
    unfinished = out.with_name(out.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(out)
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


def _adapt(
    source: Path, *, dataset: str, dataset_root: Path | None, paths: "ProjectPaths"
) -> tuple[str, "DatasetReader"]:
    """Change a profile's text for a dataset, and open the dataset with it.

    Args:
        source: the profile's parameter file.
        dataset: name of the reader; its classes are listed if it isn't the profile's.
        dataset_root: folder of the dataset; below the project, it is written relative to it.
        paths: the project.

    Returns:
        The text, and the reader that it describes.
    """
    import yaml

    from seggen_core.config import SegGenConfig, load_config
    from seggen_core.datasets.open import open_dataset, open_project_dataset

    profile = load_config(source)
    text = source.read_text(encoding="utf-8")
    if dataset_root is not None:
        root = dataset_root.resolve()
        if root.is_relative_to(paths.root):
            root = root.relative_to(paths.root)
        text = set_key(text, "root", root.as_posix(), section="dataset")
    if dataset == profile.dataset.name:
        config = SegGenConfig.model_validate(yaml.safe_load(text))
        return text, open_project_dataset(config, base=paths.root)
    text = set_key(text, "name", dataset, section="dataset")
    config = SegGenConfig.model_validate(yaml.safe_load(text))
    reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
    text = set_key(text, "classes", reader.taxonomy.slugs)
    SegGenConfig.model_validate(yaml.safe_load(text))
    return text, reader


def set_key(text: str, key: str, value: str | list[str], *, section: str | None = None) -> str:
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
