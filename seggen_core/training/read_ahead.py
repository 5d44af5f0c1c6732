"""Batches of a training, read by a thread while the step before them is computed."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def read_ahead(read: Callable[[int], T], *, steps: range) -> Iterator[Iterator[T]]:
    """Give an iterator over ``read(step)`` for each of `steps`, in order, that is one step ahead.

    A single thread calls `read`, so its calls never overlap and what it reads from needs no lock.
    An error of `read` is raised where its step's value is asked for. When the block is left, for
    whatever reason, the thread finishes a call that it has begun, begins no other, and ends.

        with read_ahead(read_batch, steps=range(first, num_steps)) as batches:
            for batch in batches:
                ...
    """
    reader = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

    def results() -> Iterator[T]:
        upcoming = reader.submit(read, steps[0]) if steps else None
        for position in range(len(steps)):
            assert upcoming is not None
            result = upcoming.result()
            if position + 1 < len(steps):
                upcoming = reader.submit(read, steps[position + 1])
            yield result

    try:
        yield results()
    finally:
        reader.shutdown(wait=True, cancel_futures=True)
