"""Random streams that depend on their names, never on the order of work.

A stream is named by a path of strings and integers, for example ``(seed, "masksyn", "car",
"train-00012", 3)``. The same name gives the same numbers for every batch size, order of
work, process and resume point.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def derive_seed(*name: str | int) -> int:
    """Return the 63-bit seed of the stream called `name`.

    It comes from the first 8 bytes of a BLAKE2b hash, which is unambiguous over the parts.
    """
    assert all(type(part) in (str, int) for part in name), (
        f"plain str and int only, since 1 and np.int64(1) hash apart: {name}"
    )
    digest = hashlib.blake2b(digest_size=8)
    for part in name:
        token = f"{type(part).__name__}:{part}".encode()
        digest.update(len(token).to_bytes(4, "big") + token)
    return int.from_bytes(digest.digest(), "big") >> 1


def numpy_rng(*name: str | int) -> np.random.Generator:
    """Return a NumPy generator (PCG64) for the stream called `name`."""
    return np.random.default_rng(derive_seed(*name))


def torch_generator(*name: str | int) -> "torch.Generator":
    """Return a CPU ``torch.Generator`` for the stream called `name`.

    Noise is always drawn on the CPU and then moved, so a sample does not depend on the device.
    """
    import torch

    return torch.Generator(device="cpu").manual_seed(derive_seed(*name))


@contextmanager
def seeded_torch(*name: str | int) -> Iterator[None]:
    """Let torch's global generator be the stream called `name` in the block: initial weights.

    Modules draw their weights from it, on the CPU. Afterwards it goes on as if nothing had been
    drawn.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(*name))
        yield
