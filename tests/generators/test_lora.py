"""Text2Mask by low-rank adapters: trained, resumed, saved as diffusers saves them, merged."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from seggen_core.config import Text2MaskConfig
from seggen_core.config.generation import LoraConfig
from seggen_core.generators.foundation import load_pipeline
from seggen_core.generators.lora import add_lora, merge_lora, save_lora
from tests.attention.tiny_pipeline import build_pipeline
from tests.generators.test_text2mask import CONFIG, draw, train
from tests.generators.tiny_sdxl import build_sdxl

LORA = CONFIG.model_copy(update={"lora": LoraConfig(rank=4), "learning_rate": 1e-2})


@pytest.mark.parametrize("build", [build_pipeline, build_sdxl])
def test_adapters_are_trained_and_open_in_diffusers(tmp_path: Path, build) -> None:
    pipeline, foundation = build(), build()
    before = {k: v.clone() for k, v in pipeline.unet.state_dict().items()}
    train(pipeline, tmp_path / "run", config=LORA)
    after = pipeline.unet.state_dict()
    frozen = {k.replace(".base_layer", ""): v for k, v in after.items() if "lora_" not in k}
    assert frozen.keys() == before.keys()
    assert all(torch.equal(frozen[k], before[k]) for k in before), "the UNet's own weights stay"
    assert all(v.abs().max() > 0 for k, v in after.items() if "lora_B" in k)

    # The file alone, on the foundation, by diffusers' own loader; and merged, as a plain pipeline.
    save_lora(pipeline, tmp_path / "lora")
    tensors = load_file(tmp_path / "lora" / "pytorch_lora_weights.safetensors")
    assert len(tensors) == sum("lora_" in k for k in after)
    adapted = draw(pipeline)
    merge_lora(pipeline.unet)
    assert pipeline.unet.state_dict().keys() == before.keys()
    pipeline.save_pretrained(tmp_path / "saved")
    merged = draw(load_pipeline(tmp_path / "saved"))
    foundation.load_lora_weights(tmp_path / "lora")
    foundation.vae.register_to_config(scaling_factor=pipeline.vae.config.scaling_factor)
    loaded = draw(foundation)
    for other in (merged, loaded):
        assert np.abs(other.astype(int) - adapted.astype(int)).max() <= 2
    assert np.abs(draw(build()).astype(int) - adapted.astype(int)).max() > 2
    assert not any(p.requires_grad for p in pipeline.unet.parameters())


def test_a_killed_training_of_adapters_ends_in_the_same_bytes(tmp_path: Path) -> None:
    def killed(step: int, _: dict[str, float]) -> None:
        if step == 3:
            raise KeyboardInterrupt

    whole, resumed = build_pipeline(), build_pipeline()
    losses = train(whole, tmp_path / "whole", config=LORA)
    with pytest.raises(KeyboardInterrupt):
        train(build_pipeline(), tmp_path / "killed", config=LORA, on_step=killed)
    torch.manual_seed(1)  # the first weights come from no global generator
    assert train(resumed, tmp_path / "killed", config=LORA) == losses[2:]
    weights = resumed.unet.state_dict()
    assert all(torch.equal(weights[k], v) for k, v in whole.unet.state_dict().items())
    (state, *_) = (tmp_path / "whole" / "state").glob("*.safetensors")
    trained = {k for k in load_file(state) if k.startswith("model|") and "lora_" not in k}
    assert not trained, "a state holds the adapters alone"


def test_rank_scale_and_layers_are_the_settings(tmp_path: Path) -> None:
    unet = build_pipeline().unet
    add_lora(unet, LoraConfig(rank=3, alpha=6, feed_forward=True), seed=0)
    shapes = {k: v.shape for k, v in unet.state_dict().items() if "lora_A" in k}
    assert {shape[0] for shape in shapes.values()} == {3}
    assert any(".ff.net." in name for name in shapes) and any("attn2" in name for name in shapes)
    layer = next(m for n, m in unet.named_modules() if n.endswith("attn1.to_q"))
    assert layer.scaling["default"] == 2.0
    again = build_pipeline().unet
    add_lora(again, LoraConfig(rank=3, alpha=6, feed_forward=True), seed=0)
    first = again.state_dict()
    assert all(torch.equal(first[k], v) for k, v in unet.state_dict().items())
    with pytest.raises(ValueError, match="rank"):
        Text2MaskConfig(num_steps=1, lora={"rank": 0})
