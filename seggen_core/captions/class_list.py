"""Captions written from the mask, without a model."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from seggen_core.errors import CaptionError
from seggen_core.project.phrases import count_phrase, join_phrases
from seggen_core.scenes.layout import SCENES_TAXONOMY, compose_caption
from seggen_core.taxonomy import Taxonomy

if TYPE_CHECKING:
    from seggen_core.store.reader import SampleStore


class ClassListCaptioner:
    """Captions from the classes in the mask.

    An example is "a photo of a car and two trees on grass and road under sky". Things are counted
    by instance ids, or named once where the dataset has none; the largest come first. The embedded
    scenes get the grammar that their foundation was pretrained with. For other taxonomies stuff is
    listed after "with", because one doesn't stand on a building: "a photo of a car and two
    pedestrians with road, building and sky".
    """

    name = "class_list"
    revision = "1"
    """Version of the grammar; raised when a caption would read differently."""

    def __init__(self, taxonomy: Taxonomy, *, min_area_share: float) -> None:
        """Leave out what is small.

        Args:
            taxonomy: classes of the masks.
            min_area_share: instances, and classes without instances, that cover less of the image
                are left out.
        """
        self._taxonomy = taxonomy
        self._min_area_share = min_area_share

    def captions(self, store: "SampleStore", *, keys: Sequence[str]) -> Iterator[str]:
        """Yield one caption a key; CaptionError where a mask has no labelled pixel."""
        for key in keys:
            sample = store[key]
            try:
                yield self.describe(sample.segmentation_map, instance_map=sample.instance_map)
            except CaptionError as error:
                raise CaptionError(f"sample {key}: {error}") from None

    def describe(self, segmentation_map: np.ndarray, *, instance_map: np.ndarray | None) -> str:
        """Return the caption of one sample.

        Args:
            segmentation_map: uint8 [H, W], train ids or IGNORE_INDEX.
            instance_map: uint16 [H, W], 0 where there is no instance, or None.

        Raises:
            CaptionError: no pixel is labelled.
        """
        num_classes = len(self._taxonomy)
        area = np.bincount(segmentation_map.ravel(), minlength=256)[:num_classes]
        if not area.any():
            raise CaptionError(
                "no pixel is labelled, so there is nothing to describe (run: seggen validate)"
            )
        smallest = self._min_area_share * segmentation_map.size
        counts = (area >= smallest).astype(int)
        if instance_map is not None:
            for c in self._taxonomy:
                if c.is_thing:
                    sizes = np.bincount(instance_map[segmentation_map == c.train_id])[1:]
                    counts[c.train_id] = int((sizes >= max(smallest, 1)).sum())
        if not counts.any():
            counts[area.argmax()] = 1
        by_area = [self._taxonomy[int(i)] for i in np.argsort(-area, kind="stable") if counts[i]]
        things = {c.name: int(counts[c.train_id]) for c in by_area if c.is_thing}
        stuff = [c.name for c in by_area if not c.is_thing]
        if self._taxonomy == SCENES_TAXONOMY:
            return compose_caption(
                things=things, stuff=[c.name for c in SCENES_TAXONOMY if c.name in stuff]
            )
        if not things:
            return f"a photo of {join_phrases(stuff)}"
        text = "a photo of " + join_phrases(
            [count_phrase(name, count) for name, count in things.items()]
        )
        return f"{text} with {join_phrases(stuff)}" if stuff else text
