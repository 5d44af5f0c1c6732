"""The interface of a real dataset.

A reader lists every sample that has an image or a mask, and `read` either returns a sound sample or
raises DatasetError saying what is wrong with it. So no sample is left out in silence: whoever goes
through `keys` meets every bad one. `datasets.open.open_dataset` returns the reader of a dataset.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from seggen_core.config import Split
from seggen_core.datasets.sample import RawSample
from seggen_core.taxonomy import Taxonomy

SPLITS: tuple[Split, ...] = ("train", "val", "test")

MAX_UNLISTED_SHARE = 0.25
"""The largest share of a split's pixels that a published format may leave unlabelled.

CamVid's train split leaves 3.9%, its val split 1.7% (32% in one image); three images of ADE20K
leave 1 to 9%, two of COCO panoptic 1 and 3%; VOC's outlines cover about 5 to 6%.
"""


@dataclass(frozen=True)
class Conventions:
    """What a reader takes for granted because nothing in the user's files says it.

    Attributes:
        max_unlisted_share: the largest share of a split's pixels that may be ignored by a
            convention alone, 0 to 1; above it, another convention is likely.
            `dataset.max_unlisted_share` replaces it.
        unlisted: which pixels these are, and how the user says what they are; a sentence.
        has_own_classes: the user lists the classes, so that each should occur.
    """

    max_unlisted_share: float = MAX_UNLISTED_SHARE
    unlisted: str = (
        "If the masks are as published, set dataset.max_unlisted_share to allow it; masks in "
        "another encoding are read by dataset.name folder, with a class list."
    )
    has_own_classes: bool = False


PUBLISHED = Conventions()
"""Those of masks that lie as a dataset published them."""


class DatasetReader(Protocol):
    """A real dataset with three splits. Readers can be pickled and shared by threads.

    They hold names, never pixels.
    """

    @property
    def taxonomy(self) -> Taxonomy:
        """The classes that segmentation maps are in."""

    @property
    def palette(self) -> np.ndarray:
        """Colours of the classes in pictures, uint8 [num_classes, 3]: the dataset's, if any."""

    @property
    def conventions(self) -> Conventions:
        """What is taken for granted about the files."""

    @property
    def notes(self) -> list[str]:
        """Facts about the files as a whole: samples that are no part of the task, for example."""

    @property
    def drawn_splits(self) -> frozenset[Split]:
        """The splits whose samples are taken out of train."""

    def keys(self, split: Split) -> list[str]:
        """Return the keys of `split` in a fixed order, those of bad samples among them."""

    def read(self, split: Split, key: str) -> RawSample:
        """Return one sample.

        Raises:
            DatasetError: a part is missing, can't be decoded, or holds something invalid.
        """

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Return one sample's (width, height) without decoding pixels.

        Raises:
            DatasetError: what names, links and headers show to be wrong.
        """
