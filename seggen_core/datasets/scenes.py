"""The embedded dataset: procedural scenes, drawn when they are read.

Scene `index` of a split comes from the random stream (seed, "scenes", split, index). The
foundation's pretraining stream has another name, so it never draws a scene of any split
(`scenes.stream`).
"""

import numpy as np

from seggen_core.colors.palette import class_palette
from seggen_core.config import DatasetConfig, Split
from seggen_core.datasets.reader import Conventions
from seggen_core.datasets.sample import RawSample
from seggen_core.errors import ConfigError, DatasetError
from seggen_core.project.rng import numpy_rng
from seggen_core.scenes.layout import SCENES_TAXONOMY, sample_layout
from seggen_core.scenes.painter import paint
from seggen_core.taxonomy import Taxonomy


class ScenesReader:
    """Scenes of several objects, at `image_size` pixels, with instances and a description."""

    def __init__(self, config: DatasetConfig, *, seed: int) -> None:
        """Check the sizes of the splits.

        Raises:
            ConfigError: a split has no size, or settings of a dataset on disk are given.
        """
        counts = {"train": config.num_train, "val": config.num_val, "test": config.num_test}
        missing = [f"dataset.num_{split}" for split, count in counts.items() if count is None]
        if missing:
            raise ConfigError(
                f"{', '.join(missing)} not set; scenes are endless, so each split needs a number "
                "of samples"
            )
        if config.root is not None:
            raise ConfigError(
                f"dataset.root is {str(config.root)!r}, but scenes are procedural and read from no "
                "folder; remove it"
            )
        if config.splits != "published":
            raise ConfigError(
                f"dataset.splits is {config.splits!r}, but scenes have three splits of their own; "
                "remove it"
            )
        self._counts: dict[str, int] = {
            split: count for split, count in counts.items() if count is not None
        }
        self._size = config.image_size
        self._seed = seed

    @property
    def taxonomy(self) -> Taxonomy:
        """Sky, grass, road, car, bus, tree, house, person."""
        return SCENES_TAXONOMY

    @property
    def drawn_splits(self) -> frozenset[Split]:
        """None: each split has a stream of its own."""
        return frozenset()

    @property
    def palette(self) -> np.ndarray:
        """Colours as the generators have them, uint8 [8, 3]."""
        return class_palette(len(SCENES_TAXONOMY))

    @property
    def conventions(self) -> Conventions:
        """None: every pixel has a class."""
        return Conventions(max_unlisted_share=0.0)

    @property
    def notes(self) -> list[str]:
        """Nothing."""
        return []

    def keys(self, split: Split) -> list[str]:
        """Return "00000", "00001", ..."""
        return [f"{i:05d}" for i in range(self._counts[split])]

    def read(self, split: Split, key: str) -> RawSample:
        """Draw and paint one scene; its metadata holds the layout and the light."""
        self._check(split, key)
        layout = sample_layout(numpy_rng(self._seed, "scenes", split, int(key)))
        painted = paint(layout, size=self._size)
        return RawSample(
            image=painted.image,
            segmentation_map=painted.segmentation_map,
            instance_map=painted.instance_map.astype("uint16"),
            metadata={"layout": layout.to_json(), "light": layout.light},
        )

    def read_header(self, split: Split, key: str) -> tuple[int, int]:
        """Return (image_size, image_size)."""
        self._check(split, key)
        return self._size, self._size

    def _check(self, split: Split, key: str) -> None:
        if not key.isdecimal() or int(key) >= self._counts[split]:
            raise DatasetError(
                f"scenes has no {split} sample {key!r}; expected 00000 to "
                f"{self._counts[split] - 1:05d}"
            )
