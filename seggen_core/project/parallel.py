"""Runs a function on many samples in threads, in order, with few samples in memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ordered_map(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int
) -> Iterator[Result]:
    """Yield ``function(item)`` in the items' order, computing at most 2 * `num_threads` ahead.

    Threads are enough, because decoding of pictures releases Python's lock. With one thread, no
    pool is started.
    """
    if num_threads == 1:
        yield from map(function, items)
        return
    remaining = iter(items)
    with ThreadPoolExecutor(num_threads) as pool:
        ahead: deque[Future[Result]] = deque(
            pool.submit(function, item) for item in islice(remaining, 2 * num_threads)
        )
        try:
            while ahead:
                result = ahead.popleft().result()
                ahead.extend(pool.submit(function, item) for item in islice(remaining, 1))
                yield result
        finally:
            for future in ahead:
                future.cancel()
