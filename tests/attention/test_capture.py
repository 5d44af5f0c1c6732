import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    SlicedAttnProcessor,
)
from torch.utils._python_dispatch import TorchDispatchMode

from seggen_core.attention.capture import capture_attention
from seggen_core.attention.layers import list_attention_layers
from seggen_core.attention.mean_attention import mean_attention
from seggen_core.errors import AttentionError
from tests.attention.tiny_pipeline import PROMPTS, TOKENS, build_unet, generate


class LiteralStore:
    """Every query and key of every layer and call, as NumPy arrays [R, N, h, d]."""

    def __init__(self, unet):
        self.calls = {}
        self.handles = []
        for name, module in unet.named_modules():
            if isinstance(module, Attention):
                self.calls[name] = []
                for part in ("to_q", "to_k"):
                    hook = getattr(module, part).register_forward_hook(
                        lambda _m, _i, out, name=name, heads=module.heads: self.calls[name].append(
                            out.detach().double().numpy().reshape(*out.shape[:2], heads, -1)
                        )
                    )
                    self.handles.append(hook)

    def close(self):
        for handle in self.handles:
            handle.remove()

    def maps(self, name, image):
        """Head-averaged attention of the conditional row of `image` at each step: [N, M].

        Equations 3 and 4.
        """
        queries, keys = self.calls[name][::2], self.calls[name][1::2]
        for query, key in zip(queries, keys, strict=True):
            row = len(query) // 2 + image
            heads = []
            for h in range(query.shape[2]):
                scores = query[row, :, h] @ key[row, :, h].T / math.sqrt(query.shape[3])
                exponential = np.exp(scores - scores.max(1, keepdims=True))
                heads.append(exponential / exponential.sum(1, keepdims=True))
            yield np.mean(heads, axis=0)


@pytest.fixture(scope="module")
def recorded(pipeline):
    """A captured generation, and a literal store of the same."""
    store = LiteralStore(pipeline.unet)
    with capture_attention(pipeline.unet, class_tokens=TOKENS, per_layer=True) as recorder:
        generate(pipeline)
    store.close()
    return recorder, store


def test_aggregation_matches_a_literal_equation_5(pipeline, recorded):
    recorder, store = recorded
    layers = list_attention_layers(pipeline.unet)
    assert recorder.cross_resolutions == recorder.self_resolutions == [8, 16]
    for resolution in (8, 16):
        for image, phrases in enumerate(TOKENS):
            crosses, selves = [], []
            for layer in layers:
                if layer.resolution != resolution:
                    continue
                for attention in store.maps(layer.name, image):
                    if layer.is_cross:
                        tokens = [attention[:, t] / attention[:, t].max() for t in phrases[0]]
                        crosses.append(np.mean(tokens, axis=0))
                    else:
                        selves.append(attention / attention.max())
            assert (
                len(crosses)
                == len(selves)
                == 3 * sum(a.is_cross and a.resolution == resolution for a in layers)
            )
            cross = np.mean(crosses, axis=0).reshape(resolution, resolution)
            np.testing.assert_allclose(recorder.cross_map(resolution)[image, 0], cross, atol=1e-5)
            np.testing.assert_allclose(
                recorder.self_map(resolution)[image], np.mean(selves, axis=0), atol=1e-5
            )


def test_layer_maps_average_to_the_map_of_their_resolution(pipeline, recorded):
    recorder, store = recorded
    crosses = [a for a in list_attention_layers(pipeline.unet) if a.is_cross]
    maps = recorder.layer_maps()
    assert set(maps) == {a.name for a in crosses}
    for layer in crosses:
        assert maps[layer.name].shape == (2, 1, layer.resolution, layer.resolution)
        literal = np.mean([m[:, 5] / m[:, 5].max() for m in store.maps(layer.name, 0)], axis=0)
        np.testing.assert_allclose(maps[layer.name][0, 0].flatten(), literal, atol=1e-5)
    for resolution in (8, 16):
        mean = torch.stack([maps[a.name] for a in crosses if a.resolution == resolution]).mean(0)
        torch.testing.assert_close(mean, recorder.cross_map(resolution))


@pytest.mark.parametrize(
    "processor", [AttnProcessor2_0, AttnProcessor, lambda: SlicedAttnProcessor(1)]
)
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
def test_images_are_bit_identical_with_and_without_capture(pipeline, processor, guidance_scale):
    pipeline.unet.set_attn_processor(processor())
    try:
        plain = generate(pipeline, guidance_scale=guidance_scale)
        with capture_attention(pipeline.unet, class_tokens=TOKENS) as recorder:
            captured = generate(pipeline, guidance_scale=guidance_scale)
        after = generate(pipeline, guidance_scale=guidance_scale)
    finally:
        pipeline.unet.set_attn_processor(AttnProcessor2_0())
    assert torch.equal(plain, captured) and torch.equal(plain, after)
    assert recorder.cross_map(16).shape == (2, 1, 16, 16) and recorder.self_map(8).shape == (
        2,
        64,
        64,
    )


def test_capture_does_not_depend_on_the_processor(pipeline):
    maps = []
    for processor in (AttnProcessor2_0(), AttnProcessor()):
        pipeline.unet.set_attn_processor(processor)
        with capture_attention(pipeline.unet, class_tokens=TOKENS) as recorder:
            generate(pipeline)
        maps.append(recorder.cross_map(16))
    pipeline.unet.set_attn_processor(AttnProcessor2_0())
    torch.testing.assert_close(maps[0], maps[1], atol=1e-4, rtol=1e-3)


def test_each_image_has_its_own_class(pipeline, recorded):
    recorder, _ = recorded
    with capture_attention(pipeline.unet, class_tokens=TOKENS[::-1]) as swapped:
        generate(pipeline, PROMPTS[::-1], seeds=[1, 0])
    for resolution in (8, 16):
        torch.testing.assert_close(
            swapped.cross_map(resolution).flip(0),
            recorder.cross_map(resolution),
            atol=1e-4,
            rtol=1e-3,
        )
        torch.testing.assert_close(
            swapped.self_map(resolution).flip(0),
            recorder.self_map(resolution),
            atol=1e-4,
            rtol=1e-3,
        )
    # The same images asked for another word give another map.
    with capture_attention(pipeline.unet, class_tokens=[[(2,)], [(5, 6)]]) as other:
        generate(pipeline)
    assert (other.cross_map(16)[0] - recorder.cross_map(16)[0]).abs().max() > 0.01
    torch.testing.assert_close(other.cross_map(16)[1], recorder.cross_map(16)[1])


def test_several_phrases_per_image(pipeline, recorded):
    recorder, _ = recorded
    with capture_attention(pipeline.unet, class_tokens=[[(2,), (5,)], [(5, 6)]]) as several:
        generate(pipeline)
    maps = several.cross_map(16)
    assert maps.shape == (2, 2, 16, 16)
    torch.testing.assert_close(maps[0, 1], recorder.cross_map(16)[0, 0])
    torch.testing.assert_close(maps[1, 0], recorder.cross_map(16)[1, 0])
    assert not maps[1, 1].any()


def test_filters_choose_layers_and_resolutions(pipeline, recorded):
    recorder, _ = recorded
    name = "up_blocks.0.attentions.0.transformer_blocks.0.attn2"
    with capture_attention(
        pipeline.unet, class_tokens=TOKENS, cross_layers=[name], self_resolutions=[8]
    ) as chosen:
        generate(pipeline)
    assert chosen.cross_resolutions == chosen.self_resolutions == [8]
    torch.testing.assert_close(chosen.cross_map(8), recorder.layer_maps()[name])
    with pytest.raises(
        AttentionError, match=r"no cross-attention was recorded at 16x16; recorded: \[8\]"
    ):
        chosen.cross_map(16)


class LargestAttention(TorchDispatchMode):
    """Notes the largest output of a softmax."""

    def __init__(self):
        super().__init__()
        self.num_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._softmax.default:
            self.num_bytes = max(self.num_bytes, out.numel() * out.element_size())
        return out


@pytest.mark.parametrize("byte_budget", [1, 40_000, 10**9])
def test_a_budget_bounds_the_heads_held_at_a_time(byte_budget):
    torch.manual_seed(0)
    query, key = torch.randn(1, 4, 64, 2), torch.randn(1, 4, 64, 2)
    expected = (query @ key.transpose(-1, -2) * 0.3).softmax(-1).mean(1)
    with LargestAttention() as largest:
        mean = mean_attention(query, key, scale=0.3, byte_budget=byte_budget)
    torch.testing.assert_close(mean, expected)
    one_row = 64 * 4
    # Scores and their softmax live side by side: each gets half. One head's are the most that there
    # are at a time.
    assert largest.num_bytes <= max(one_row, byte_budget // 2)
    assert (largest.num_bytes == 64 * one_row) == (byte_budget >= 2 * 64 * one_row)


@pytest.mark.parametrize("byte_budget", [1, 100_000])
def test_the_budgeted_path_equals_the_plain_one(pipeline, recorded, byte_budget):
    recorder, _ = recorded
    with capture_attention(pipeline.unet, class_tokens=TOKENS, byte_budget=byte_budget) as frugal:
        generate(pipeline)
    for resolution in (8, 16):
        torch.testing.assert_close(frugal.cross_map(resolution), recorder.cross_map(resolution))
        torch.testing.assert_close(frugal.self_map(resolution), recorder.self_map(resolution))


def test_memory_grows_with_neither_steps_nor_layers(pipeline):
    sizes = []
    with capture_attention(pipeline.unet, class_tokens=TOKENS) as recorder:
        generate(
            pipeline,
            steps=4,
            callback_on_step_end=lambda _p, _i, _t, kwargs: (
                sizes.append(recorder.num_bytes),
                kwargs,
            )[1],
        )
    per_image = sum(4 * (n + n * n) for n in (64, 256))
    assert sizes == [2 * per_image] * 4


def test_half_precision_is_captured_in_float32(pipeline):
    store = LiteralStore(pipeline.unet)
    with (
        torch.autocast("cpu", dtype=torch.bfloat16),
        capture_attention(pipeline.unet, class_tokens=TOKENS) as half,
    ):
        generate(pipeline, steps=1)
    store.close()
    assert half.cross_map(16).dtype == half.self_map(16).dtype == torch.float32
    # The queries and keys are bfloat16; what is made of them is as exact as in float32.
    selves = [
        a.name for a in list_attention_layers(pipeline.unet) if a.resolution == 8 and not a.is_cross
    ]
    maps = [m / m.max() for name in selves for m in store.maps(name, 1)]
    np.testing.assert_allclose(half.self_map(8)[1], np.mean(maps, axis=0), atol=1e-5)


def test_a_direct_call_without_guidance_records_every_row(pipeline):
    unet = pipeline.unet
    latents, text = torch.randn(2, 4, 16, 16), torch.randn(2, 16, 16)
    with capture_attention(unet, class_tokens=[[(3,)], [(4,)]]) as recorder:
        output = unet(latents, torch.tensor([500, 100]), text).sample
    assert output.requires_grad and not recorder.cross_map(8).requires_grad
    with capture_attention(unet, class_tokens=[[(4,)]]) as second, torch.no_grad():
        unet(latents[1:], torch.tensor([100]), text[1:])
    torch.testing.assert_close(recorder.cross_map(8)[1:], second.cross_map(8), atol=1e-5, rtol=1e-4)


def test_the_network_is_as_it_was_afterwards(pipeline):
    before = dict(pipeline.unet.attn_processors)
    hooks = sum(len(m._forward_hooks) for m in pipeline.unet.modules())
    with pytest.raises(TypeError), capture_attention(pipeline.unet, class_tokens=TOKENS):
        pipeline.unet()
    with capture_attention(pipeline.unet, class_tokens=TOKENS):
        assert pipeline.unet.attn_processors != before
    assert pipeline.unet.attn_processors == before
    assert sum(len(m._forward_hooks) for m in pipeline.unet.modules()) == hooks


def test_bad_requests_are_named(pipeline):
    unet = pipeline.unet
    with pytest.raises(
        AttentionError,
        match="no cross-attention layer is called nowhere; this network has: down_blocks",
    ):
        capture_attention(unet, class_tokens=TOKENS, cross_layers=["nowhere"]).__enter__()
    for empty in ([], [[]], [[()]]):
        with pytest.raises(AttentionError, match="at least one token"):
            capture_attention(unet, class_tokens=empty).__enter__()
    fused = build_unet()
    fused.fuse_qkv_projections()
    with pytest.raises(AttentionError, match="uses FusedAttnProcessor2_0, expected one of AttnPro"):
        capture_attention(fused, class_tokens=TOKENS).__enter__()
    blind = UNet2DModel(
        sample_size=16,
        block_out_channels=(8, 8),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=4,
    )
    with pytest.raises(AttentionError, match="UNet2DModel has no cross-attention layer"):
        capture_attention(blind, class_tokens=TOKENS).__enter__()


@pytest.mark.parametrize(
    "call, message",
    [
        ({"rows": 3}, "called with 3 rows, but class tokens were given for 2 images"),
        ({"width": 24}, "which is no square"),
        ({"length": 4}, "token position 6 was asked for, but the prompt has 4 positions"),
        ({"encoder_attention_mask": torch.ones(2, 16)}, "attention mask"),
    ],
)
def test_a_call_that_cannot_be_recorded_is_an_error(pipeline, call, message):
    rows = call.get("rows", 2)
    mask = {k: v for k, v in call.items() if k == "encoder_attention_mask"}
    with (
        pytest.raises(AttentionError, match=message),
        capture_attention(pipeline.unet, class_tokens=TOKENS),
        torch.no_grad(),
    ):
        pipeline.unet(
            torch.randn(rows, 4, 16, call.get("width", 16)),
            10,
            torch.randn(rows, call.get("length", 16), 16),
            **mask,
        )


def test_maps_of_all_resolutions_are_averaged_layer_by_layer(pipeline, recorded):
    recorder, _ = recorded
    layers = recorder.layer_maps().values()
    enlarged = [
        torch.nn.functional.interpolate(m, size=(32, 32), mode="bilinear", align_corners=False)
        for m in layers
    ]
    torch.testing.assert_close(
        recorder.mean_cross_map(32), torch.stack(enlarged).mean(0), atol=1e-5, rtol=1e-4
    )
    with (
        capture_attention(pipeline.unet, class_tokens=TOKENS) as nothing,
        pytest.raises(AttentionError, match="no cross-attention"),
    ):
        nothing.mean_cross_map(32)
