"""The pairs of image and mask that segmenters train on, and a memory of the decoded ones."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seggen_core.segmentation.geometry import resize_nearest
from seggen_core.segmentation.mixing import Slot
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX

Arrays = tuple[np.ndarray, np.ndarray]
"""An image, uint8 [H, W, 3], and its mask, uint8 [H, W]."""

CACHE_BYTES = 2 * 1024**3
"""Decoded pairs that a `PairPool` keeps in memory."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its mask, not read yet.

    Attributes:
        image, mask: the store of each, and its key there. They differ in the shuffled control.
        hidden_ids: train ids that are read as IGNORE_INDEX.
    """

    image: tuple[SampleStore, str]
    mask: tuple[SampleStore, str]
    hidden_ids: tuple[int, ...] = ()

    def read(self) -> Arrays:
        """Return image and mask; the mask of another sample takes the image's size."""
        (image_store, image_key), (mask_store, mask_key) = self.image, self.mask
        image, mask = image_store.read_image(image_key), mask_store.read_mask(mask_key)
        mask = resize_nearest(mask, image.shape[:2])
        if self.hidden_ids:
            mask = np.where(np.isin(mask, self.hidden_ids), np.uint8(IGNORE_INDEX), mask)
        return image, mask


class PairPool:
    """The real pairs of an arm by key, and its synthetic ones by position.

    Decoded pairs stay in memory while they fit in `cache_bytes`; others are read again each time.
    Several threads may read at once.

    Attributes:
        cache_bytes: what is left for further pairs.
    """

    def __init__(
        self,
        *,
        real: Mapping[str, Pair],
        synthetic: Sequence[Pair] = (),
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        """Take pairs; none is read yet."""
        self._real, self._synthetic = real, synthetic
        self._decoded: dict[Pair, Arrays] = {}
        self._lock = threading.Lock()
        self.cache_bytes = cache_bytes

    def read_real(self, keys: Iterable[str]) -> list[Arrays]:
        """Return images and masks of real samples."""
        return [self._read(self._real[key]) for key in keys]

    def read_synthetic(self, positions: Iterable[int]) -> list[Arrays]:
        """Return images and masks of synthetic samples."""
        return [self._read(self._synthetic[position]) for position in positions]

    def read_slots(self, slots: Iterable[Slot]) -> list[Arrays]:
        """Return images and masks of a step's slots."""
        return [
            self._read(
                self._real[s.real_key] if s.synthetic is None else self._synthetic[s.synthetic]
            )
            for s in slots
        ]

    def _read(self, pair: Pair) -> Arrays:
        if pair in self._decoded:
            return self._decoded[pair]
        image, mask = pair.read()
        size = image.nbytes + mask.nbytes
        with self._lock:
            if pair not in self._decoded and size <= self.cache_bytes:
                self.cache_bytes -= size
                self._decoded[pair] = image, mask
        return image, mask
