from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.segmentation.mask2former import Mask2FormerSegmenter
from seggen_core.segmentation.mask_classifier import binary_masks, semantic_scores
from seggen_core.segmentation.models import build_segmenter, load_segmenter, save_segmenter
from seggen_core.segmentation.segmenter import normalize
from tests.segmentation.tiny import ID2LABEL, TINY_MASK2FORMER


def tiny(**changes: object) -> Mask2FormerSegmenter:
    torch.manual_seed(0)
    config = SegmenterConfig.model_validate(
        {"model": "mask2former", "architecture": TINY_MASK2FORMER} | changes
    )
    segmenter = build_segmenter(config, id2label=ID2LABEL)
    assert isinstance(segmenter, Mask2FormerSegmenter)
    return segmenter


def pictures() -> torch.Tensor:
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def test_semantic_scores_agree_with_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    classes = 3 * torch.randn(2, 5, 4, generator=generator)
    masks = 3 * torch.randn(2, 5, 8, 8, generator=generator)
    # Its post-processing works at 384 x 384 whatever the input; asked for that size it does nothing
    # else.
    scores = semantic_scores(classes, masks_queries_logits=masks, size=(384, 384))
    outputs = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    expected = Mask2FormerImageProcessor().post_process_semantic_segmentation(
        outputs, target_sizes=[(384, 384)] * 2
    )
    assert torch.equal(scores.argmax(1), torch.stack(expected))
    assert len(scores.argmax(1).unique()) == 3


def test_scores_by_hand() -> None:
    # One certain query for class 1 with a mask everywhere but in the second pixel, and one that is
    # "no object".
    classes = torch.tensor([[[0.0, 20.0, 0.0], [0.0, 0.0, 20.0]]])
    masks = torch.tensor([[[[20.0, -20.0]], [[20.0, 20.0]]]])
    scores = semantic_scores(classes, masks_queries_logits=masks, size=(1, 2))
    torch.testing.assert_close(
        scores, torch.tensor([[[[0.0, 0.0]], [[1.0, 0.0]]]]), atol=1e-6, rtol=0
    )


def test_binary_masks_hold_the_classes_that_are_present() -> None:
    maps = torch.tensor([[[0, 2], [255, 2]], [[255, 255], [255, 255]]])
    masks, classes = binary_masks(maps, num_classes=3)
    assert [c.tolist() for c in classes] == [[0, 2], []]
    assert masks[0].tolist() == [[[1, 0], [0, 0]], [[0, 1], [0, 1]]]
    assert masks[1].shape == (0, 2, 2)


@pytest.mark.parametrize("ignored", [0, 1, 2])
def test_loss_is_finite_and_trains_even_where_images_have_no_labels(ignored: int) -> None:
    segmenter = tiny().train()
    maps = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    maps[:ignored] = 255
    loss = segmenter.loss(pictures(), segmentation_maps=maps)
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert torch.isfinite(segmenter.network.class_predictor.weight.grad).all()


def test_saved_folder_is_a_transformers_model(tmp_path: Path) -> None:
    segmenter = tiny().eval()
    save_segmenter(segmenter, folder=tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    loaded = load_segmenter(tmp_path / "model")
    assert loaded.id2label == ID2LABEL and not loaded.training
    assert torch.equal(loaded.predict_logits(pictures()), segmenter.predict_logits(pictures()))
    network = Mask2FormerForUniversalSegmentation.from_pretrained(tmp_path / "model")
    outputs = network(pixel_values=normalize(pictures()))
    segmentation_maps = Mask2FormerImageProcessor().post_process_semantic_segmentation(
        outputs, target_sizes=[(32, 32)] * 2
    )
    same = torch.stack(segmentation_maps) == segmenter.predict_logits(pictures()).argmax(1)
    assert same.float().mean() > 0.9  # transformers resizes scores, not masks: edges may differ


def test_pretrained_weights_get_a_head_for_the_new_classes(tmp_path: Path) -> None:
    save_segmenter(tiny(), folder=tmp_path / "model")
    torch.manual_seed(9)
    config = SegmenterConfig(
        model="mask2former",
        source=str(tmp_path / "model"),
        architecture={"train_num_points": 16},
    )
    segmenter = build_segmenter(config, id2label={0: "road", 1: "bus"})
    assert isinstance(segmenter, Mask2FormerSegmenter)
    assert segmenter.num_classes == 2 and segmenter.network.class_predictor.out_features == 3
    assert segmenter.network.criterion.num_points == 16
    old = tiny().network.model.state_dict()
    assert all(
        torch.equal(value, old[name])
        for name, value in segmenter.network.model.state_dict().items()
    )


def test_the_backbone_may_come_from_a_classifier(tmp_path: Path) -> None:
    from transformers import ResNetConfig, ResNetForImageClassification

    shape = {"embedding_size": 8, "hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
    classifier = ResNetForImageClassification(ResNetConfig(**shape))
    classifier.save_pretrained(tmp_path)
    backbone = {
        "model_type": "resnet",
        **shape,
        "out_features": ["stage1", "stage2", "stage3", "stage4"],
    }
    segmenter = tiny(
        architecture=TINY_MASK2FORMER | {"backbone_config": backbone}, backbone_source=str(tmp_path)
    )
    wanted = classifier.resnet.state_dict()
    loaded = {
        name.removeprefix(segmenter.backbone_prefix): value
        for name, value in segmenter.state_dict().items()
        if name.startswith(segmenter.backbone_prefix)
    }
    assert loaded.keys() == wanted.keys() and all(
        torch.equal(loaded[name], wanted[name]) for name in wanted
    )
    with pytest.raises(FoundationError, match=r"doesn't fit the backbone of train_seg"):
        tiny(backbone_source=str(tmp_path))  # a Swin


def test_pretrained_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    save_segmenter(tiny(), folder=tmp_path / "model")
    with pytest.raises(
        FoundationError,
        match=r"doesn't fill this Mask2Former: \d+ parameters are missing or of another shape",
    ):
        tiny(source=str(tmp_path / "model"), architecture={"num_queries": 7})


def test_nothing_is_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    resnet = {
        "model_type": "resnet",
        "embedding_size": 8,
        "hidden_sizes": [8, 8, 8, 8],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    }
    resnet["out_features"] = TINY_MASK2FORMER["backbone_config"]["out_features"]
    save_segmenter(
        tiny(architecture=TINY_MASK2FORMER | {"backbone_config": resnet}), folder=tmp_path / "model"
    )
    load_segmenter(tmp_path / "model")
    assert capfd.readouterr() == ("", "")


def test_wrong_settings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't build"):
        tiny(architecture=TINY_MASK2FORMER | {"feature_size": 30})
    with pytest.raises(ValueError, match="num_queries"):
        tiny(architecture=TINY_MASK2FORMER | {"num_queries": "many"})
    for revision in (None, "main"):
        with pytest.raises(FoundationError, match="pinned by commit"):
            tiny(
                source="facebook/mask2former-swin-tiny-ade-semantic",
                revision=revision,
            )
    with pytest.raises(FoundationError, match="can't load a Mask2Former"):
        tiny(source=str(tmp_path))


def test_the_backbone_may_come_from_a_swin_classifier(tmp_path: Path) -> None:
    """As Swin-T, -B and -L do; Mask2Former adds a normalisation to each of its feature maps."""
    from transformers import SwinConfig, SwinForImageClassification

    shape = {**TINY_MASK2FORMER["backbone_config"], "image_size": 32, "window_size": 4}
    del shape["model_type"], shape["out_features"]
    classifier = SwinForImageClassification(SwinConfig(**shape))
    classifier.save_pretrained(tmp_path)
    segmenter = tiny(backbone_source=str(tmp_path))
    wanted, segmenter_state = classifier.state_dict(), segmenter.state_dict()
    loaded = {
        name.removeprefix(segmenter.backbone_prefix): value
        for name, value in segmenter_state.items()
        if name.startswith(segmenter.backbone_prefix)
    }
    new = {name for name in loaded if name.startswith("hidden_states_norms.")}
    assert len(new) == 8 and not new & set(wanted)
    assert set(loaded) - new == {n for n in wanted if not n.startswith("classifier.")}
    for name in set(loaded) - new:
        assert torch.equal(loaded[name], wanted[name]), name
    with pytest.raises(FoundationError, match=r"\d+ of \d+ parameters are missing"):
        tiny(
            architecture=TINY_MASK2FORMER
            | {"backbone_config": TINY_MASK2FORMER["backbone_config"] | {"embed_dim": 16}},
            backbone_source=str(tmp_path),
        )


@pytest.mark.parametrize(
    "model_type, shape",
    [
        ("convnext", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
        ("convnextv2", {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
        (
            "swinv2",
            {"image_size": 32, "embed_dim": 8, "depths": [1] * 4, "num_heads": [1] * 4}
            | {"patch_size": 4, "window_size": 4},
        ),
        (
            "pvt_v2",
            {"hidden_sizes": [8, 8, 16, 16], "depths": [1] * 4, "num_attention_heads": [1] * 4},
        ),
    ],
)
def test_the_backbone_may_come_from_any_classifier_of_transformers(
    tmp_path: Path, model_type: str, shape: dict
) -> None:
    from transformers import AutoConfig, AutoModelForImageClassification

    classifier = AutoModelForImageClassification.from_config(
        AutoConfig.for_model(model_type, **shape)
    )
    classifier.save_pretrained(tmp_path)
    backbone = {"model_type": model_type, **shape, "out_indices": [1, 2, 3, 4]}
    if model_type == "pvt_v2":
        backbone["out_indices"] = [0, 1, 2, 3]
    segmenter = tiny(
        architecture=TINY_MASK2FORMER | {"backbone_config": backbone}, backbone_source=str(tmp_path)
    )
    wanted = {n.split(".", 1)[1]: v for n, v in classifier.state_dict().items() if "." in n}
    wanted |= classifier.state_dict()
    loaded = {
        name.removeprefix(segmenter.backbone_prefix): value
        for name, value in segmenter.state_dict().items()
        if name.startswith(segmenter.backbone_prefix) and "hidden_states_norms" not in name
    }
    assert len(loaded) > 20
    for name, value in loaded.items():
        assert torch.equal(value, wanted[name]), name
    assert segmenter.eval().predict_logits(pictures()).shape == (2, 3, 32, 32)


def test_the_loss_is_that_of_transformers() -> None:
    segmenter = tiny().train()
    maps = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    masks, classes = binary_masks(maps, num_classes=3)
    torch.manual_seed(3)
    expected = segmenter.network(
        pixel_values=normalize(pictures()), mask_labels=masks, class_labels=classes
    ).loss
    torch.manual_seed(3)
    assert torch.equal(segmenter.loss(pictures(), segmentation_maps=maps), expected)


def test_images_are_padded_to_the_coarsest_stride() -> None:
    """With the mean colour, and with pixels that belong to no mask."""
    segmenter = tiny().eval()
    images = pictures()[:, :, :20, :28]
    padded = torch.tensor([0.485, 0.456, 0.406])[None, :, None, None].repeat(2, 1, 32, 32)
    padded[:, :, :20, :28] = images
    maps = torch.randint(0, 3, (2, 20, 28), generator=torch.Generator().manual_seed(2))
    large = torch.full((2, 32, 32), 255)
    large[:, :20, :28] = maps
    with torch.no_grad():
        scores = segmenter.predict_logits(images)
        torch.testing.assert_close(scores, segmenter.predict_logits(padded)[..., :20, :28])
        losses = []
        for pair in ((images, maps), (padded, large)):
            torch.manual_seed(0)
            losses.append(segmenter.loss(pair[0], segmentation_maps=pair[1]))
    torch.testing.assert_close(losses[0], losses[1])


def test_under_autocast_pixel_decoder_and_loss_stay_in_float32() -> None:
    segmenter = tiny().train()
    maps = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    seen: dict[str, set[torch.dtype]] = {"encoder": set(), "decoder": set()}
    module = segmenter.network.model.pixel_level_module
    for name, kinds in seen.items():
        for part in getattr(module, name).modules():
            if isinstance(part, torch.nn.Linear | torch.nn.Conv2d):
                part.register_forward_hook(lambda _m, _i, out, kinds=kinds: kinds.add(out.dtype))
    torch.manual_seed(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = segmenter.loss(pictures(), segmentation_maps=maps)
    assert seen == {"encoder": {torch.bfloat16}, "decoder": {torch.float32}}
    assert loss.dtype == torch.float32
    loss.backward()
    seen["decoder"].clear()
    torch.manual_seed(0)
    exact = segmenter.loss(pictures(), segmentation_maps=maps)
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)
    assert all(torch.isfinite(p.grad).all() for p in segmenter.parameters() if p.grad is not None)


def test_heads_start_as_published() -> None:
    """Xavier's and Kaiming's bounds, of which a uniform draw nearly reaches the end."""
    network = tiny(initialization="published").network
    decoder = network.model.pixel_level_module.decoder
    layer = decoder.encoder.layers[0]
    fans = [(layer.fc1, 32, 32), (layer.fc2, 32, 32)]
    fans += [(p[0], p[0].in_channels, p[0].out_channels) for p in decoder.input_projections]
    for module, fan_in, fan_out in fans:
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert 0.9 * bound < module.weight.abs().max() <= bound
    kaiming = [decoder.mask_projection, decoder.lateral_convolutions[0][0]]
    for module in [*kaiming, decoder.output_convolutions[0][0]]:
        bound = (3 / (module.in_channels * module.kernel_size[0] ** 2)) ** 0.5
        assert 0.9 * bound < module.weight.abs().max() <= bound
    head = network.class_predictor
    assert 0.9 / 32**0.5 < head.weight.abs().max() <= 1 / 32**0.5
    assert head.bias.abs().max() > 0
    plain = tiny().network.model.pixel_level_module.decoder
    assert plain.mask_projection.weight.std() < 0.03  # transformers' own
