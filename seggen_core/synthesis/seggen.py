"""MaskSyn and ImgSyn: new (mask, image) pairs from Text2Mask and Mask2Img (SegGen 3.3).

Shape legend: B pairs; H, W of an image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seggen_core.colors.code import ColorCode
from seggen_core.config import SamplingConfig, SegGenSynthesisConfig
from seggen_core.generators.sampling import sample_images
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.taxonomy import IGNORE_INDEX


@dataclass(frozen=True)
class SynthesisTask:
    """One synthetic sample to be made from a real one.

    Attributes:
        source_key: key of the real sample.
        index: which of the samples of this source, 0 to samples_per_source - 1.
        prompt: caption of the real sample.
    """

    source_key: str
    index: int
    prompt: str

    def stream(self, method: str) -> tuple[str | int, ...]:
        """Name of the sample's random stream, after the project's seed.

        The sample's place in a batch or a run is no part of it.
        """
        return (method, self.source_key, self.index)

    def key(self, method: str) -> str:
        """Key of the synthetic sample in its store."""
        return f"{method}-{self.source_key}-{self.index:03d}"

    def seed(self, method: str, *, seed: int) -> int:
        """Seed of the sample, from the project's seed."""
        return derive_seed(seed, *self.stream(method))


@dataclass(frozen=True)
class PairRecipe:
    """What all pairs of a method are made with, beside the models.

    Attributes:
        method: "masksyn" or "imgsyn"; names the random streams.
        seed: the project's seed.
        image_size: side of the square pairs in pixels.
        settings: samplers.
        code: the colour code that the models were trained with.
    """

    method: str
    seed: int
    image_size: int
    settings: SegGenSynthesisConfig
    code: ColorCode


@dataclass(frozen=True)
class PairMasks:
    """The masks of B pairs.

    Attributes:
        segmentation_maps: uint8 [B, H, W], train ids or IGNORE_INDEX.
        instance_maps: one per pair, uint16 [H, W], 0 where there is no instance; None with semantic
            colour maps.
        quality: scores by name, one dict per pair. MaskSyn has "void", the share of pixels that are
            IGNORE_INDEX, and "ambiguous", the share that is so because no colour explains what was
            drawn; the rest of "void" was drawn grey.
    """

    segmentation_maps: np.ndarray
    instance_maps: Sequence[np.ndarray | None]
    quality: Sequence[dict[str, float]]


def with_even_calls(config: SamplingConfig, *, samples_per_source: int) -> SamplingConfig:
    """Return `config` with as many rows as share the samples of one source out evenly over calls.

    Sample k of a source is always computed in row k, modulo the rows, so its bytes don't depend on
    what else is made. With `micro_batch_size` rows, 10 samples a source would leave 6 of 16 rows
    empty.
    """
    calls = -(-samples_per_source // config.micro_batch_size)
    return config.model_copy(update={"micro_batch_size": -(-samples_per_source // calls)})


def draw_masks(tasks: Sequence[SynthesisTask], *, text2mask: Any, recipe: PairRecipe) -> PairMasks:
    """Draw new masks from the captions of B tasks (SegGen, equation 1).

    Args:
        tasks: B tasks.
        text2mask: a text-to-image pipeline that draws colour maps.
        recipe: sampler and colour code.

    Returns:
        Masks with the scores void and ambiguous.
    """
    settings = recipe.settings
    drawn = _sample(text2mask, tasks, purpose="mask", sampler=settings.text2mask, recipe=recipe)
    decoded = recipe.code.decode(drawn)
    unknown: list[np.ndarray | None] = [None] * len(tasks)
    void = (decoded.segmentation_maps == IGNORE_INDEX).mean(axis=(1, 2))
    ambiguous = decoded.ambiguous.mean(axis=(1, 2))
    return PairMasks(
        decoded.segmentation_maps,
        unknown if decoded.instance_maps is None else decoded.instance_maps,
        [{"void": float(v), "ambiguous": float(a)} for v, a in zip(void, ambiguous, strict=True)],
    )


def draw_images(
    tasks: Sequence[SynthesisTask], *, masks: PairMasks, mask2img: Any, recipe: PairRecipe
) -> np.ndarray:
    """Draw images that show the masks of B tasks (SegGen, equation 2).

    The condition is painted from the masks: clean colours, as in training. Ambiguous pixels are
    grey in it, like all ignored ones, so the stored mask gives the condition again.

    Args:
        tasks: B tasks.
        masks: theirs.
        mask2img: a ControlNet pipeline.
        recipe: sampler and colour code.

    Returns:
        uint8 [B, image_size, image_size, 3].

    Raises:
        ConfigError: the colour code shows instances, and a mask has none.
    """
    painted = [
        recipe.code.encode(mask, instance_map=instances)
        for mask, instances in zip(masks.segmentation_maps, masks.instance_maps, strict=True)
    ]
    return _sample(
        mask2img,
        tasks,
        purpose="image",
        sampler=recipe.settings.mask2img,
        recipe=recipe,
        control_images=np.stack(painted),
    )


def _sample(
    pipeline: Any,
    tasks: Sequence[SynthesisTask],
    *,
    purpose: str,
    sampler: SamplingConfig,
    recipe: PairRecipe,
    control_images: np.ndarray | None = None,
) -> np.ndarray:
    config = with_even_calls(sampler, samples_per_source=recipe.settings.samples_per_source)
    return sample_images(
        pipeline,
        prompts=[task.prompt for task in tasks],
        generators=lambda i: torch_generator(recipe.seed, *tasks[i].stream(recipe.method), purpose),
        config=config,
        image_size=recipe.image_size,
        control_images=control_images,
        slots=[task.index for task in tasks],
    )
