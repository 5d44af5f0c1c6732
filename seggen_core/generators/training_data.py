"""What Text2Mask and Mask2Img are trained on: the real training split with its captions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from PIL import Image
from PIL.Image import Resampling

from seggen_core.colors.code import ColorCode
from seggen_core.config import ColorMapKind, DiffusionTrainingConfig, RandomCrops, SegGenConfig
from seggen_core.errors import CaptionError
from seggen_core.project.digests import content_digest, json_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.rng import numpy_rng
from seggen_core.store.reader import SampleStore
from seggen_core.taxonomy import Taxonomy

_MAX_KEPT_BYTES = 2**30
"""Of masks that a training holds in memory: on a GPU, decoding the masks of a step takes as long as the step."""


@dataclass(frozen=True)
class GeneratorTrainingData:
    """The real training split as the generators read it: S samples, and after them random crops of each.

    Attributes:
        store: images and masks of the samples themselves.
        captions: one per picture, of N = S * (1 + crops a sample); picture i is of sample i % S.
        taxonomy: the classes.
        read_image: picture i, uint8 [H, W, 3]; the first S are the samples' own images. IndexError
            where there is none.
        read_color_map: its colour map, uint8 [H, W, 3].
    """

    store: SampleStore
    captions: list[str]
    taxonomy: Taxonomy
    read_image: Callable[[int], np.ndarray]
    read_color_map: Callable[[int], np.ndarray]


def open_training_data(
    paths: ProjectPaths, *, color_map: ColorMapKind, crops: RandomCrops | None = None, seed: int
) -> GeneratorTrainingData:
    """Open the training split and its captions.

    Args:
        paths: the project.
        color_map: what its colour maps show.
        crops: what random crops there are; None: none.
        seed: of their places, which are named by (seed, key of the sample, number of the crop).

    Raises:
        CaptionError: a sample has no caption.
        ConfigError: colour maps can't show what `color_map` asks for.
    """
    store = SampleStore(paths.real("train"))
    taxonomy = Taxonomy.read(paths.taxonomy)
    code = ColorCode(taxonomy, kind=color_map)
    table = pd.read_parquet(paths.captions)
    caption_of = dict(zip(table["sample_key"], table["caption"], strict=True))
    keys = store.keys()
    missing = [key for key in keys if key not in caption_of]
    if missing:
        raise CaptionError(
            f"{len(missing)} training samples have no caption, e.g. {missing[0]} (run: dvc repro captions)"
        )
    num_views = 1 + (crops.per_sample if crops else 0)

    def window(picture: int) -> tuple[float, float, float] | None:
        """Return top, left and side of a crop, in shares of the image's side; None for a whole image."""
        if not 0 <= picture < len(keys) * num_views:
            raise IndexError(
                f"there is no picture {picture}: {len(keys)} samples, {num_views - 1} crops of each"
            )
        view, position = divmod(picture, len(keys))
        if view == 0 or crops is None:
            return None
        side, top, left = numpy_rng(seed, "crop", keys[position], view).random(3)
        side = crops.min_side + (1 - crops.min_side) * side
        return top * (1 - side), left * (1 - side), side

    def read_image(picture: int) -> np.ndarray:
        part = window(picture)
        return _crop(store.read_image(picture % len(keys)), part, resample=Resampling.LANCZOS)

    kept: dict[int, tuple[np.ndarray, np.ndarray | None]] = {}

    def read_maps(picture: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Return mask and instance map; those of small datasets are decoded once."""
        if picture in kept:
            return kept[picture]
        part, position = window(picture), picture % len(keys)
        mask = _crop(store.read_mask(position), part, resample=Resampling.NEAREST)
        instances = store.read_instances(position) if color_map == "panoptic" else None
        if instances is not None:
            instances = _crop(instances, part, resample=Resampling.NEAREST)
        if (
            mask.nbytes * (3 if instances is not None else 1) * len(keys) * num_views
            <= _MAX_KEPT_BYTES
        ):
            kept[picture] = mask, instances
        return mask, instances

    def read_color_map(picture: int) -> np.ndarray:
        mask, instances = read_maps(picture)
        return code.encode(mask, instance_map=instances)

    captions = [caption_of[k] for k in keys] * num_views
    return GeneratorTrainingData(store, captions, taxonomy, read_image, read_color_map)


def _crop(
    picture: np.ndarray, window: tuple[float, float, float] | None, *, resample: Resampling
) -> np.ndarray:
    """Enlarge a window of `picture` [H, W] or [H, W, 3] to its whole size; None leaves it as it is."""
    if window is None:
        return picture
    height, width = picture.shape[:2]
    top, left, side = window
    box = (left * width, top * height, (left + side) * width, (top + side) * height)
    return np.asarray(Image.fromarray(picture).resize((width, height), resample, box=box))


def training_fingerprint(
    name: str, *, config: SegGenConfig, section: DiffusionTrainingConfig, paths: ProjectPaths
) -> str:
    """Return a short hash of all that defines a generator's training; it names the folder an interrupted run resumes from."""
    identity = [
        name,
        section.model_dump(mode="json"),
        config.seed,
        config.dataset.color_map,
        content_digest(paths.model("foundation")),
        content_digest(paths.real("train")),
        content_digest(paths.captions),
        paths.taxonomy.read_text(encoding="utf-8"),
    ]
    return json_digest(identity)
