"""Batches of a training loop, made while the GPU is at work on the one before."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def read_ahead(make: Callable[[int], T], *, steps: range, device: torch.device) -> Iterator[T]:
    """Yield ``make(step)`` for each of `steps`, in order.

    For a GPU the next one is made by a thread meanwhile, a single one, so that calls of `make`
    never overlap. On a CPU there is nothing that could be waited for.
    """
    if device.type == "cpu":
        yield from map(make, steps)
        return
    with ThreadPoolExecutor(1) as reader:
        upcoming = reader.submit(make, steps.start) if steps else None
        for step in steps:
            assert upcoming is not None
            made = upcoming.result()
            if step + 1 < steps.stop:
                upcoming = reader.submit(make, step + 1)
            yield made
