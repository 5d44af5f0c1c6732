"""Damaged datasets of all layouts: `seggen validate` has to say so, with one message each.

    python -m tools.fuzz_datasets [--count 260] [--seed 0]

The datasets are the tiny ones of the tests.
"""

import random
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tools.campaign import Campaign, Case, run_tool
from tools.damage import FILES, JSON, VALUES, change_json, drop_key, flip_bit

if TYPE_CHECKING:
    from collections.abc import Callable

    from seggen_core.config import DatasetConfig

ROOT = Path(__file__).parent.parent
TABLES = (".json", ".csv", ".txt", ".xml", ".yaml", ".parquet")


def make_campaign(count: int, rng: random.Random) -> Campaign:
    """Return `count` cases, shared out over the layouts and their files at random."""
    from tests.datasets.layouts import WRITERS

    cases = []
    for index in range(count):
        layout = sorted(WRITERS)[index % len(WRITERS)]
        cases.append(_case(layout, index, rng))
    return Campaign(
        title="datasets (validate)",
        prepare=_prepare,
        command=("validate",),
        cases=cases,
        imports=(
            "seggen_core.datasets.open",
            "seggen_core.commands.validate",
            "PIL.PngImagePlugin",
        ),
        seconds=60,
        megabytes=1024,
        report="problem: ",
    )


def _case(layout: str, index: int, rng: random.Random) -> Case:
    """Return a case: any file of a layout, damaged in any way that fits its kind."""
    where, is_table = rng.random(), rng.random() < 0.6
    value = rng.choice(VALUES)
    by_suffix: dict[str, dict[str, Callable[[Path], object]]] = {
        ".json": {
            **FILES,
            **JSON,
            "a key less": drop_key(rng),
            "a bit": flip_bit(rng),
            f"{value!r} somewhere": change_json(rng, value=value),
        },
        "": {**FILES, "a bit": flip_bit(rng)},
    }
    choices = {suffix: rng.choice(sorted(kinds)) for suffix, kinds in by_suffix.items()}

    def damage(folder: Path) -> None:
        _choose(folder, layout)
        files = sorted(p for p in (folder / layout).rglob("*") if p.is_file())
        tables = [p for p in files if p.suffix in TABLES]
        files = tables if tables and is_table else files
        file = files[int(where * len(files))]
        suffix = ".json" if file.suffix == ".json" else ""
        by_suffix[suffix][choices[suffix]](file)
        (folder / "damaged").write_text(f"{file.relative_to(folder)}: {choices[suffix]}")

    # Not every file is read, and a changed value may be as good as the one before.
    return Case(f"{index} {layout}", damage, False)


def _choose(folder: Path, layout: str) -> None:
    """Let the project read one layout."""
    (folder / f"{layout}.yaml").replace(folder / "params.yaml")
    for other in folder.iterdir():
        if other.is_dir() and other.name not in (layout, "profiles"):
            shutil.rmtree(other)


def _prepare(folder: Path) -> None:
    """Write every layout, and a params.yaml for each."""
    from seggen_core.config import DatasetConfig
    from tests.datasets.layouts import WRITERS

    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    for layout, write in sorted(WRITERS.items()):
        (folder / layout).mkdir()
        section: dict[str, Any] = write(folder / layout)
        tree = yaml.safe_load(text)
        tree["runtime"] = {"tracking_uri": "disk"}
        tree["dataset"] = {
            "root": layout,
            "reads": layout,
            "splits": "val_as_test",
            "num_val": 1,
            "image_size": 16,
        } | section
        tree["classes"] = _classes(DatasetConfig.model_validate(tree["dataset"]), base=folder)
        (folder / f"{layout}.yaml").write_text(yaml.safe_dump(tree), encoding="utf-8")


def _classes(dataset: "DatasetConfig", *, base: Path) -> list[str]:
    """Return the slugs of the classes that a layout's training samples show."""
    import numpy as np

    from seggen_core.datasets.open import open_dataset

    reader = open_dataset(dataset, seed=0, base=base)
    samples = [reader.read("train", key) for key in reader.keys("train")]
    shown = np.unique(np.concatenate([s.segmentation_map.ravel() for s in samples]))
    return [slug for i, slug in enumerate(reader.taxonomy.slugs) if i in shown]


if __name__ == "__main__":
    sys.exit(run_tool(make_campaign, about=str(__doc__), count=260, argv=sys.argv[1:]))
