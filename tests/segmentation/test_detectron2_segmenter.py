"""Models of detectron2 as arms, where detectron2 is installed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.project.paths import ProjectPaths
from seggen_core.segmentation.models import build_segmenter, load_segmenter, save_segmenter
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.stages import evaluate, train_seg
from tests.segmentation.test_stages import PLAIN, REAL, settings
from tests.segmentation.test_tasks import add_instances
from tests.segmentation.tiny import FPN, ID2LABEL, RCNN, TINY_FPN, TINY_RCNN

pytest.importorskip(
    "detectron2", reason="detectron2 isn't on the package index: docs/detectron2.md installs it"
)

RCNN_OPTIONS = TINY_RCNN | {
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE": 8,
}


def tiny(base: Path = Path(), **changes: object) -> Any:
    torch.manual_seed(0)
    tree = {"model": "detectron2", "options": TINY_FPN} | changes
    config = SegmenterConfig.model_validate(tree)
    return build_segmenter(config, id2label=ID2LABEL, base=base)


def pictures(size: tuple[int, int] = (32, 32)) -> torch.Tensor:
    return torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("size", [(32, 32), (20, 37), (7, 64)])
def test_logits_have_the_size_of_the_input(size: tuple[int, int]) -> None:
    logits = tiny().eval().predict_logits(pictures(size))
    assert logits.shape == (2, 3, *size) and logits.dtype == torch.float32


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_the_network_gets_grey_levels_in_its_own_order(channels: str) -> None:
    segmenter = tiny(options=TINY_FPN | {"INPUT.FORMAT": channels}).eval()
    image = pictures()[:1]
    wanted = image[0] * 255 if channels == "RGB" else image[0, [2, 1, 0]] * 255
    expected = segmenter.network([{"image": wanted}])[0]["sem_seg"]
    torch.testing.assert_close(segmenter.predict_logits(image)[0], expected)


def test_loss_is_detectron2s_and_finite_without_a_label() -> None:
    segmenter = tiny().train()
    maps = torch.randint(0, 3, (2, 32, 32), generator=torch.Generator().manual_seed(2))
    maps[0, :9] = 255
    segmenter(pictures(), segmentation_maps=maps).backward()
    assert all(p.grad is not None for p in segmenter.parameters() if p.requires_grad)
    segmenter.zero_grad()
    loss = segmenter(pictures(), segmentation_maps=torch.full_like(maps, 255))
    loss.backward()
    assert loss == 0
    assert all(not p.grad.any() for p in segmenter.parameters() if p.requires_grad)


def test_a_saved_model_predicts_the_same(tmp_path: Path) -> None:
    segmenter = tiny().eval()
    save_segmenter(segmenter, folder=tmp_path / "model")
    files = ["config.json", "config.yaml", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == files
    again = load_segmenter(tmp_path / "model")
    assert again.id2label == ID2LABEL
    images = pictures()
    assert torch.equal(again.predict_logits(images), segmenter.predict_logits(images))
    # The names are detectron2's, so that its own model takes the weights.
    assert load_file(tmp_path / "model" / "model.safetensors").keys() == (
        segmenter.network.state_dict().keys()
    )


def test_a_backbone_is_loaded_and_a_foreign_one_refused(tmp_path: Path) -> None:
    source = tiny().network.backbone
    weights = {f"backbone.{k}": v + 1 for k, v in source.state_dict().items()}
    save_file(weights, tmp_path / "backbone.safetensors")
    loaded = tiny(tmp_path, backbone_source="backbone.safetensors").network.backbone
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, weights[f"backbone.{name}"])
    save_file({"other": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(FoundationError, match="doesn't fit the backbone"):
        tiny(tmp_path, backbone_source="other.safetensors")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"config": "Misc/none.yaml"}, r"config is 'Misc/none.yaml'; expected a file below"),
        ({"options": {"MODEL.DEPTHS": 3}}, "is no configuration of detectron2: .*MODEL.DEPTHS"),
        ({"options": {"MODEL.META_ARCHITECTURE": "None"}}, "detectron2 has: .*SemanticSegmentor"),
        (
            {"config": FPN},
            "PanopticFPN is not for the task semantic; take a configuration",
        ),
        ({"config": RCNN}, "GeneralizedRCNN is not for the task semantic"),
        ({"task": "instance"}, "SemanticSegmentor is not for the task instance"),
        (
            {"task": "instance", "config": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"},
            "GeneralizedRCNN is not for the task instance",
        ),
        ({"options": TINY_FPN | {"MODEL.RESNETS.DEPTH": 19}}, "can't build SemanticSegmentor"),
        ({"config": "own.yaml"}, "own.yaml .* is no configuration of detectron2"),
    ],
)
def test_a_wrong_configuration_is_one_line(
    tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    # A tag that would run Python is not run.
    text = 'MODEL:\n  WEIGHTS: !!python/object/apply:pathlib.Path.touch ["ran"]\n'
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=words) as caught:
        tiny(tmp_path, **changes)
    assert "\n" not in str(caught.value)


def test_mask_rcnn_is_given_boxes_and_masks_and_returns_masks_of_the_images_size() -> None:
    segmenter = tiny(config=RCNN, options=RCNN_OPTIONS, task="instance").train()
    segmenter.things = (False, True, True)
    masks = torch.zeros(2, 32, 32)
    masks[0, 3:9, 5:20] = 1  # the second has no pixel left
    labels = {
        "mask_labels": [masks, masks[:0]],
        "class_labels": [torch.tensor([2, 1]), torch.tensor([], dtype=torch.int64)],
        "unlabelled": torch.zeros(2, 32, 32, dtype=torch.bool),
    }
    given: list[Any] = []
    segmenter.network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    segmenter(pictures(), **labels).backward()
    first, second = (one["instances"] for one in given[0])
    assert first.gt_classes.tolist() == [2] and len(second) == 0
    assert first.gt_boxes.tensor.tolist() == [[5, 3, 20, 9]]
    assert all(torch.isfinite(p.grad).all() for p in segmenter.parameters() if p.grad is not None)
    predicted = segmenter.eval().predict_segments(pictures()[:1], size=(40, 50), task="instance")
    instances = predicted["instances"]
    assert instances.masks.dtype == bool and instances.masks.shape == (
        len(instances.class_ids),
        40,
        50,
    )
    assert instances.scores is not None and len(instances.scores) == len(instances.class_ids)
    with pytest.raises(ConfigError, match="is for the task instance, and semantic is asked for"):
        segmenter.predict_logits(pictures())


def test_panoptic_fpn_is_given_stuff_and_things_and_returns_segments() -> None:
    segmenter = tiny(config=FPN, options=RCNN_OPTIONS, task="panoptic").train()
    segmenter.things = (False, False, True)
    masks = torch.zeros(2, 32, 32)
    masks[0, :16] = 1  # stuff
    masks[1, 20:25, 3:9] = 1  # a thing
    labels = {
        "mask_labels": [masks, masks[:0]],
        "class_labels": [torch.tensor([1, 2]), torch.tensor([], dtype=torch.int64)],
        "unlabelled": torch.zeros(2, 32, 32, dtype=torch.bool),
    }
    given: list[Any] = []
    segmenter.network.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    segmenter(pictures(), **labels).backward()
    wanted = torch.full((32, 32), 255)
    wanted[:16], wanted[20:25, 3:9] = 2, 0
    assert torch.equal(given[0][0]["sem_seg"], wanted)
    assert given[0][0]["instances"].gt_classes.tolist() == [2]
    assert (given[0][1]["sem_seg"] == 255).all() and len(given[0][1]["instances"]) == 0
    empty = labels | {
        "mask_labels": [masks[:0]] * 2,
        "class_labels": labels["class_labels"][1:] * 2,
    }
    assert torch.isfinite(segmenter(pictures(), **empty))
    predicted = segmenter.eval().predict_segments(pictures()[:1], size=(40, 50), task="panoptic")
    panoptic, semantic = predicted["panoptic"], predicted["semantic"]
    assert panoptic.segmentation_map.shape == semantic.shape == (40, 50)
    assert set(np.unique(panoptic.segmentation_map)) <= {0, 1, 2, 255}
    assert set(np.unique(semantic)) <= {0, 1, 2}
    is_thing = panoptic.instance_map > 0
    assert (panoptic.segmentation_map[is_thing] != 255).all()


@pytest.mark.parametrize("task, score", [("instance", "ap"), ("panoptic", "pq")])
def test_an_arm_with_instances_is_trained_and_scored(
    project: ProjectPaths, task: str, score: str
) -> None:
    for split in ("train", "val", "test"):
        add_instances(project.real(split))
    sections = {
        "common": {"num_steps": 2, "batch_size": 2, "checkpoint_every": 2},
        "detectron2": {
            "config": RCNN if task == "instance" else FPN,
            "options": RCNN_OPTIONS,
            "learning_rate": 1e-3,
        },
    }
    arm = PLAIN | {"reads": [REAL, REAL], "model": "detectron2", "task": task}
    config = settings(
        train_seg=sections,
        variants={"baseline": arm},
        checks={"min_val_miou": 0, "min_val_pq": 0, "min_val_ap": 0},
    )
    train_seg.run(config, paths=project, item="baseline")
    metrics = json.loads((project.checkpoint("baseline") / "metrics.json").read_text())
    assert metrics["task"] == task and 0 <= metrics[f"val_{score}"] <= 100
    evaluate.run(config, paths=project, item="baseline")
    scores = json.loads((project.report("evaluate", "baseline") / "metrics.json").read_text())
    assert 0 <= scores[score] <= 100


def arm_settings() -> Any:
    section = {
        "common": {"num_steps": 3, "batch_size": 2, "checkpoint_every": 1},
        "detectron2": {"learning_rate": 1e-3, "options": TINY_FPN},
    }
    variants = {"baseline": PLAIN | {"reads": [REAL, REAL], "model": "detectron2"}}
    return settings(train_seg=section, variants=variants)


def test_an_arm_is_trained_resumed_and_scored(
    project: ProjectPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Segmenter.forward
    calls = []

    def stopping(self: Segmenter, *arguments: Any, **named: Any) -> torch.Tensor:
        calls.append(len(calls))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return original(self, *arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "forward", stopping)
        with pytest.raises(KeyboardInterrupt):
            train_seg.run(arm_settings(), paths=project, item="baseline")
    train_seg.run(arm_settings(), paths=project, item="baseline")
    resumed = project.checkpoint("baseline")
    weights = {seed: (resumed / f"seed{seed}" / "model.safetensors").read_bytes() for seed in "01"}
    metrics = json.loads((resumed / "metrics.json").read_text())
    assert metrics["model"] == "detectron2"
    train_seg.run(arm_settings(), paths=project, item="baseline")
    for seed, data in weights.items():
        assert (resumed / f"seed{seed}" / "model.safetensors").read_bytes() == data
    evaluate.run(arm_settings(), paths=project, item="baseline")
    scores = json.loads((project.report("evaluate", "baseline") / "metrics.json").read_text())
    assert 0 <= scores["miou"] <= 100
