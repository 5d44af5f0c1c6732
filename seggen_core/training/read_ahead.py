"""Batches of a training, read by threads while the steps before them are computed."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def read_ahead(
    read: Callable[[int], T], *, steps: range, num_readers: int = 1
) -> Iterator[Iterator[T]]:
    """Give an iterator over ``read(step)`` for each of `steps`, in order, that is ahead of it.

    There are `num_readers` threads, each with one step in work or ready. A single thread never
    calls `read` twice at once, so what it reads from needs no lock. An error of `read` is raised
    where its step's value is asked for. When the block is left, for whatever reason, the threads
    finish the calls that they have begun, begin no other, and end.

        with read_ahead(read_batch, steps=range(first, num_steps)) as batches:
            for batch in batches:
                ...
    """
    readers = ThreadPoolExecutor(num_readers, thread_name_prefix="read-ahead")

    def results() -> Iterator[T]:
        waiting = iter(steps)
        begun: deque[Future[T]] = deque(
            readers.submit(read, step) for step in islice(waiting, num_readers)
        )
        while begun:
            result = begun.popleft().result()
            begun.extend(readers.submit(read, step) for step in islice(waiting, 1))
            yield result

    try:
        yield results()
    finally:
        readers.shutdown(wait=True, cancel_futures=True)
