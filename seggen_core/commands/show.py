"""`seggen show`: a contact sheet of real or synthetic samples."""

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from seggen_core.config import SegGenConfig
    from seggen_core.project.paths import ProjectPaths
    from seggen_core.reports.contact_sheet import SheetSample

SUMMARY = "draw samples with overlay and legend, as a PNG or HTML contact sheet"

_SPLITS = ("train", "val", "test")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "source",
        nargs="?",
        default="train",
        help="train, val or test of the dataset, or the folder of a sample store",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("samples.png"),
        help="the sheet, .png or .html (default: samples.png)",
    )
    parser.add_argument(
        "--num", type=int, default=8, help="samples, spread evenly over the source (default: 8)"
    )
    parser.add_argument("--keys", nargs="+", help="show these samples instead")


def run(arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths") -> int:
    """Draw and write the sheet.

    Raises:
        ConfigError: --out is neither PNG nor HTML, or --num isn't positive.
        DatasetError, SampleStoreError: there are no such samples, or one is bad.
        StorageError: --out can't be written.
    """
    from seggen_core.errors import ConfigError
    from seggen_core.project.storage import written_whole
    from seggen_core.reports.contact_sheet import draw_sheet, write_html

    suffix = arguments.out.suffix.lower()
    if suffix not in (".png", ".html"):
        raise ConfigError(f"--out is {arguments.out}; expected a name that ends in .png or .html")
    if arguments.num < 1:
        raise ConfigError(f"--num is {arguments.num}; expected at least 1")
    names, palette = _classes(arguments, config=config, paths=paths)
    samples = list(_samples(arguments, config=config, paths=paths))
    heading = f"{config.dataset.name}: {arguments.source}, {len(samples)} samples"
    if suffix == ".html":
        page = write_html(samples, class_names=names, palette=palette, heading=heading)
        with written_whole(arguments.out) as file:
            file.write_text(page, encoding="utf-8")
    else:
        sheet = draw_sheet(samples, class_names=names, palette=palette, heading=heading)
        with written_whole(arguments.out) as file:
            sheet.save(file, format="PNG")
    print(f"{len(samples)} samples in {arguments.out}")
    return 0


def _classes(
    arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths"
) -> tuple[list[str], "np.ndarray"]:
    """Return names and colours of the dataset's classes.

    If the dataset is not on this machine, a store is shown with taxonomy.json and `class_palette`.
    """
    from seggen_core.colors.palette import class_palette
    from seggen_core.datasets.open import open_dataset
    from seggen_core.errors import ConfigError, DatasetError
    from seggen_core.taxonomy import Taxonomy

    try:
        reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
    except (ConfigError, DatasetError):
        if arguments.source in _SPLITS or not paths.taxonomy.is_file():
            raise
        taxonomy = Taxonomy.read(paths.taxonomy)
        return [c.name for c in taxonomy], class_palette(len(taxonomy))
    return [c.name for c in reader.taxonomy], reader.palette


def _samples(
    arguments: argparse.Namespace, *, config: "SegGenConfig", paths: "ProjectPaths"
) -> Iterator["SheetSample"]:
    """Yield the samples to show, from the dataset's own files or from a store."""
    from seggen_core.datasets.open import open_dataset
    from seggen_core.errors import DatasetError
    from seggen_core.reports.contact_sheet import SheetSample
    from seggen_core.store.reader import SampleStore

    if arguments.source in _SPLITS:
        reader = open_dataset(config.dataset, seed=config.seed, base=paths.root)
        if config.dataset.name == "words":
            raise DatasetError(
                "a list of words has no real images to show; name the folder of a class partition: "
                f"seggen show data/synthetic/seediff/{config.classes[0]}"
            )
        for key in arguments.keys or _spread(reader.keys(arguments.source), arguments.num):
            raw = reader.read(arguments.source, key)
            height, width = raw.segmentation_map.shape
            yield SheetSample(
                f"{key}  ({width}x{height})", raw.image, raw.segmentation_map, raw.instance_map
            )
        return
    store = SampleStore(paths.root / arguments.source)
    for key in arguments.keys or _spread(store.keys(), arguments.num):
        sample = store[key]
        prompt = sample.metadata.get("prompt")
        title = key if prompt is None else f"{key}\n{prompt}"
        yield SheetSample(title, sample.image, sample.segmentation_map, sample.instance_map)


def _spread(keys: list[str], num: int) -> list[str]:
    """Return `num` keys at even distances, or all keys if there are fewer."""
    num = min(num, len(keys))
    return [keys[i * len(keys) // num] for i in range(num)]
