"""The pairs of image and mask that segmenters train on, and a memory of the decoded ones."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from seggen_core.segmentation.mixing import Slot
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import IGNORE_INDEX

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

    def read(self) -> tuple[np.ndarray, np.ndarray]:
        """Return image uint8 [H, W, 3] and mask uint8 [H, W]."""
        (image_store, image_key), (mask_store, mask_key) = self.image, self.mask
        image, mask = image_store.read_image(image_key), mask_store.read_mask(mask_key)
        if self.hidden_ids:
            mask[np.isin(mask, self.hidden_ids)] = IGNORE_INDEX
        return image, mask


class PairPool:
    """The real pairs of an arm by key, and its synthetic ones by position.

    Decoded pairs stay in memory while they fit in `cache_bytes`; others are read again each time.
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
        self._decoded: dict[Pair, tuple[np.ndarray, np.ndarray]] = {}
        self._room = cache_bytes

    def read_real(self, keys: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        """Return images uint8 [N, H, W, 3] and masks uint8 [N, H, W] of real samples."""
        return self._read_all([self._real[key] for key in keys])

    def read_synthetic(self, positions: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
        """Return images uint8 [N, H, W, 3] and masks uint8 [N, H, W] of synthetic samples."""
        return self._read_all([self._synthetic[position] for position in positions])

    def read_slots(self, slots: Iterable[Slot]) -> tuple[np.ndarray, np.ndarray]:
        """Return images uint8 [B, H, W, 3] and masks uint8 [B, H, W] of a step's slots."""
        return self._read_all(
            [
                self._real[s.real_key] if s.synthetic is None else self._synthetic[s.synthetic]
                for s in slots
            ]
        )

    def _read_all(self, pairs: Sequence[Pair]) -> tuple[np.ndarray, np.ndarray]:
        decoded = [self._read(pair) for pair in pairs]
        return np.stack([image for image, _ in decoded]), np.stack([mask for _, mask in decoded])

    def _read(self, pair: Pair) -> tuple[np.ndarray, np.ndarray]:
        if pair in self._decoded:
            return self._decoded[pair]
        image, mask = pair.read()
        size = image.nbytes + mask.nbytes
        if size <= self._room:
            self._room -= size
            self._decoded[pair] = image, mask
        return image, mask
