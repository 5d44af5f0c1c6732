"""The pairs of image and mask that segmenters train on, and a memory of the decoded ones."""

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seggen_core.segmentation.geometry import resize_nearest
from seggen_core.segmentation.labels import relabel
from seggen_core.segmentation.mixing import Slot
from seggen_core.segmentation.segment_labels import segment_labels
from seggen_core.store.reader import SampleStore

Arrays = tuple[np.ndarray, np.ndarray]
"""An image, uint8 [H, W, 3], and its labels, [H, W] (`segmentation.segment_labels`)."""

Read = tuple[Any, np.ndarray]
"""The same, or with the image as Pillow's."""

CACHE_BYTES = 2 * 1024**3
"""Decoded pairs that a `PairPool` keeps in memory."""


@dataclass(frozen=True, eq=False)
class Pair:
    """An image and its mask, not read yet."""

    image: tuple[SampleStore, str]
    """Its store, and its key there."""
    mask: tuple[SampleStore, str]
    """Its store, and its key there; not those of the image in the shuffled control."""
    table: np.ndarray | None = None
    """The label of each value of the stored mask, uint8 [256] (`labels.LabelSpace`); None keeps
    the values."""
    things: tuple[bool, ...] | None = None
    """Which classes are things, by train id, to read segment ids; None reads train ids."""

    def read(self, *, as_pictures: bool = False) -> Read:
        """Return image and mask; the mask of another sample takes the image's size.

        Args:
            as_pictures: return the image as Pillow's, which is resized without a copy.
        """
        (image_store, image_key), (mask_store, mask_key) = self.image, self.mask
        image: Any
        if as_pictures:
            image = image_store.open_image(image_key)
            size = image.height, image.width
        else:
            image = image_store.read_image(image_key)
            size = image.shape[:2]
        labels = relabel(mask_store.read_mask(mask_key), self.table)
        if self.things is not None:
            instances = mask_store.read_instances(mask_key)
            labels = segment_labels(labels, instances, things=self.things)
        return image, resize_nearest(labels, size)


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
        as_pictures: bool = False,
    ) -> None:
        """Take pairs; none is read yet. See `Pair.read`."""
        self._real, self._synthetic = real, synthetic
        self._decoded: dict[Pair, Read] = {}
        self._as_pictures = as_pictures
        self._lock = threading.Lock()
        self.cache_bytes = cache_bytes

    def read_real(self, keys: Iterable[str]) -> list[Read]:
        """Return images and masks of real samples."""
        return [self._read(self._real[key]) for key in keys]

    def read_synthetic(self, positions: Iterable[int]) -> list[Read]:
        """Return images and masks of synthetic samples."""
        return [self._read(self._synthetic[position]) for position in positions]

    def read_slots(self, slots: Iterable[Slot]) -> list[Read]:
        """Return images and masks of a step's slots."""
        return [self._read(self.pair(slot)) for slot in slots]

    def pair(self, slot: Slot) -> Pair:
        """Return what fills a slot."""
        if slot.synthetic is None:
            return self._real[slot.real_key]
        return self._synthetic[slot.synthetic]

    def _read(self, pair: Pair) -> Read:
        if pair in self._decoded:
            return self._decoded[pair]
        image, mask = pair.read(as_pictures=self._as_pictures)
        # Pillow keeps four bytes a pixel.
        size = (4 * mask.size if self._as_pictures else image.nbytes) + mask.nbytes
        with self._lock:
            if pair not in self._decoded and size <= self.cache_bytes:
                self.cache_bytes -= size
                self._decoded[pair] = image, mask
        return image, mask
