"""MaskSyn and ImgSyn: new (mask, image) pairs from Text2Mask and Mask2Img (SegGen 3.3)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seggen_core.colors.code import ColorCode
from seggen_core.config import SamplingConfig, SegGenSynthesisConfig
from seggen_core.generators.sampling import sample_images
from seggen_core.project.rng import derive_seed, torch_generator


@dataclass(frozen=True)
class SynthesisTask:
    """One synthetic sample to be made from a real one.

    Attributes:
        source_key: key of the real sample.
        number: 0 to samples_per_source - 1.
        prompt: caption of the real sample.
    """

    source_key: str
    number: int
    prompt: str

    def stream(self, method: str) -> tuple[str | int, ...]:
        """Name of the sample's random stream, after the project's seed: its place in a batch or a run is no part of it."""
        return (method, self.source_key, self.number)

    def key(self, method: str) -> str:
        """Key of the synthetic sample in its store."""
        return f"{method}-{self.source_key}-{self.number:03d}"


@dataclass(frozen=True)
class SynthesizedPairs:
    """B synthetic pairs.

    Attributes:
        images: uint8 [B, H, W, 3].
        segmentation_maps: uint8 [B, H, W], train ids or IGNORE_INDEX.
        instance_maps: one per pair, uint16 [H, W], 0 where there is no instance; None with semantic
            colour maps.
        quality: one dict of floats per pair.
    """

    images: np.ndarray
    segmentation_maps: np.ndarray
    instance_maps: Sequence[np.ndarray | None]
    quality: list[dict[str, float]]


def task_seed(task: SynthesisTask, *, method: str, seed: int) -> int:
    """Return the seed of the task's noise."""
    return derive_seed(seed, *task.stream(method))


def with_even_calls(config: SamplingConfig, *, samples_per_source: int) -> SamplingConfig:
    """Return `config` with the number of rows that shares the samples of one source out evenly over network calls.

    Sample k of a source is always computed in row k, modulo the rows, so its bytes don't depend on
    what else is made. With `micro_batch_size` rows, 10 samples a source would leave 6 of 16 rows
    empty.
    """
    calls = -(-samples_per_source // config.micro_batch_size)
    return config.model_copy(update={"micro_batch_size": -(-samples_per_source // calls)})


def synthesize_pairs(
    tasks: Sequence[SynthesisTask],
    *,
    method: str,
    config: SegGenSynthesisConfig,
    seed: int,
    mask2img: Any,
    code: ColorCode,
    image_size: int,
    text2mask: Any = None,
    real_masks: Sequence[np.ndarray] | None = None,
    real_instances: Sequence[np.ndarray | None] | None = None,
) -> SynthesizedPairs:
    """Make one pair per task: MaskSyn with `text2mask` (equations 1 and 2), ImgSyn with `real_masks` (equation 2 alone).

    Args:
        tasks: B tasks.
        method: "masksyn" or "imgsyn", the name of the random streams.
        config: samplers.
        seed: the project's seed.
        mask2img: a ControlNet pipeline.
        code: the colour code that both models were trained with.
        image_size: side of the square pairs in pixels.
        text2mask: a text-to-image pipeline that draws colour maps.
        real_masks: B masks of the tasks' sources, uint8 [H, W].
        real_instances: their instance maps, uint16 [H, W]; given where `code` shows them.

    Raises:
        ConfigError: `code` shows instances, and a source has none.
    """
    prompts, slots = [t.prompt for t in tasks], [t.number for t in tasks]
    text2mask_sampler = with_even_calls(
        config.text2mask, samples_per_source=config.samples_per_source
    )
    mask2img_sampler = with_even_calls(
        config.mask2img, samples_per_source=config.samples_per_source
    )

    # 1. Masks.
    if text2mask is not None:
        drawn = sample_images(
            text2mask,
            prompts=prompts,
            generators=lambda i: torch_generator(seed, *tasks[i].stream(method), "mask"),
            config=text2mask_sampler,
            image_size=image_size,
            slots=slots,
        )
        decoded = code.decode(drawn)
        masks = decoded.segmentation_maps
        instances: Sequence[np.ndarray | None] = (
            [None] * len(tasks) if decoded.instance_maps is None else decoded.instance_maps
        )
        far = (decoded.distance > config.max_palette_distance).mean(axis=(1, 2))
        quality = [{"off_palette": float(f)} for f in far]
    else:
        assert real_masks is not None, "ImgSyn needs the masks of the real samples"
        masks = np.stack(real_masks)
        instances = real_instances or [None] * len(tasks)
        quality = [{} for _ in tasks]

    # 2. Images that show them. The condition is painted from the decoded masks: clean colours, as
    # in training.
    painted = [
        code.encode(mask, instance_map=found) for mask, found in zip(masks, instances, strict=True)
    ]
    images = sample_images(
        mask2img,
        prompts=prompts,
        generators=lambda i: torch_generator(seed, *tasks[i].stream(method), "image"),
        config=mask2img_sampler,
        image_size=image_size,
        control_images=np.stack(painted),
        slots=slots,
    )
    return SynthesizedPairs(images, masks, instances, quality)
