from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from seggen_core.colors.code import ColorCode
from seggen_core.config import SamplingConfig, SegGenSynthesisConfig
from seggen_core.generators.foundation import load_mask2img
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.synthesis import seggen
from seggen_core.synthesis.seggen import (
    PairMasks,
    PairRecipe,
    SynthesisTask,
    draw_images,
    draw_masks,
    with_even_calls,
)
from seggen_core.taxonomy import IGNORE_INDEX, Taxonomy

SAMPLER = SamplingConfig(num_inference_steps=2, micro_batch_size=4, precision="fp32")
CONFIG = SegGenSynthesisConfig(samples_per_source=3, text2mask=SAMPLER, mask2img=SAMPLER)
CODE = ColorCode(Taxonomy.from_names(stuff=["sky"], things=["car", "bus"]), kind="semantic")
TASKS = [
    SynthesisTask(f"train-{s:05d}", n, prompt)
    for s, prompt in enumerate(("a car", "a bus"))
    for n in range(3)
]
MASKS = np.random.default_rng(0).integers(0, 3, (2, 32, 32), dtype=np.uint8)


@pytest.fixture(scope="module")
def mask2img(make_project: Callable[[str], ProjectPaths]) -> Any:
    paths = make_project("seggen")
    return load_mask2img(paths.model("foundation"), paths.model("mask2img"))


@pytest.fixture(params=[1, 2], ids=["1 thread", "2 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@dataclass
class Pairs:
    """Masks and images of some tasks."""

    masks: PairMasks
    images: np.ndarray


def synthesize(
    tasks: Sequence[SynthesisTask],
    mask2img: Any,
    *,
    text2mask: Any = None,
    config: SegGenSynthesisConfig = CONFIG,
    seed: int = 0,
    real: np.ndarray = MASKS,
) -> Pairs:
    method = "masksyn" if text2mask else "imgsyn"
    recipe = PairRecipe(method=method, seed=seed, image_size=32, settings=config, code=CODE)
    if text2mask:
        masks = draw_masks(tasks, text2mask=text2mask, recipe=recipe)
    else:
        shown = real[[int(t.source_key[-1]) for t in tasks]]
        masks = PairMasks(shown, [None] * len(tasks), [{}] * len(tasks))
    images = draw_images(tasks, masks=masks, mask2img=mask2img, recipe=recipe)
    assert images.shape == (len(tasks), 32, 32, 3) and images.dtype == np.uint8
    maps = masks.segmentation_maps
    assert maps.shape == (len(tasks), 32, 32) and maps.dtype == np.uint8
    return Pairs(masks, images)


def by_task(tasks: Sequence[SynthesisTask], pairs: Pairs) -> dict[SynthesisTask, bytes]:
    both = zip(pairs.images, pairs.masks.segmentation_maps, strict=True)
    return {
        t: image.tobytes() + mask.tobytes() for t, (image, mask) in zip(tasks, both, strict=True)
    }


@pytest.mark.parametrize(
    "per_source, micro, rows",
    [(10, 16, 10), (50, 16, 13), (3, 4, 3), (4, 4, 4), (17, 16, 9), (1, 8, 1), (6, 2, 2)],
)
def test_calls_are_filled_evenly_by_the_samples_of_one_source(
    per_source: int, micro: int, rows: int
) -> None:
    config = with_even_calls(
        SAMPLER.model_copy(update={"micro_batch_size": micro}), samples_per_source=per_source
    )
    assert config.micro_batch_size == rows <= micro
    assert -(-per_source // rows) == -(-per_source // micro)  # no call more than needed
    assert config.num_inference_steps == SAMPLER.num_inference_steps


def test_masksyn_pairs_depend_on_their_own_task_alone(
    mask2img: Any, tiny_pipeline: Any, threads: int
) -> None:
    whole = by_task(TASKS, synthesize(TASKS, mask2img, text2mask=tiny_pipeline))
    assert len(set(whole.values())) == 6
    shuffled = [TASKS[i] for i in (4, 0, 5, 2)]
    assert (
        by_task(shuffled, synthesize(shuffled, mask2img, text2mask=tiny_pipeline)).items()
        <= whole.items()
    )
    for task in TASKS[::2]:
        assert (
            by_task([task], synthesize([task], mask2img, text2mask=tiny_pipeline)).items()
            <= whole.items()
        )


def test_imgsyn_pairs_depend_on_their_own_task_alone(mask2img: Any, threads: int) -> None:
    whole = by_task(TASKS, synthesize(TASKS, mask2img))
    some = [TASKS[i] for i in (5, 1, 3)]
    assert by_task(some, synthesize(some, mask2img)).items() <= whole.items()


def test_a_sample_is_computed_in_the_row_of_its_number(mask2img: Any) -> None:
    calls: list[torch.Tensor] = []
    hook = mask2img.unet.register_forward_pre_hook(
        lambda _, arguments: calls.append(arguments[0].clone())
    )
    synthesize([TASKS[5], TASKS[0]], mask2img)
    hook.remove()
    assert len(calls) == 2 and all(
        len(rows) == 6 for rows in calls
    )  # one call of two steps, three rows, doubled by guidance
    for row, task in ((2, TASKS[5]), (0, TASKS[0])):
        noise = torch.randn(
            4, 16, 16, generator=torch_generator(0, "imgsyn", task.source_key, task.index, "image")
        )
        assert torch.equal(calls[0][row], noise)


def test_imgsyn_keeps_the_real_masks_and_draws_what_they_show(mask2img: Any) -> None:
    pairs = synthesize(TASKS, mask2img)
    assert all(
        (m == MASKS[int(t.source_key[-1])]).all()
        for t, m in zip(TASKS, pairs.masks.segmentation_maps, strict=True)
    )
    other = MASKS.copy()
    other[1, :16] = IGNORE_INDEX
    changed = synthesize(TASKS, mask2img, real=other)
    same = [(a == b).all() for a, b in zip(pairs.images, changed.images, strict=True)]
    assert same == [True] * 3 + [False] * 3


def test_masksyn_masks_hold_classes_or_void_and_say_how_much_of_it(
    mask2img: Any, tiny_pipeline: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    masks = synthesize(TASKS[:2], mask2img, text2mask=tiny_pipeline).masks
    assert set(np.unique(masks.segmentation_maps)) <= {0, 1, 2, IGNORE_INDEX}
    void = [float((mask == IGNORE_INDEX).mean()) for mask in masks.segmentation_maps]
    assert min(void) > 0.5  # random weights draw greys
    assert [q["void"] for q in masks.quality] == void
    assert all(
        q.keys() == {"void", "ambiguous"} and q["ambiguous"] <= q["void"] for q in masks.quality
    )

    # Grey, blue, and a quarter of red, which no class has.
    drawn = np.full((2, 32, 32, 3), 128, np.uint8)
    drawn[:, 16:], drawn[:, 16:, 16:] = CODE.palette[0], (255, 0, 0)
    conditions: list[np.ndarray] = []

    def draw(pipeline: Any, **arguments: Any) -> np.ndarray:
        if arguments.get("control_images") is not None:
            conditions.extend(arguments["control_images"])
        return drawn

    monkeypatch.setattr(seggen, "sample_images", draw)
    masks = synthesize(TASKS[:2], mask2img, text2mask=tiny_pipeline).masks
    rim = 2 * 16 + 2 * 14  # pixels that have grey or blue near take the nearer of them
    assert [q["ambiguous"] for q in masks.quality] == [(16 * 16 - rim) / 32**2] * 2
    for mask, condition in zip(masks.segmentation_maps, conditions, strict=True):
        assert (mask[18:, 18:] == IGNORE_INDEX).all()
        assert (mask[16:, :16] == 0).all()
        assert (mask[:16] == IGNORE_INDEX).all()
        assert (condition == CODE.encode(mask, instance_map=None)).all()


def test_another_seed_makes_other_pairs(mask2img: Any) -> None:
    assert (
        synthesize(TASKS[:1], mask2img).images != synthesize(TASKS[:1], mask2img, seed=1).images
    ).any()


def test_names_of_keys_and_streams() -> None:
    task = TASKS[4]
    assert task.key("imgsyn") == "imgsyn-train-00001-001"
    assert task.seed("imgsyn", seed=3) == derive_seed(3, "imgsyn", "train-00001", 1)
    assert len({t.seed(m, seed=3) for t in TASKS for m in ("imgsyn", "masksyn")}) == 12
