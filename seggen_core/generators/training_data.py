"""What Text2Mask and Mask2Img are trained on: the real training split with its captions."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL.Image import Resampling

from seggen_core.colors.code import ColorCode
from seggen_core.config import ColorMapKind, RandomCrops
from seggen_core.datasets.fit import square_image, square_map
from seggen_core.errors import CaptionError
from seggen_core.project.artefacts import read_table
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.rng import numpy_rng
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy

_MAX_CACHED_BYTES = 2**30
"""Masks that a training holds in memory: on a GPU, decoding those of a step takes as long as the
step."""


class GeneratorTrainingData:
    """The real training split as generators read it: S samples, then random crops of each.

    Picture i is of sample ``i % S``. The first S pictures are the samples themselves.

    Attributes:
        store: images and masks of the samples.
        captions: one per picture, of N = S * (1 + crops a sample).
    """

    def __init__(
        self,
        store: SampleStore,
        captions: Sequence[str],
        *,
        taxonomy: Taxonomy,
        color_map: ColorMapKind,
        crops: RandomCrops | None = None,
        image_size: int | None = None,
        seed: int,
    ) -> None:
        """Join samples and captions.

        Args:
            store: S samples.
            captions: one per sample.
            taxonomy: the classes.
            color_map: what the colour maps show.
            crops: the random crops; None: none.
            image_size: side of the squares that pictures of any size are squashed to; None takes
                them as they are stored.
            seed: of the crops' places, which are named by (seed, key of the sample, index of the
                crop).

        Raises:
            ConfigError: colour maps can't show what `color_map` asks for.
        """
        self.store = store
        self._keys = store.keys()
        self._num_views = 1 + (crops.per_sample if crops else 0)
        self.captions = list(captions) * self._num_views
        self._code = ColorCode(taxonomy, kind=color_map)
        self._with_instances = color_map == "panoptic"
        self._crops, self._seed, self._size = crops, seed, image_size
        self._masks: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    def read_image(self, picture: int) -> np.ndarray:
        """Return picture i, uint8 [H, W, 3]; IndexError where there is none."""
        window = self._window(picture)
        image = self.store.read_image(picture % len(self._keys))
        image = _crop(image, window, resample=Resampling.LANCZOS)
        return image if self._size is None else square_image(image, self._size)

    def read_color_map(self, picture: int) -> np.ndarray:
        """Return the colour map of picture i, uint8 [H, W, 3]; IndexError where there is none."""
        if picture in self._masks:
            mask, instances = self._masks[picture]
            return self._code.encode(mask, instance_map=instances)
        window, position = self._window(picture), picture % len(self._keys)
        mask = _crop(self.store.read_mask(position), window, resample=Resampling.NEAREST)
        instances = self.store.read_instances(position) if self._with_instances else None
        if instances is not None:
            instances = _crop(instances, window, resample=Resampling.NEAREST)
        if self._size is not None:
            mask = square_map(mask, self._size)
            instances = None if instances is None else square_map(instances, self._size)
        num_bytes = mask.nbytes + (0 if instances is None else instances.nbytes)
        if num_bytes * len(self.captions) <= _MAX_CACHED_BYTES:
            self._masks[picture] = mask, instances
        return self._code.encode(mask, instance_map=instances)

    def _window(self, picture: int) -> tuple[float, float, float] | None:
        """Return top, left and side of a crop, in shares of the image; None for a whole image."""
        if not 0 <= picture < len(self.captions):
            raise IndexError(
                f"there is no picture {picture}: {len(self._keys)} samples, "
                f"{self._num_views - 1} crops of each"
            )
        view, position = divmod(picture, len(self._keys))
        if view == 0 or self._crops is None:
            return None
        side, top, left = numpy_rng(self._seed, "crop", self._keys[position], view).random(3)
        side = self._crops.min_side + (1 - self._crops.min_side) * side
        return top * (1 - side), left * (1 - side), side


def open_training_data(
    paths: ProjectPaths,
    *,
    color_map: ColorMapKind,
    image_size: int | None = None,
    crops: RandomCrops | None = None,
    seed: int,
) -> GeneratorTrainingData:
    """Open the training split and its captions; arguments as of `GeneratorTrainingData`.

    Raises:
        ArtefactError: the captions are damaged.
        CaptionError: a sample has no caption.
        ConfigError: colour maps can't show what `color_map` asks for.
    """
    store = SampleStore(paths.real("train"))
    table = read_table(paths.captions, text_columns=["sample_key", "caption"], stage="captions")
    caption_of = dict(zip(table["sample_key"], table["caption"], strict=True))
    missing = [key for key in store.keys() if key not in caption_of]  # noqa: SIM118 (not a dict)
    if missing:
        raise CaptionError(
            f"{len(missing)} training samples have no caption, e.g. {missing[0]} "
            "(run: dvc repro captions)"
        )
    return GeneratorTrainingData(
        store,
        [caption_of[key] for key in store.keys()],  # noqa: SIM118 (not a dict)
        taxonomy=Taxonomy.read(paths.taxonomy),
        color_map=color_map,
        crops=crops,
        image_size=image_size,
        seed=seed,
    )


def _crop(
    picture: np.ndarray, window: tuple[float, float, float] | None, *, resample: Resampling
) -> np.ndarray:
    """Enlarge a window of `picture` [H, W] or [H, W, 3] to its size; None leaves it as it is."""
    if window is None:
        return picture
    height, width = picture.shape[:2]
    top, left, side = window
    box = (left * width, top * height, (left + side) * width, (top + side) * height)
    return np.asarray(Image.fromarray(picture).resize((width, height), resample, box=box))
