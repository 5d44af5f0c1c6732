"""EoMT at tiny size with random weights."""

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from transformers import EomtForUniversalSegmentation

from seggen_core.config import PostprocessConfig, SegmenterConfig
from seggen_core.errors import ConfigError
from seggen_core.segmentation.eomt import EomtSegmenter
from seggen_core.segmentation.labels import LabelSpace
from seggen_core.segmentation.models import build_segmenter, load_segmenter, save_segmenter
from seggen_core.segmentation.predict_segments import SegmentTask, predict_sample
from seggen_core.segmentation.segment_labels import mask_targets
from tests.minimal_config import minimal_config
from tests.segmentation.conftest import TAXONOMY
from tests.segmentation.tiny import ID2LABEL, TINY_EOMT


def tiny(**changes: object) -> EomtSegmenter:
    torch.manual_seed(0)
    tree = {"model": "eomt", "architecture": TINY_EOMT} | changes
    segmenter = build_segmenter(SegmenterConfig.model_validate(tree), id2label=ID2LABEL)
    assert isinstance(segmenter, EomtSegmenter)
    return segmenter


def pictures(height: int, width: int) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(32, 32), (20, 50), (7, 64)])
def test_masks_have_the_size_of_the_image_whatever_it_is(size: tuple[int, int]) -> None:
    segmenter = tiny().eval()
    queries = segmenter.queries(pictures(*size))
    assert queries.masks.shape == (2, 5, *size) and queries.classes.shape == (2, 5, 4)
    assert segmenter.predict_logits(pictures(*size)).shape == (2, 3, *size)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_the_loss_trains_all_parts_for_all_tasks(size: tuple[int, int]) -> None:
    segmenter = tiny().train()
    maps = torch.randint(0, 3, (2, *size), generator=torch.Generator().manual_seed(2))
    losses = [segmenter(pictures(*size), segmentation_maps=maps)]
    for task in ("panoptic", "instance"):
        ids = torch.where(maps == 2, (maps << 16) + 1, maps << 16)
        masks, classes = mask_targets(ids, task=task, things=[False, False, True])
        void = torch.zeros_like(maps, dtype=torch.bool)
        losses.append(
            segmenter(pictures(*size), mask_labels=masks, class_labels=classes, unlabelled=void)
        )
    sum(losses).backward()
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses)
    for name, parameter in segmenter.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


def test_the_loss_is_finite_without_a_target() -> None:
    maps = torch.full((2, 24, 40), 255)
    loss = tiny().train()(pictures(24, 40), segmentation_maps=maps)
    loss.backward()
    assert torch.isfinite(loss)


def test_masked_attention_ends_layer_by_layer() -> None:
    segmenter = tiny()
    seen = []
    for step in (0, 2, 3, 5, 6, 8):
        segmenter.at_step(step, 8)
        seen.append(segmenter.network.attn_mask_probs.tolist())
    # Two layers: the first falls from 1/4 to 1/2 of the training, the second from 1/2 to 3/4.
    half = pytest.approx(0.5**0.9)
    assert seen == [[1, 1], [1, 1], [half, 1], [0, half], [0, 0], [0, 0]]
    pretrained = tiny()
    pretrained._anneals = False
    pretrained.at_step(8, 8)
    assert pretrained.network.attn_mask_probs.tolist() == [1, 1]


def test_saved_and_published_networks_load(tmp_path: Path) -> None:
    segmenter = tiny().eval()
    save_segmenter(segmenter, folder=tmp_path / "model")
    saved = EomtForUniversalSegmentation.from_pretrained(tmp_path / "model").state_dict()
    assert saved.keys() == segmenter.network.state_dict().keys()
    loaded = load_segmenter(tmp_path / "model")
    images = pictures(20, 30)
    assert torch.equal(loaded.predict_logits(images), segmenter.predict_logits(images))
    tuned = tiny(source=str(tmp_path / "model"), architecture={})
    assert torch.equal(tuned.network.query.weight, segmenter.network.query.weight)
    torch.manual_seed(0)
    config = {"model": "eomt", "source": str(tmp_path / "model")}
    other = build_segmenter(
        SegmenterConfig.model_validate(config), id2label={0: "a", 1: "b", 2: "c", 3: "d"}
    )
    assert other.num_classes == 4 and not tuned._anneals


def test_it_predicts_panoptic_segments() -> None:
    lenient = PostprocessConfig(object_mask_threshold=0, overlap_threshold=0)
    task = SegmentTask("panoptic", LabelSpace(TAXONOMY), lenient)
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    predicted = predict_sample(tiny().eval(), image=image, task=task)
    assert predicted["panoptic"].segmentation_map.shape == (20, 30)
    assert set(predicted["instances"].class_ids.tolist()) == {2}


def test_settings_that_do_not_fit_are_named() -> None:
    with pytest.raises(ConfigError, match=r"train_seg.eomt.backbone_source is set"):
        tiny(backbone_source="weights")
    arm = {"model": "eomt", "strategy": "plain", "reads": ["data/real/train/index.parquet"] * 2}
    with pytest.raises(ValidationError, match="eomt takes pixels without a label as negatives"):
        minimal_config({"name": "scenes"}, variants={"x": arm | {"hidden_classes": ["car"]}})
    with pytest.raises(ValidationError, match="architecture holds 'hiden_size'; EomtConfig knows"):
        minimal_config({"name": "scenes"}, train_seg={"eomt": {"architecture": {"hiden_size": 8}}})
