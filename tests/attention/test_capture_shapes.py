"""Attention is captured from UNets of every shape: as SD 1's, SD 2's and SDXL's."""

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from seggen_core.attention.capture import capture_attention
from seggen_core.attention.layers import list_attention_layers
from seggen_core.generators.foundation import vae_scale_factor
from tests.attention.tiny_pipeline import TOKENS, build_pipeline, generate
from tests.generators.tiny_sdxl import build_sdxl


def test_an_sdxl_unet_is_captured_and_listed():
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32, 32),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=(1, 1, 2),
        attention_head_dim=(1, 2, 4),
        use_linear_projection=True,
        cross_attention_dim=16,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=32,
        norm_num_groups=8,
    )
    conditions = {"text_embeds": torch.randn(2, 8), "time_ids": torch.zeros(2, 6)}
    for latent_size in (16, 24):
        with (
            capture_attention(unet, class_tokens=[[(1,)]], per_layer=True) as recorder,
            torch.no_grad(),
        ):
            unet(
                torch.randn(2, 4, latent_size, latent_size),
                10,
                torch.randn(2, 5, 16),
                added_cond_kwargs=conditions,
            )
        listed = list_attention_layers(unet, latent_size=latent_size)
        assert (
            recorder.self_resolutions
            == sorted({a.resolution for a in listed})
            == [latent_size // 4, latent_size // 2]
        )
        assert {n: m.shape[-1] for n, m in recorder.layer_maps().items()} == {
            a.name: a.resolution for a in listed if a.is_cross
        }


def build_sd2():
    """A pipeline whose UNet is shaped as SD 2's.

    It has linear projections, more heads where it is coarser, upcast attention, v-prediction.
    """
    pipeline = build_pipeline()
    torch.manual_seed(2)
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=(2, 4),
        use_linear_projection=True,
        upcast_attention=True,
        norm_num_groups=8,
    )
    scheduler = DDIMScheduler(
        clip_sample=False, prediction_type="v_prediction", rescale_betas_zero_snr=True
    )
    pipeline.register_modules(unet=unet.eval(), scheduler=scheduler)
    return pipeline


@pytest.mark.parametrize("build", [build_sd2, build_sdxl])
def test_pipelines_of_every_shape_give_the_same_images_and_maps_of_every_resolution(build):
    pipeline = build()
    pipeline.set_progress_bar_config(disable=True)
    plain = generate(pipeline, steps=2, height=32, width=32)
    with capture_attention(pipeline.unet, class_tokens=TOKENS) as recorder:
        captured = generate(pipeline, steps=2, height=32, width=32)
    assert torch.equal(plain, captured)
    latent_size = 32 // vae_scale_factor(pipeline)
    layers = list_attention_layers(pipeline.unet, latent_size=latent_size)
    assert recorder.cross_resolutions == sorted({a.resolution for a in layers if a.is_cross})
    for r in recorder.cross_resolutions:
        assert (
            recorder.cross_map(r).shape == (2, 1, r, r) and recorder.cross_map(r).isfinite().all()
        )
        assert recorder.self_map(r).amax() <= 1
