from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ControlNetModel, StableDiffusionControlNetPipeline

from seggen_core.config import RuntimeConfig, SamplingConfig
from seggen_core.config.library_settings import _samplers
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.generators.sampling import assign_rows, make_scheduler, sample_images
from seggen_core.project.chunks import padded_chunks
from seggen_core.project.rng import torch_generator
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.training.precision import resolve_precision
from tests.attention.tiny_pipeline import IMAGE_SIZE, build_pipeline

PROMPTS = [
    "a photo of a car",
    "a bus and a house",
    "house",
    "a potted plant",
    "a photo of a bus and a car",
]
CONFIG = SamplingConfig(num_inference_steps=2, guidance_scale=2.0, micro_batch_size=3)
CPU = torch.device("cpu")


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def mask2img(tiny_pipeline: Any) -> Any:
    """A ControlNet pipeline whose zero convolutions aren't zero, so that the condition shows."""
    torch.manual_seed(0)
    controlnet = ControlNetModel.from_unet(
        tiny_pipeline.unet, conditioning_embedding_out_channels=(16, 32)
    ).eval()
    with torch.no_grad():
        for parameter in controlnet.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    pipeline = StableDiffusionControlNetPipeline.from_pipe(tiny_pipeline, controlnet=controlnet)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def draw(
    pipeline: Any,
    indices: Sequence[int],
    *,
    config: SamplingConfig = CONFIG,
    precision: str = "fp32",
    control: np.ndarray | None = None,
    slots: Sequence[int] | None = None,
) -> dict[int, np.ndarray]:
    """Sample PROMPTS[i] for i of `indices`, each in row i of a call, and return the images by i."""
    images = sample_images(
        pipeline,
        prompts=[PROMPTS[i] for i in indices],
        generators=lambda k: torch_generator(0, "test", indices[k]),
        config=config.model_copy(update={"precision": precision}),
        image_size=IMAGE_SIZE,
        control_images=None if control is None else control[list(indices)],
        slots=indices if slots is None else slots,
    )
    assert images.shape == (len(indices), IMAGE_SIZE, IMAGE_SIZE, 3) and images.dtype == np.uint8
    return dict(zip(indices, images, strict=True))


def assert_same(some: dict[int, np.ndarray], all_of_them: dict[int, np.ndarray]) -> None:
    for i, image in some.items():
        assert (image == all_of_them[i]).all(), (
            f"prompt {i}: {(image != all_of_them[i]).sum()} values differ"
        )


def test_chunks_have_one_size() -> None:
    assert list(padded_chunks(range(7), 3)) == [([0, 1, 2], 3), ([3, 4, 5], 3), ([6, 6, 6], 1)]
    assert list(padded_chunks("ab", 2)) == [(["a", "b"], 2)]
    assert list(padded_chunks([], 2)) == []


@pytest.mark.parametrize(
    "slots", [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [7, 7, 7], [0, 3, 6, 1], [], [5]]
)
def test_every_item_gets_its_row(slots: list[int]) -> None:
    calls = list(assign_rows(slots, 3))
    assert all(len(rows) == 3 and any(item is not None for item in rows) for rows in calls)
    row_of = {item: row for rows in calls for row, item in enumerate(rows) if item is not None}
    assert row_of == {item: slot % 3 for item, slot in enumerate(slots)}
    assert sum(item is not None for rows in calls for item in rows) == len(slots)


def test_as_many_calls_as_the_fullest_row() -> None:
    assert list(assign_rows([0, 0, 1, 0], 2)) == [[0, 2], [1, None], [3, None]]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_an_image_depends_on_nothing_but_its_own_prompt_noise_and_slot(
    tiny_pipeline: Any, precision: str, two_threads: None
) -> None:
    together = draw(tiny_pipeline, range(5), precision=precision)
    assert len({image.tobytes() for image in together.values()}) == 5
    assert_same(draw(tiny_pipeline, [4, 2, 0, 3, 1], precision=precision), together)  # the order
    assert_same(draw(tiny_pipeline, [3, 4], precision=precision), together)  # the neighbours
    for i in range(5):  # how many there are
        assert_same(draw(tiny_pipeline, [i], precision=precision), together)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_so_does_an_image_with_a_condition(
    mask2img: Any, precision: str, two_threads: None
) -> None:
    control = np.random.default_rng(0).integers(
        0, 256, (5, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8
    )
    together = draw(mask2img, range(5), precision=precision, control=control)
    assert_same(draw(mask2img, [4, 0, 3, 1], precision=precision, control=control), together)
    assert_same(draw(mask2img, [2], precision=precision, control=control), together)
    others = draw(mask2img, range(5), precision=precision, control=255 - control)
    assert all((others[i] != together[i]).any() for i in range(5))


def test_a_condition_counts_as_much_as_it_is_scaled(mask2img: Any) -> None:
    control = np.random.default_rng(0).integers(
        0, 256, (1, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8
    )

    def change(scale: float) -> float:
        config = CONFIG.model_copy(update={"controlnet_conditioning_scale": scale})
        pair = [
            draw(mask2img, [0], config=config, control=c)[0].astype(float)
            for c in (control, 255 - control)
        ]
        return float(np.abs(pair[0] - pair[1]).mean())

    assert change(0.0) == 0 < change(0.5)


def test_each_prompt_is_computed_in_its_own_row_of_a_call_of_fixed_size(tiny_pipeline: Any) -> None:
    calls: list[torch.Tensor] = []
    hook = tiny_pipeline.unet.register_forward_pre_hook(
        lambda _, arguments: calls.append(arguments[0].clone())
    )
    draw(tiny_pipeline, [4, 3, 0], config=CONFIG.model_copy(update={"num_inference_steps": 1}))
    hook.remove()
    noise = [torch.randn(4, 16, 16, generator=torch_generator(0, "test", i)) for i in range(5)]
    # 4 % 3 = 1, 3 % 3 = 0 and 0 % 3 = 0 again; the rest is filled up. Guidance doubles the rows.
    for rows, wanted in zip(calls, ({1: 4, 0: 3}, {0: 0}), strict=True):
        assert len(rows) == 6 and torch.equal(rows[:3], rows[3:])
        assert all(torch.equal(rows[row], noise[i]) for row, i in wanted.items())


def test_the_threads_asked_for(two_threads: None) -> None:
    limit_threads(RuntimeConfig(num_threads=1))
    assert torch.get_num_threads() == 1


def test_it_is_the_image_that_diffusers_makes(tiny_pipeline: Any) -> None:
    single = CONFIG.model_copy(update={"micro_batch_size": 1})
    ours = draw(tiny_pipeline, [1], config=single)[1]
    pipeline = build_pipeline()
    pipeline.scheduler = make_scheduler(pipeline, single)
    theirs = pipeline(
        PROMPTS[1],
        generator=torch_generator(0, "test", 1),
        num_inference_steps=2,
        guidance_scale=2.0,
        height=IMAGE_SIZE,
        width=IMAGE_SIZE,
        output_type="np",
    ).images[0]
    assert (ours == (theirs * 255).round()).all()


def test_noise_and_prompt_both_count(tiny_pipeline: Any) -> None:
    def one(prompt: str, noise: int) -> np.ndarray:
        return sample_images(
            tiny_pipeline,
            prompts=[prompt],
            generators=lambda _: torch_generator(0, noise),
            config=CONFIG.model_copy(update={"precision": "fp32"}),
            image_size=IMAGE_SIZE,
        )[0]

    first = one("car", 0)
    assert (
        (first == one("car", 0)).all()
        and (first != one("car", 1)).any()
        and (first != one("bus", 0)).any()
    )


def test_a_stochastic_sampler_draws_from_the_samples_own_generator(tiny_pipeline: Any) -> None:
    config = CONFIG.model_copy(
        update={"scheduler": "EulerAncestralDiscreteScheduler", "num_inference_steps": 3}
    )
    together = draw(tiny_pipeline, range(4), config=config)
    assert_same(draw(tiny_pipeline, [3, 1], config=config), together)


def test_nothing_is_no_image(tiny_pipeline: Any) -> None:
    assert draw(tiny_pipeline, []) == {}


def test_the_sampler_is_made_from_the_pipelines_own_noise_schedule(tiny_pipeline: Any) -> None:
    shipped = tiny_pipeline.scheduler.config
    config = SamplingConfig(
        scheduler="EulerDiscreteScheduler", scheduler_kwargs={"use_karras_sigmas": True}
    )
    changed = make_scheduler(tiny_pipeline, config).config
    assert changed.use_karras_sigmas is True
    for key in (
        "num_train_timesteps",
        "beta_start",
        "beta_end",
        "beta_schedule",
        "prediction_type",
    ):
        assert changed[key] == shipped[key]


def test_a_sampler_leaves_nothing_behind_for_the_next(tiny_pipeline: Any) -> None:
    scheduler = tiny_pipeline.scheduler
    plain = CONFIG.model_copy(
        update={"scheduler": "EulerDiscreteScheduler", "num_inference_steps": 3}
    )
    before = draw(tiny_pipeline, [0], config=plain)
    karras = draw(
        tiny_pipeline,
        [0],
        config=plain.model_copy(update={"scheduler_kwargs": {"use_karras_sigmas": True}}),
    )
    assert (karras[0] != before[0]).any()
    assert_same(draw(tiny_pipeline, [0], config=plain), before)
    assert tiny_pipeline.scheduler is scheduler


def test_settings_that_do_not_go_together(tiny_pipeline: Any) -> None:
    both = {"use_karras_sigmas": True, "use_exponential_sigmas": True}
    config = SamplingConfig(scheduler="EulerDiscreteScheduler", scheduler_kwargs=both)
    with pytest.raises(ConfigError, match="can't make a EulerDiscreteScheduler with"):
        make_scheduler(tiny_pipeline, config)


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_a_scheduler_that_params_may_name_is_one_of_diffusers(
    tiny_pipeline: Any, name: str
) -> None:
    assert name in _samplers()
    assert type(make_scheduler(tiny_pipeline, SamplingConfig(scheduler=name))).__name__ == name


def test_values_that_are_not_finite_are_an_error_not_a_black_image() -> None:
    pipeline = build_pipeline()
    scheduler = pipeline.scheduler
    with torch.no_grad():
        pipeline.unet.conv_out.bias[0] = torch.nan
    with pytest.raises(FoundationError, match="aren't finite; set precision: fp32"):
        draw(pipeline, [0], precision="bf16")
    assert pipeline.scheduler is scheduler


@pytest.mark.parametrize(
    "name, dtype", [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_precision_by_name(name: str, dtype: torch.dtype) -> None:
    assert resolve_precision(name, CPU) == dtype


def test_auto_is_bf16_only_where_the_cpu_computes_it_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert resolve_precision("auto", CPU) in (torch.float32, torch.bfloat16)
    for able, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        answer: Callable[[], dict[str, bool]] = lambda able=able: {"avx512_bf16": able}  # noqa: E731
        monkeypatch.setattr(torch.cpu, "get_capabilities", answer)
        assert resolve_precision("auto", CPU) == dtype


def test_the_device_asked_for() -> None:
    assert pick_device(RuntimeConfig(device="cpu")) == CPU
    if torch.cuda.is_available():
        assert pick_device(RuntimeConfig()).type == "cuda"
    else:
        assert pick_device(RuntimeConfig()) == CPU
        with pytest.raises(ConfigError, match="torch sees no CUDA device; set it to auto or cpu"):
            pick_device(RuntimeConfig(device="cuda"))
