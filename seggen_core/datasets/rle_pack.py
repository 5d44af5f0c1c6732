"""The run lengths of the package rle-pack (npm), in which Label Studio writes masks of its brush.

A stream of bits: 32 for the number of values, 5 for the bits of a value less 1, four times 4 for
the bits of a length less 1. Then blocks: 1 bit whether it is a run, 2 bits which of the four sizes
its length has, the length less 1, and one value (a run) or as many as the length says.
Source: the decoder in label-studio-sdk (`label_studio_sdk.converter.brush`)
"""

import numpy as np


def decode_rle_pack(data: bytes, *, count: int) -> np.ndarray:
    """Return the values, uint8 [count].

    Args:
        data: the stream.
        count: how many values there have to be; nothing larger is allocated.

    Raises:
        ValueError: the stream ends early, or has another number of values or of bits a value.
    """
    bits = _Bits(data)
    num_values, word_size = bits.read(32), bits.read(5) + 1
    if num_values != count or word_size != 8:
        raise ValueError(
            f"run lengths of {num_values} values of {word_size} bits; expected {count} of 8, four "
            "for each pixel"
        )
    sizes = [bits.read(4) + 1 for _ in range(4)]
    values = np.zeros(count, np.uint8)
    at = 0
    while at < count:
        is_run = bits.read(1)
        length = bits.read(sizes[bits.read(2)]) + 1
        if at + length > count:
            raise ValueError(f"run lengths go on behind {count} values")
        values[at : at + length] = bits.read(8) if is_run else bits.read_bytes(length)
        at += length
    return values


class _Bits:
    """Reads a stream of bits, the highest of each byte first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def read(self, count: int) -> int:
        """Return the next `count` bits, at most 32, as a number."""
        first, last = self._at // 8, (self._at + count + 7) // 8
        if last > len(self._data):
            raise ValueError("run lengths end early")
        window = int.from_bytes(self._data[first:last], "big")
        self._at += count
        return window >> (8 * last - self._at) & (1 << count) - 1

    def read_bytes(self, count: int) -> np.ndarray:
        """Return the next `count` bytes, which may start inside one; uint8 [count]."""
        first, shift = self._at // 8, self._at % 8
        last = first + count + (shift > 0)
        if last > len(self._data):
            raise ValueError("run lengths end early")
        window = np.frombuffer(self._data, np.uint8, last - first, first)
        self._at += 8 * count
        if not shift:
            return window
        return (window[:-1] << shift) | (window[1:] >> (8 - shift))
