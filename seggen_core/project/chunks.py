"""Batches of one size."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def padded_chunks(items: Sequence[T], size: int) -> Iterator[tuple[list[T], int]]:
    """Yield (chunk of `size` items, number of items that are no padding).

    Copies of the last item fill up the last chunk.
    """
    for start in range(0, len(items), size):
        chunk = list(items[start : start + size])
        real = len(chunk)
        yield chunk + [chunk[-1]] * (size - real), real
