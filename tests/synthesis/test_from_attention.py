import numpy as np
import pytest
import torch

from seggen_core.attention.masks import ClassMasks
from seggen_core.config import SamplingConfig, SeeDiffConfig
from seggen_core.errors import AttentionError
from seggen_core.generators.sampling import sample_images
from seggen_core.synthesis.attention_method import to_segmentation_map
from seggen_core.synthesis.from_attention import (
    combine_classes,
    generate_from_attention,
    seediff_self_resolutions,
)
from seggen_core.synthesis.mask_quality import mask_quality, mask_status
from seggen_core.synthesis.prompts import PromptSource
from seggen_core.taxonomy import Taxonomy
from tests.attention.tiny_pipeline import IMAGE_SIZE, build_pipeline

PROMPTS = [
    "a photo of a car",
    "a photo of a potted plant",
    "a photo of a bus",
    "a photo of a house and a car",
    "a photo of a car",
]
CLASSES = ["car", "potted plant", "bus", "house", "car"]
TAXONOMY = Taxonomy.from_names(stuff=[], things=["car", "potted plant", "bus", "house"])
SAMPLING = SamplingConfig(
    num_inference_steps=2, guidance_scale=2.0, micro_batch_size=2, precision="fp32"
)


def make_config(**changes):
    settings = {
        "sampling": SAMPLING,
        "cross_attention_resolution": 8,
        "pamr_iterations": 2,
        "pamr_dilations": (1, 2),
    }
    return SeeDiffConfig(samples_per_class=1, **(settings | changes))


@pytest.fixture(scope="module")
def pipeline():
    return build_pipeline()


def make_prompt(pipeline, i, *, multi_class=False):
    settings = SeeDiffConfig(samples_per_class=1, multi_class=multi_class)
    target = next(c for c in TAXONOMY if c.name == CLASSES[i])
    source = PromptSource(
        settings, target=target, taxonomy=TAXONOMY, tokenizer=pipeline.tokenizer, name=(0, "test")
    )
    source._listed = [PROMPTS[i]]
    return source[0]


def generate(pipeline, indices=range(5), **changes):
    return generate_from_attention(
        pipeline,
        prompts=[
            make_prompt(pipeline, i, multi_class=changes.get("multi_class", False)) for i in indices
        ],
        generators=lambda k: torch.Generator().manual_seed(100 + list(indices)[k]),
        config=make_config(**changes),
        image_size=IMAGE_SIZE,
    )


@pytest.fixture(scope="module")
def samples(pipeline):
    return generate(pipeline)


def test_images_are_those_of_the_pipeline_and_masks_come_with_them(pipeline, samples):
    plain = sample_images(
        pipeline,
        prompts=PROMPTS,
        generators=lambda i: torch.Generator().manual_seed(100 + i),
        config=SAMPLING.model_copy(update={"precision": "fp32"}),
        image_size=IMAGE_SIZE,
    )
    assert samples.images.dtype == np.uint8 and np.array_equal(samples.images, plain)
    assert samples.masks.shape == (5, IMAGE_SIZE, IMAGE_SIZE) and samples.masks.dtype == bool
    assert samples.status == ("accepted",) * 5
    assert list(samples.maps) == [
        "cross_attention",
        "expansion_8",
        "expansion_16",
        "background",
        "soft_mask",
    ]
    for name, maps in samples.maps.items():
        assert len(maps) == 5 and maps.min() >= 0 and maps.max() <= 1, name
    assert np.array_equal(samples.masks, samples.maps["soft_mask"] >= 0.3)
    for mask, quality in zip(samples.masks, samples.quality, strict=True):
        assert 0 < mask.mean() < 1
        assert quality["mask_area"] == pytest.approx(mask.mean(), abs=1e-6)
        assert (
            quality["seed_count"] >= 1
            and 0 < quality["contrast"] <= 1
            and 0 <= quality["threshold_agreement"] <= 1
        )


@pytest.mark.parametrize("order", [(0,), (4, 3, 2, 1, 0), (1, 0, 2)])
def test_a_sample_does_not_depend_on_the_others(pipeline, samples, order):
    again = generate(pipeline, order)
    for position, i in enumerate(order):
        assert np.array_equal(again.images[position], samples.images[i])
        assert np.array_equal(again.masks[position], samples.masks[i])
        assert again.quality[position] == samples.quality[i]


def test_guidance_off_otsu_seeds_and_no_pamr(pipeline, samples):
    unguided = generate(pipeline, sampling=SAMPLING.model_copy(update={"guidance_scale": 1.0}))
    assert not np.array_equal(unguided.images, samples.images) and set(unguided.status) == {
        "accepted"
    }
    for changes in ({"seed_threshold": "otsu"}, {"pamr": False}):
        other = generate(pipeline, **changes)
        assert np.array_equal(other.images, samples.images) and not np.array_equal(
            other.masks, samples.masks
        ), changes


def test_chosen_layers_change_the_mask_but_not_the_image(pipeline, samples):
    name = "up_blocks.0.attentions.0.transformer_blocks.0.attn2"
    chosen = generate(pipeline, cross_attention_layers=(name,))
    assert np.array_equal(chosen.images, samples.images)
    assert not np.array_equal(chosen.maps["cross_attention"], samples.maps["cross_attention"])
    with pytest.raises(AttentionError, match="no cross-attention layer is called nowhere"):
        generate(pipeline, cross_attention_layers=("nowhere",))


def test_resolutions_are_those_of_the_network(pipeline):
    assert seediff_self_resolutions(pipeline.unet, config=make_config(), latent_size=16) == [8, 16]
    assert seediff_self_resolutions(
        pipeline.unet, config=make_config(cross_attention_resolution=16), latent_size=16
    ) == [16]
    assert seediff_self_resolutions(
        pipeline.unet, config=make_config(cross_attention_resolution=16), latent_size=32
    ) == [16, 32]
    with pytest.raises(
        AttentionError,
        match=r"cross_attention_resolution is 4, but with 16x16 latents .* have 8, 16",
    ):
        generate(pipeline, cross_attention_resolution=4)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "ca"},
        {"strategy": "ca_sa", "beta": 0.5},
        {"affinity": "columns"},
        {"affinity": "cosine"},
        {"expansion": "once"},
        {"background_expansion": False},
        {"normalization": "max"},
        {"self_attention_resolutions": (16,)},
    ],
)
def test_each_option_gives_another_mask_of_the_same_image(pipeline, samples, changes):
    changed = generate(pipeline, (0, 1), **changes)
    assert np.array_equal(changed.images, samples.images[:2]) and set(changed.status) == {
        "accepted"
    }
    assert not np.array_equal(changed.maps["soft_mask"], samples.maps["soft_mask"][:2])


def test_uncertain_pixels_are_those_between_two_thresholds(pipeline):
    generated = generate(
        pipeline, (0, 1), strategy="ca_sa", power=2, beta=0.6, uncertainty_threshold=0.5
    )
    soft = generated.maps["soft_mask"]
    assert np.array_equal(generated.labels == 1, soft >= 0.6) and np.array_equal(
        generated.labels == 255, (soft >= 0.5) & (soft < 0.6)
    )
    assert (generated.labels == 255).any()


def test_several_classes_share_an_image_by_argmax(pipeline, samples):
    alone = generate(pipeline, (3,))  # "a photo of a house and a car" of class house
    both = generate(pipeline, (3,), multi_class=True)
    assert np.array_equal(both.images, alone.images) and np.array_equal(
        both.maps["soft_mask"], alone.maps["soft_mask"]
    )
    assert set(np.unique(both.labels)) == {0, 1, 2} and not (both.masks & ~alone.masks).any()
    assert both.quality[0]["mask_area"] == pytest.approx(both.masks.mean(), abs=1e-6)


def test_a_contested_pixel_goes_to_the_stronger_class():
    def result(soft, uncertain=(False, False, False, False)):
        soft, flat = torch.tensor([[soft]]), torch.zeros(1, 1, 4)
        return ClassMasks(
            ("accepted",), soft >= 0.3, soft, flat, {}, {}, flat, torch.tensor([[uncertain]])
        )

    first = result([0.9, 0.4, 0.1, 0.5], (False, False, True, False))
    second = result([0.2, 0.6, 0.1, 0.5], (False, False, False, True))
    assert combine_classes([first, second]).tolist() == [[[1, 2, 255, 1]]]


def test_the_scheduler_is_put_back_and_a_missing_resolution_is_named(pipeline):
    scheduler = pipeline.scheduler
    with pytest.raises(
        AttentionError, match=r"self_attention_resolutions has 64, .* self-attention at 8, 16"
    ):
        generate(pipeline, (0,), self_attention_resolutions=(16, 64))
    generate(pipeline, (0,))
    assert pipeline.scheduler is scheduler


def test_the_decoder_works_in_float32(pipeline, samples):
    seen = []
    hook = pipeline.vae.decoder.register_forward_hook(
        lambda _m, args, out: seen.append((args[0].dtype, out.dtype))
    )
    source = [make_prompt(pipeline, 0), make_prompt(pipeline, 1)]
    generate_from_attention(
        pipeline,
        prompts=source,
        generators=lambda k: torch.Generator().manual_seed(100 + k),
        config=make_config(sampling=SAMPLING.model_copy(update={"precision": "bf16"})),
        image_size=IMAGE_SIZE,
    )
    hook.remove()
    assert seen == [(torch.float32, torch.float32)]


def test_an_image_that_is_not_a_picture_is_rejected(pipeline, monkeypatch):
    monkeypatch.setattr(pipeline, "safety_checker", object())
    monkeypatch.setattr(
        pipeline, "run_safety_checker", lambda image, *_: (image * 0, [False, True])
    )
    assert generate(pipeline, (0, 1)).status == ("accepted", "flagged_by_safety_checker")
    monkeypatch.undo()
    broken = build_pipeline()
    with torch.no_grad():
        broken.vae.decoder.conv_out.bias.fill_(float("nan"))
    generated = generate(broken, (0,))
    assert generated.status == ("not_finite_image",) and not generated.images.any()


def test_attention_that_is_not_finite_is_rejected(pipeline, samples):
    broken = build_pipeline()
    name = "up_blocks.1.attentions.0.transformer_blocks.0.attn2"
    hook = broken.unet.get_submodule(name).to_k.register_forward_hook(
        lambda _m, _i, k: k.index_fill(0, torch.tensor([3]), float("nan"))
    )
    generated = generate(broken, (0, 1))
    hook.remove()
    # Rows are (unconditional 0, 1; conditional 0, 1): only the second image is lost.
    assert generated.status[0] == "accepted" and generated.status[1] in (
        "not_finite_image",
        "not_finite_attention",
    )
    assert not generated.masks[1].any() and np.array_equal(generated.masks[0], samples.masks[0])


def test_quality_scores_by_hand():
    soft = torch.tensor(
        [[[0.9, 0.4], [0.1, 0.0]], [[0.0, 0.0], [0.0, 0.0]], [[1.0, 1.0], [1.0, 1.0]]]
    )
    seeds = {4: torch.zeros(3, 4, 4, dtype=torch.bool), 8: torch.ones(3, 8, 8, dtype=torch.bool)}
    seeds[4][0, 1, 1:3] = True
    flat = torch.zeros(3, 4, 4)
    result = ClassMasks(
        ("accepted", "no_seeds", "accepted"),
        soft >= 0.3,
        soft,
        flat,
        seeds,
        {4: flat, 8: flat},
        flat,
        soft < 0,
    )
    scores = mask_quality(result, mask=result.binary, beta=0.3)
    assert scores[0] == {
        "mask_area": 0.5,
        "seed_count": 2.0,
        "contrast": pytest.approx(0.6),
        "threshold_agreement": 0.5,
    }
    assert scores[1] == {
        "mask_area": 0.0,
        "seed_count": 0.0,
        "contrast": 0.0,
        "threshold_agreement": 0.0,
    }
    assert scores[2] == {
        "mask_area": 1.0,
        "seed_count": 0.0,
        "contrast": 1.0,
        "threshold_agreement": 1.0,
    }


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({}, "accepted"),
        ({"mask_area": 0.05}, "mask_too_small"),
        ({"mask_area": 0.95}, "mask_too_large"),
        ({"seed_count": 2}, "too_few_seeds"),
        ({"contrast": 0.1}, "low_contrast"),
        ({"threshold_agreement": 0.3}, "low_threshold_agreement"),
        ({"status": "no_seeds", "mask_area": 0.0}, "no_seeds"),
    ],
)
def test_masks_outside_of_the_limits_are_rejected(changes, expected):
    quality = {
        "mask_area": 0.3,
        "seed_count": 5,
        "contrast": 0.5,
        "threshold_agreement": 0.8,
    } | changes
    config = make_config(
        min_mask_area=0.1,
        max_mask_area=0.9,
        min_seed_count=3,
        min_contrast=0.2,
        min_threshold_agreement=0.4,
    )
    assert mask_status(changes.get("status", "accepted"), quality, config=config) == expected


def test_outside_the_mask_is_ignored_unless_it_has_a_class():
    labels = np.array([[1, 2, 0, 255]], np.uint8)
    assert to_segmentation_map(labels, train_ids=[5, 3]).tolist() == [[5, 3, 255, 255]]
    assert to_segmentation_map(labels, train_ids=[5, 3], background_id=0).tolist() == [
        [5, 3, 0, 255]
    ]
    assert to_segmentation_map(labels, train_ids=[5, 3]).dtype == np.uint8
