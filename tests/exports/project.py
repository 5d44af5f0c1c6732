"""A project with real and synthetic stores of samples of many sizes, written without any model."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from seggen_core.colors.class_colors import colored_classes
from seggen_core.project.paths import ProjectPaths
from seggen_core.store.card import describe_classes, method_card
from seggen_core.store.reader import Sample, SampleStore, SampleStoreWriter
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

TAXONOMY = Taxonomy.from_names(stuff=["sky", "road"], things=["car", "dog: small"])
COLORS = np.array([[10, 20, 30], [40, 50, 60], [70, 80, 90], [200, 0, 7]], np.uint8)
LICENSE = "cc-by-4.0"
THINGS = (2, 3)


def make_sample(key: str, index: int, *, instances: bool = True, **metadata: Any) -> Sample:
    """A sample with a ring, an object in two parts, a crowd, a speck and ignored pixels.

    The map is cut to another size for each index, so objects may miss parts.
    """
    rng = np.random.default_rng(index)
    height, width = int(rng.integers(24, 40)), int(rng.integers(24, 50))
    mask = np.zeros((height, width), np.uint8)
    ids = np.zeros((height, width), np.uint16)
    mask[height // 2 :] = 1
    mask[:2] = IGNORE_INDEX
    for train_id, instance, rows, columns in (
        (2, 700, (4, 12), (3, 14)),  # a ring: see below
        (2, 1, (14, 18), (2, 6)),  # one object in two parts
        (2, 1, (14, 18), (9, 12)),
        (3, 65535, (5, 9), (16, 22)),
        (3, 2, (20, 21), (1, 2)),  # a single pixel
        (2, 0, (20, 23), (15, 22)),  # a crowd: a thing class, no instance
    ):
        place = slice(*rows), slice(*columns)
        mask[place], ids[place] = train_id, instance
    mask[6:9, 6:10], ids[6:9, 6:10] = 0, 0  # the hole of the ring
    mask[7, 7] = IGNORE_INDEX
    image = rng.integers(0, 256, (height, width, 3), np.uint8)
    return Sample(key, image, mask, ids if instances else None, metadata)


def write_store(
    folder: Path, samples: list[Sample], *, image_format: Any = "png", **about: Any
) -> Path:
    with SampleStoreWriter(folder, num_classes=len(TAXONOMY), image_format=image_format) as writer:
        for sample in samples:
            writer.add(sample)
        license_text = about.pop("license", LICENSE)
        classes = describe_classes(TAXONOMY, colors=COLORS, license_text=license_text)
        writer.finish(manifest=classes | about)
    return folder


def make_project(root: Path) -> ProjectPaths:
    """Real train (5), val (3), test (2); masksyn/car (4), masksyn/sky (0), seediff/car (3)."""
    paths = ProjectPaths(root)
    for split, count in (("train", 5), ("val", 3), ("test", 2)):
        samples = [make_sample(f"{split}-{i}", 10 * count + i) for i in range(count)]
        write_store(paths.real(split), samples, dataset="folder", split=split)
    paths.taxonomy.write_text(json.dumps(colored_classes(TAXONOMY, COLORS)))
    models = {"foundation": {"source": "some/model", "revision": "abc123"}}
    synthetic = [
        make_sample(
            f"train-{i}", 90 + i, prompt=f"a cär {i}", class_slug="car", quality={"score": i / 4}
        )
        for i in range(4)
    ]
    about = {"method": "masksyn", "models": models, "model_hashes": {"mask2img": "1234"}}
    write_store(paths.synthetic("masksyn", "car"), synthetic, class_slug="car", **about)
    write_store(paths.synthetic("masksyn", "sky"), [], class_slug="sky", **about)
    indices = [paths.synthetic("masksyn", c) / "index.parquet" for c in ("car", "sky")]
    manifest = SampleStore(paths.synthetic("masksyn", "sky")).manifest
    card = method_card(manifest, indices=[index.read_bytes() for index in indices])
    (paths.synthetic("masksyn") / "README.md").write_text(card)
    plain = [make_sample(f"seediff-car-{i}", 70 + i, instances=False) for i in range(3)]
    write_store(
        paths.synthetic("seediff", "car"),
        plain,
        method="seediff",
        class_slug="car",
        license=None,
        model_hash="5678",
    )
    return paths


def stored(paths: ProjectPaths, *folders: str) -> list[Sample]:
    """All samples of some stores, by folder below data ("real/train")."""
    return [sample for folder in folders for sample in SampleStore(paths.data / folder)]
