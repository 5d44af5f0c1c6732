"""Models of detectron2 as segmenters.

A saved model is a folder with config.json (classes and task), config.yaml (detectron2's
configuration) and model.safetensors, whose parameters have detectron2's names.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from seggen_core.colors.panoptic import PanopticMap
from seggen_core.config import SegmenterConfig, Task
from seggen_core.errors import ConfigError
from seggen_core.metrics import instance
from seggen_core.project.publish import read_json
from seggen_core.segmentation.detectron2_library import (
    BitMasks,
    EventStorage,
    Instances,
    build_network,
    find_config,
    read_config,
)
from seggen_core.segmentation.segmenter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Segmenter,
    load_backbone,
)
from seggen_core.taxonomy import IGNORE_INDEX

MODEL_TYPE = "seggen_detectron2"
_CONFIG = "config.yaml"


class Detectron2Segmenter(Segmenter):
    """A model of detectron2 for one task: Semantic FPN, Mask R-CNN, Panoptic FPN and their like.

    It normalises images by its own configuration, in the order of channels that this names.
    """

    backbone_prefix = "network.backbone."

    def __init__(self, *, id2label: Mapping[int, str], config: Any, task: Task) -> None:
        """Build with random weights.

        Args:
            id2label: class names by train id.
            config: detectron2's CfgNode, as `read_config` returns it.
            task: which of the three.
        """
        super().__init__(id2label=id2label)
        self.config, self.task = config, task
        self.network: Any = build_network(config, task=task)

    @classmethod
    def build(
        cls, config: SegmenterConfig, *, id2label: Mapping[int, str], base: Path = Path()
    ) -> Self:
        """Build what `config` describes, with the weights of `backbone_source` if there is one."""
        file = find_config(config.config, base=base)
        node = read_config(
            file, options=config.options, num_classes=len(id2label), task=config.task
        )
        segmenter = cls(id2label=id2label, config=node, task=config.task)
        if config.backbone_source is not None:
            load_backbone(
                segmenter.network.backbone,
                source=base / config.backbone_source,
                example="<repository with detectron2's names of parameters>",
                prefix="backbone.",
            )
        return segmenter

    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return the scores of the classes, float32 [B, C, H, W]; see `Segmenter`."""
        self._check_task("semantic")
        outputs = self.network(self._inputs(images))
        return torch.stack([output["sem_seg"] for output in outputs]).float()

    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        """Return the sum of the network's losses; see `Segmenter`."""
        self._check_task("semantic")
        inputs = self._inputs(images)
        for one, mask in zip(inputs, segmentation_maps, strict=True):
            one["sem_seg"] = mask
        total = torch.stack(list(self._losses(inputs).values())).sum()
        if (segmentation_maps != IGNORE_INDEX).any():
            return total
        # Its mean over no pixel is not a number.
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.stack([p.sum() * 0 for p in trained]).sum()

    def forward(self, images: torch.Tensor, **labels: Any) -> torch.Tensor:
        """Return `loss` of maps, or `instance_loss` of masks."""
        if "mask_labels" in labels:
            masks, classes = labels["mask_labels"], labels["class_labels"]
            return self.instance_loss(images, mask_labels=masks, class_labels=classes)
        return super().forward(images, **labels)

    def instance_loss(
        self,
        images: torch.Tensor,
        *,
        mask_labels: Sequence[torch.Tensor],
        class_labels: Sequence[torch.Tensor],
    ) -> torch.Tensor:
        """Return the sum of the network's losses; masks without a pixel are left out.

        Its samples of boxes come from torch's global generator.

        Args:
            images: float32 [B, 3, H, W] in [0, 1].
            mask_labels: for each image [n, H, W] of 0 and 1.
            class_labels: for each image int64 [n], train ids.
        """
        self._check_task("instance", "panoptic")
        inputs = self._inputs(images)
        is_thing = torch.tensor(self.things, device=images.device)
        for one, masks, classes in zip(inputs, mask_labels, class_labels, strict=True):
            if self.task == "panoptic":
                values = torch.where(is_thing[classes], 0, classes + 1)
                labels = torch.full(masks.shape[1:], IGNORE_INDEX, device=images.device)
                for mask, value in zip(masks, values, strict=True):
                    labels[mask.bool()] = value
                one["sem_seg"] = labels
            shown = masks.flatten(1).any(1) & is_thing[classes]
            bits = BitMasks(masks[shown].bool())
            boxes = bits.get_bounding_boxes().to(images.device)
            fields = {"gt_masks": bits, "gt_boxes": boxes, "gt_classes": classes[shown]}
            one["instances"] = Instances(tuple(images.shape[-2:]), **fields)
        losses = self._losses(inputs)
        if "sem_seg" in inputs[0] and all((one["sem_seg"] == IGNORE_INDEX).all() for one in inputs):
            losses.pop("loss_sem_seg")  # a mean over no pixel
        return torch.stack(list(losses.values())).sum()

    def predict_segments(
        self, images: torch.Tensor, *, size: tuple[int, int], task: Task
    ) -> dict[str, Any]:
        """Return the segments of one image at `size`; see `Segmenter`.

        The semantic map of Panoptic FPN is that of its segments, and stuff where there is none: its
        semantic head tells no things apart.
        """
        self._check_task(task)
        (one,) = self._inputs(images)
        output = self.network([one | {"height": size[0], "width": size[1]}])[0]
        detections = output["instances"]
        fields = (detections.pred_masks, detections.pred_classes, detections.scores)
        masks, classes, scores = (field.detach().cpu().numpy() for field in fields)
        instances = instance.Instances(masks.astype(bool), classes, scores=scores)
        if task == "instance":
            return {"instances": instances}
        ids, infos = output["panoptic_seg"]
        numbers = ids.cpu().numpy()
        kinds = np.full(numbers.max() + 1, IGNORE_INDEX, np.uint8)
        things = np.zeros(len(kinds), np.uint16)
        for info in infos:
            kinds[info["id"]] = info["category_id"] - (not info["isthing"])
            things[info["id"]] = info["id"] if info["isthing"] else 0
        panoptic = PanopticMap(kinds[numbers], things[numbers])
        stuff = output["sem_seg"][1:].argmax(0).to("cpu", torch.uint8).numpy()
        semantic = np.where(panoptic.segmentation_map == IGNORE_INDEX, stuff, kinds[numbers])
        return {"instances": instances, "panoptic": panoptic, "semantic": semantic}

    def save(self, folder: Path) -> None:
        """Write config.json, config.yaml and model.safetensors."""
        labels = {str(k): v for k, v in self.id2label.items()}
        tree = {"model_type": MODEL_TYPE, "task": self.task, "id2label": labels}
        (folder / CONFIG_FILE).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        (folder / _CONFIG).write_text(self.config.dump(), encoding="utf-8")
        state = {k: v.contiguous() for k, v in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`."""
        tree = read_json(folder / CONFIG_FILE)
        labels = {int(k): v for k, v in tree["id2label"].items()}
        config = read_config(
            folder / _CONFIG, options={}, num_classes=len(labels), task=tree["task"]
        )
        segmenter = cls(id2label=labels, config=config, task=tree["task"])
        segmenter.network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return segmenter

    def _check_task(self, *tasks: Task) -> None:
        if self.task not in tasks:
            raise ConfigError(
                f"the model of detectron2 is for the task {self.task}, and {tasks[0]} is asked "
                "for; set train_seg.detectron2.config to a configuration for it"
            )

    def _losses(self, inputs: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        with EventStorage():  # some heads log to it
            return self.network(inputs)

    def _inputs(self, images: torch.Tensor) -> list[dict[str, Any]]:
        """Return images as detectron2's models take them: [0, 255], in the order of channels."""
        pictures = images * 255
        if self.config.INPUT.FORMAT == "BGR":
            pictures = pictures.flip(1)
        height, width = images.shape[-2:]
        return [{"image": picture, "height": height, "width": width} for picture in pictures]
