"""Ways to damage a file, for the campaigns."""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

DEEP = b"[" * 100_000
VALUES: tuple[Any, ...] = (None, True, -1, 1.5, "x", [], {}, [[]], {"a": 1}, 1 << 70, "\ud800")


def replace_by(content: bytes) -> Callable[[Path], None]:
    """Return what writes `content` in place of a file."""

    def damage(path: Path) -> None:
        path.unlink()
        path.write_bytes(content)

    return damage


def halve(path: Path) -> None:
    """Cut a file in the middle."""
    replace_by(path.read_bytes()[: path.stat().st_size // 2])(path)


def append_garbage(path: Path) -> None:
    """Add 100 bytes that mean nothing."""
    replace_by(path.read_bytes() + bytes(range(100, 200)))(path)


def make_fifo(path: Path) -> None:
    """Put a FIFO in place of a file: whoever opens it waits for a writer."""
    path.unlink()
    os.mkfifo(path)


def make_folder(path: Path) -> None:
    """Put a folder in place of a file."""
    path.unlink()
    path.mkdir()


def make_loop(path: Path) -> None:
    """Put a link to itself in place of a file."""
    path.unlink()
    path.symlink_to(path.name)


def link_to(target: str) -> Callable[[Path], None]:
    """Return what puts a link in place of a file."""

    def damage(path: Path) -> None:
        path.unlink()
        path.symlink_to(target)

    return damage


def flip_bit(rng: random.Random) -> Callable[[Path], None]:
    """Return what flips one bit of a file."""
    where, bit = rng.random(), 1 << rng.randrange(8)

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[int(where * len(data))] ^= bit
        replace_by(bytes(data))(path)

    return damage


def places(tree: Any, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the keys and indexes that lead to each value of a tree."""
    if isinstance(tree, dict | list):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            yield (*place, key)
            yield from places(tree[key], (*place, key))


def get(tree: Any, place: tuple[str | int, ...]) -> Any:
    """Return the value at a place."""
    for key in place:
        tree = tree[key]
    return tree


def change_json(rng: random.Random, *, value: Any) -> Callable[[Path], None]:
    """Return what puts `value` at a random place of a JSON file."""
    where = rng.random()

    def damage(path: Path) -> None:
        tree = json.loads(path.read_text(encoding="utf-8"))
        listed = list(places(tree))
        *above, last = listed[int(where * len(listed))]
        get(tree, tuple(above))[last] = value
        replace_by(json.dumps(tree).encode())(path)

    return damage


def drop_key(rng: random.Random) -> Callable[[Path], None]:
    """Return what removes a random key or element of a JSON file."""
    where = rng.random()

    def damage(path: Path) -> None:
        tree = json.loads(path.read_text(encoding="utf-8"))
        listed = list(places(tree))
        *above, last = listed[int(where * len(listed))]
        del get(tree, tuple(above))[last]
        replace_by(json.dumps(tree).encode())(path)

    return damage


FILES: dict[str, Callable[[Path], None]] = {
    "empty": replace_by(b""),
    "half": halve,
    "garbage": replace_by(bytes(range(256)) * 4),
    "NUL bytes": replace_by(bytes(300)),
    "a FIFO": make_fifo,
    "a folder": make_folder,
    "a link to itself": make_loop,
    "a link to /dev/zero": link_to("/dev/zero"),
    "missing": Path.unlink,
}
"""What may be in place of any file."""

JSON: dict[str, Callable[[Path], None]] = {
    "nested 100,000 deep": replace_by(DEEP),
    "garbage behind it": append_garbage,
    "a number of 5,000 digits": replace_by(b'{"a": ' + b"9" * 5000 + b"}"),
    "a number": replace_by(b"3"),
    "an empty list": replace_by(b"[]"),
    "an empty object": replace_by(b"{}"),
    "null": replace_by(b"null"),
    "not UTF-8": replace_by(b'{"a": "\xff"}'),
}
"""What may be in place of a JSON file."""
