"""`seggen init`: write params.yaml for a dataset from a profile."""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from seggen_core.project.paths import ProjectPaths

SUMMARY = "write params.yaml for a dataset, from a profile"

_BORROWED = {"coco_stuff": "ade20k", "folder": "ade20k", "mapillary": "ade20k"}
"""Whose profile datasets start from that no paper has settings for."""


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
    """Write the file that `--params` names, once the dataset could be opened with it.

    Raises:
        ConfigError: the file exists, there is no such dataset or profile, or no root is given.
        DatasetError: the dataset isn't laid out as its reader expects.
    """
    import yaml

    from seggen_core.config import SegGenConfig, load_config
    from seggen_core.datasets.open import open_dataset
    from seggen_core.datasets.reader import SPLITS
    from seggen_core.errors import ConfigError

    # 1. From which profile, to where.
    out: Path = arguments.params
    if out.exists() and not arguments.force:
        raise ConfigError(f"{out} exists; --force replaces it, --params names another file")
    profile = arguments.profile or _BORROWED.get(arguments.dataset, arguments.dataset)
    source = paths.root / "profiles" / profile / "params.yaml"
    if not source.is_file():
        known = sorted(p.parent.name for p in (paths.root / "profiles").glob("*/params.yaml"))
        raise ConfigError(
            f"there is no profile {profile!r} in {paths.root / 'profiles'}; it has: {', '.join(known) or 'none'} "
            f"(datasets without one of their own: {', '.join(sorted(_BORROWED))})"
        )
    published = load_config(source)
    if arguments.dataset != "scenes" and arguments.root is None:
        raise ConfigError(f"{arguments.dataset} is read from disk; give its folder as --root")

    # 2. What differs.
    text = source.read_text(encoding="utf-8")
    if arguments.root is not None:
        root = arguments.root.resolve()
        inside = root.is_relative_to(paths.root)
        text = set_key(
            text,
            "root",
            (root.relative_to(paths.root) if inside else root).as_posix(),
            section="dataset",
        )
    if arguments.dataset != published.dataset.name:
        text = set_key(text, "name", arguments.dataset, section="dataset")

    # 3. Only a file that works is written.
    tree = yaml.safe_load(text)
    config = SegGenConfig.model_validate(tree)
    reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
    if arguments.dataset != published.dataset.name:
        text = set_key(text, "classes", reader.taxonomy.slugs)
        config = SegGenConfig.model_validate(yaml.safe_load(text))
    for slug in config.classes:
        reader.taxonomy.by_slug(slug)
    unfinished = out.with_name(out.name + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(out)
    counts = ", ".join(f"{split} {len(reader.keys(split))}" for split in SPLITS)
    print(
        f"{out}: {arguments.dataset} ({counts} samples, {len(reader.taxonomy)} classes) with the profile {profile}"
    )
    print("next: seggen validate, seggen show, seggen plan; then: dvc repro ablation")
    return 0


def set_key(text: str, key: str, value: str | list[str], *, section: str | None = None) -> str:
    """Return YAML `text` with one key of a section (or of the top level) set, and everything else as it was, comments too."""
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
