import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.segmentation.hrnet import HRNetSegmenter
from seggen_core.segmentation.models import build_segmenter, load_segmenter, save_segmenter
from seggen_core.segmentation.segmenter import normalize
from tests.segmentation.tiny import ID2LABEL, TINY_HRNET


def tiny(**changes: object) -> HRNetSegmenter:
    torch.manual_seed(0)
    config = SegmenterConfig.model_validate(
        {"backbone_kwargs": TINY_HRNET, "head_width": 8, "stem_stride": 2} | changes
    )
    segmenter = build_segmenter(config, id2label=ID2LABEL)
    assert isinstance(segmenter, HRNetSegmenter)
    return segmenter


def pictures(size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_stem_stride_is_the_stride_of_the_finest_branch(stem_stride: int) -> None:
    segmenter = tiny(stem_stride=stem_stride).eval()
    sizes = [tuple(b.shape[-2:]) for b in segmenter.backbone(pictures())]
    assert sizes == [(32 // stem_stride // k,) * 2 for k in (1, 2, 4, 8)]


@pytest.mark.parametrize("size", [(32, 32), (20, 37), (7, 64)])
def test_logits_have_the_size_of_the_input(size: tuple[int, int]) -> None:
    logits = tiny().eval().predict_logits(pictures(size))
    assert logits.shape == (2, 3, *size) and logits.dtype == torch.float32


def test_the_head_is_a_convolution_over_the_concatenated_branches() -> None:
    segmenter = tiny().eval()
    images = pictures()
    branches = segmenter.backbone(normalize(images))
    size = branches[0].shape[-2:]
    upsampled = torch.cat(
        [F.interpolate(b, size=size, mode="bilinear", align_corners=False) for b in branches], dim=1
    )
    kernel = torch.cat([p.weight for p in segmenter.projections], dim=1)
    logits = segmenter.classifier(F.relu(segmenter.norm(F.conv2d(upsampled, kernel))))
    expected = F.interpolate(logits, size=(32, 32), mode="bilinear", align_corners=False)
    torch.testing.assert_close(segmenter.predict_logits(images), expected, atol=1e-5, rtol=1e-4)


def test_loss_is_cross_entropy_over_labelled_pixels() -> None:
    segmenter = tiny().eval()
    maps = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    maps[:, :20] = 255
    logits = segmenter.predict_logits(pictures())
    expected = (
        -logits.log_softmax(1).gather(1, maps.clamp(max=2)[:, None])[:, 0][maps != 255].mean()
    )
    torch.testing.assert_close(segmenter.loss(pictures(), segmentation_maps=maps), expected)


def test_weighted_loss_is_the_weighted_mean_of_labelled_pixels() -> None:
    segmenter = tiny().eval()
    weights = torch.tensor([0.5, 1.0, 4.0])
    segmenter.weigh_classes(weights)
    maps = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    maps[:, :20] = 255
    losses = (
        -segmenter.predict_logits(pictures())
        .log_softmax(1)
        .gather(1, maps.clamp(max=2)[:, None])[:, 0][maps != 255]
    )
    weight = weights[maps[maps != 255]]
    torch.testing.assert_close(
        segmenter.loss(pictures(), segmentation_maps=maps), (losses * weight).sum() / weight.sum()
    )
    assert "class_weights" not in segmenter.state_dict()


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_without_labels_teaches_nothing(weighted: bool) -> None:
    segmenter = tiny()
    if weighted:
        segmenter.weigh_classes(torch.tensor([0.5, 1.0, 4.0]))
    loss = segmenter.loss(pictures(), segmentation_maps=torch.full((2, 32, 32), 255))
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in segmenter.parameters())


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    segmenter = tiny()
    segmenter.loss(
        pictures(), segmentation_maps=torch.zeros(2, 32, 32, dtype=torch.int64)
    )  # moves the running statistics
    save_segmenter(segmenter, folder=tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    loaded = load_segmenter(tmp_path / "model")
    assert not loaded.training and loaded.id2label == ID2LABEL
    assert torch.equal(
        loaded.predict_logits(pictures()), segmenter.eval().predict_logits(pictures())
    )


def test_pretrained_weights_are_taken_from_safetensors(tmp_path: Path) -> None:
    torch.manual_seed(5)
    classifier = timm.create_model("hrnet_w18_small", pretrained=False)
    for path in (tmp_path / "model.safetensors", tmp_path / "other.safetensors"):
        save_file(classifier.state_dict(), path)
    for source in (tmp_path, tmp_path / "other.safetensors"):
        segmenter = tiny(backbone_source=str(source), backbone_kwargs={})
        assert torch.equal(segmenter.backbone.conv2.weight, classifier.conv2.weight)
        assert torch.equal(
            segmenter.backbone.stage4[0].fuse_layers[3][0][0][0].weight,
            classifier.stage4[0].fuse_layers[3][0][0][0].weight,
        )
    with pytest.raises(
        FoundationError, match=r"doesn't fit the backbone of train_seg: .* e\.g\. conv1\.weight"
    ):
        tiny(backbone_source=str(tmp_path))


def test_pickles_and_missing_files_are_refused(tmp_path: Path) -> None:
    torch.save({}, tmp_path / "weights.pth")
    for source in (tmp_path / "weights.pth", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(FoundationError, match="is no safetensors file"):
            tiny(backbone_source=str(source))
    with pytest.raises(FoundationError, match=r"there is no file .*config\.json"):
        load_segmenter(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "unet"}))
    with pytest.raises(FoundationError, match="model_type 'unet'"):
        load_segmenter(tmp_path)


def test_wrong_architectures_are_refused() -> None:
    with pytest.raises(ConfigError, match="'resnet18'; expected one of timm's: hrnet_w18"):
        tiny(backbone="resnet18")
    with pytest.raises(ValueError, match=r"backbone_kwargs\.stem_widht"):
        tiny(backbone_kwargs={"stem_widht": 8})
    with pytest.raises(ValueError, match=r"stage2\.num_branches"):
        tiny(backbone_kwargs=TINY_HRNET | {"stage2": {"num_modules": 1}})
