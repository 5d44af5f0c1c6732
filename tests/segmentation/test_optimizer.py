import pytest
import torch

from seggen_core.segmentation.models import build_segmenter
from seggen_core.segmentation.optimizer import (
    freeze_batch_norm,
    make_optimizer,
    parameter_groups,
)
from seggen_core.segmentation.segmenter import Segmenter
from tests.segmentation.test_train import settings
from tests.segmentation.tiny import ID2LABEL, TINY_MASK2FORMER

RESNET = {
    "model_type": "resnet",
    "embedding_size": 8,
    "hidden_sizes": [8, 8, 8, 8],
    "depths": [1, 1, 1, 1],
    "out_features": ["stage1", "stage2", "stage3", "stage4"],
}


def groups_by_name(segmenter: Segmenter, **changes: object) -> dict[str, tuple[float, float]]:
    """Decay and factor of each trained parameter, by its name."""
    names = {id(p): name for name, p in segmenter.named_parameters()}
    groups = parameter_groups(segmenter, weight_decay=0.05, **changes)  # type: ignore[arg-type]
    return {names[id(p)]: (g["weight_decay"], g["lr"]) for g in groups for p in g["params"]}


def mask2former(backbone: dict) -> Segmenter:
    config = settings("mask2former", architecture=TINY_MASK2FORMER | {"backbone_config": backbone})
    return build_segmenter(config, id2label=ID2LABEL)


def test_mask2former_decays_all_but_norms_and_embeddings() -> None:
    """The rule of the authors' build_optimizer, on both kinds of backbones."""
    for backbone in (RESNET, TINY_MASK2FORMER["backbone_config"]):
        segmenter = mask2former(backbone)
        groups = groups_by_name(
            segmenter, backbone_multiplier=0.1, undecayed="norms_and_embeddings"
        )
        assert set(groups) == {n for n, p in segmenter.named_parameters() if p.requires_grad}
        free = {name for name, (decay, _) in groups.items() if decay == 0}
        kinds = (
            "norm",  # of every kind and name
            "queries_embedder",
            "queries_features",
            "transformer_module.level_embed",
            "relative_position_bias_table",
        )
        expected = {n for n in groups if any(kind in n for kind in kinds)}
        # Names of normalisation layers in sequences: projection, normalisation, activation.
        decoder = "network.model.pixel_level_module.decoder."
        parts = tuple(f"{decoder}{part}" for part in ("input_projections", "adapter_", "layer_"))
        expected |= {n for n in groups if n.startswith(parts) and n.split(".")[-2] == "1"}
        assert free == expected
        decayed = set(groups) - free
        assert f"{decoder}encoder.layers.0.fc1.bias" in decayed
        assert f"{decoder}level_embed" in decayed, "a plain parameter, no embedding"
        for name, (_, factor) in groups.items():
            assert factor == (0.1 if name.startswith(segmenter.backbone_prefix) else 1.0)


def test_hrnet_may_decay_everything() -> None:
    segmenter = build_segmenter(settings(), id2label=ID2LABEL)
    assert set(groups_by_name(segmenter, undecayed="none").values()) == {(0.05, 1.0)}


def test_sgd_by_hand() -> None:
    """v = 0.9 v + g + decay * w, w = w - rate * v, with the rates of a polynomial schedule."""
    config = settings(optimizer="sgd", weight_decay=0.1, undecayed="none")
    segmenter = build_segmenter(config, id2label=ID2LABEL)
    optimizer = make_optimizer(segmenter, config)
    weight = segmenter.classifier.weight  # type: ignore[union-attr]
    assert isinstance(weight, torch.Tensor)
    expected, velocity = weight.detach().clone(), torch.zeros_like(weight)
    for rate in (0.02, 0.01):
        for group in optimizer.param_groups:
            group["lr"] = rate
        weight.grad = torch.ones_like(weight)
        velocity = 0.9 * velocity + 1 + 0.1 * expected
        expected = expected - rate * velocity
        optimizer.step()
        torch.testing.assert_close(weight.detach(), expected)


def test_frozen_batch_norm_keeps_weights_and_statistics() -> None:
    segmenter = mask2former(RESNET)
    freeze_batch_norm(segmenter)
    segmenter.train()
    norms = {
        name: module
        for name, module in segmenter.named_modules()
        if isinstance(module, torch.nn.BatchNorm2d)
    }
    assert len(norms) == len(segmenter.frozen_norms) > 10
    before = {n: {k: v.clone() for k, v in m.state_dict().items()} for n, m in norms.items()}
    assert not set(groups_by_name(segmenter)) & {
        f"{name}.{part}" for name in norms for part in ("weight", "bias")
    }
    maps = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(0))
    optimizer = make_optimizer(segmenter, settings("mask2former", learning_rate=1.0))
    segmenter(torch.rand(2, 3, 32, 32), segmentation_maps=maps).backward()
    optimizer.step()
    assert segmenter.training and not any(m.training for m in norms.values())
    for name, module in norms.items():
        for part, value in module.state_dict().items():
            assert torch.equal(value, before[name][part]), f"{name}.{part}"


def test_norms_that_are_not_frozen_learn() -> None:
    segmenter = build_segmenter(settings(), id2label=ID2LABEL).train()
    assert not segmenter.frozen_norms
    before = segmenter.get_buffer("norm.running_mean").clone()
    maps = torch.zeros(2, 32, 32, dtype=torch.int64)
    segmenter(torch.rand(2, 3, 32, 32), segmentation_maps=maps)
    assert not torch.equal(segmenter.get_buffer("norm.running_mean"), before)


@pytest.mark.parametrize("model", ["hrnet", "mask2former"])
def test_no_parameter_is_forgotten(model: str) -> None:
    segmenter = build_segmenter(settings(model), id2label=ID2LABEL)
    for undecayed in ("vectors", "norms_and_embeddings", "none"):
        assert len(groups_by_name(segmenter, undecayed=undecayed)) == len(
            list(segmenter.parameters())
        )
