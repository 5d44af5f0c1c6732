"""Small datasets with one thing changed at random are read or refused with a message.

Run it longer with SEGGEN_FUZZ=5000 pytest tests/datasets/test_fuzz.py.
"""

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seggen_core.config import DatasetConfig
from seggen_core.datasets.open import open_dataset
from seggen_core.datasets.reader import SPLITS
from seggen_core.errors import SegGenError
from tests.datasets.layouts import WRITERS

NUM_PARTS = 8
NUM_CHANGES = int(os.environ.get("SEGGEN_FUZZ", "160")) // NUM_PARTS
LONGEST_MESSAGE = 1000
VALUES: list[Any] = [
    *(None, True, -1, 0, 1.5, 1 << 70, -1 << 70, float("inf"), float("nan"), "9" * 5000),
    *("", "x", "\ud800", "a\0b", "../..", "/etc/passwd", [], {}, [[]], {"a": 1}, [1] * 7),
]


def places(tree: Any, place: tuple = ()) -> Iterator[tuple]:
    """Yield the keys and indexes that lead to each value of a JSON tree."""
    yield place
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield from places(tree[key], (*place, key))


def change_value(text: bytes, rng: random.Random) -> tuple[bytes, str]:
    tree = {"root": json.loads(text)}
    *above, last = rng.choice(list(places(tree))[1:])
    value = rng.choice(VALUES)
    parent: Any = tree
    for key in above:
        parent = parent[key]
    parent[last] = value
    return json.dumps(tree["root"]).encode(), f"{[*above, last]} = {value!r:.40}"


def change_bytes(data: bytes, rng: random.Random) -> tuple[bytes, str]:
    kind = rng.choice(["flip", "cut", "random"])
    if kind == "cut":
        return data[: rng.randrange(len(data))], kind
    if kind == "random":
        return rng.randbytes(rng.randrange(300)), kind
    flipped = bytearray(data)
    flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(flipped), kind


def messages(root: Path, section: dict[str, Any]) -> Iterator[str]:
    """Read everything; yield what is refused."""
    tree = {"root": root, "splits": "val_as_test", "num_val": 1} | section
    try:
        reader = open_dataset(DatasetConfig.model_validate(tree), seed=0)
    except SegGenError as error:
        yield str(error)
        return
    for split in SPLITS:
        for key in reader.keys(split):
            for read in (reader.read_header, reader.read):
                try:
                    read(split, key)
                except SegGenError as error:
                    yield str(error)


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_a_dataset_with_something_changed_is_read_or_refused(tmp_path: Path, part: int) -> None:
    rng = random.Random(part)
    num_messages = 0
    for i in range(NUM_CHANGES):
        name = rng.choice(list(WRITERS))
        root = tmp_path / str(i)
        root.mkdir()
        section = WRITERS[name](root)
        files = sorted(p for p in root.rglob("*") if p.is_file())
        texts = [p for p in files if p.suffix in (".json", ".csv", ".txt", ".xml", ".yaml")]
        path = rng.choice(texts if texts and rng.random() < 0.6 else files)
        is_value = path.suffix == ".json" and rng.random() < 0.7
        changed, what = (change_value if is_value else change_bytes)(path.read_bytes(), rng)
        path.write_bytes(changed)
        try:
            for message in messages(root, section):
                num_messages += 1
                assert len(message) < LONGEST_MESSAGE, message
        except Exception as error:
            error.add_note(f"{name}, {path.relative_to(root)}: {what}")
            raise
    assert num_messages > NUM_CHANGES / 4, "most changes do some damage"
