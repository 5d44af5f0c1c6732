"""Models of detectron2 as segmenters.

A saved model is a folder with config.json (the classes), config.yaml (detectron2's configuration)
and model.safetensors, whose parameters have detectron2's names.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from safetensors.torch import load_file, save_file

from seggen_core.config import SegmenterConfig
from seggen_core.project.publish import read_json
from seggen_core.segmentation.detectron2_library import (
    EventStorage,
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
    """A semantic segmentation model of detectron2 (`SemanticSegmentor` and what is built like it).

    It normalises images by its own configuration, in the order of channels that this names.
    """

    backbone_prefix = "network.backbone."

    def __init__(self, *, id2label: Mapping[int, str], config: Any) -> None:
        """Build with random weights.

        Args:
            id2label: class names by train id.
            config: detectron2's CfgNode, as `read_config` returns it.
        """
        super().__init__(id2label=id2label)
        self.config = config
        self.network: Any = build_network(config)

    @classmethod
    def build(
        cls, config: SegmenterConfig, *, id2label: Mapping[int, str], base: Path = Path()
    ) -> Self:
        """Build what `config` describes, with the weights of `backbone_source` if there is one."""
        file = find_config(config.config, base=base)
        node = read_config(file, options=config.options, num_classes=len(id2label))
        segmenter = cls(id2label=id2label, config=node)
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
        outputs = self.network(self._inputs(images))
        return torch.stack([output["sem_seg"] for output in outputs]).float()

    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        """Return the sum of the network's losses; see `Segmenter`."""
        inputs = self._inputs(images)
        for one, mask in zip(inputs, segmentation_maps, strict=True):
            one["sem_seg"] = mask
        with EventStorage():  # some heads log to it
            losses = self.network(inputs)
        total = torch.stack(list(losses.values())).sum()
        if (segmentation_maps != IGNORE_INDEX).any():
            return total
        # Its mean over no pixel is not a number.
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.stack([p.sum() * 0 for p in trained]).sum()

    def save(self, folder: Path) -> None:
        """Write config.json, config.yaml and model.safetensors."""
        labels = {str(k): v for k, v in self.id2label.items()}
        tree = {"model_type": MODEL_TYPE, "id2label": labels}
        (folder / CONFIG_FILE).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        (folder / _CONFIG).write_text(self.config.dump(), encoding="utf-8")
        state = {k: v.contiguous() for k, v in self.network.state_dict().items()}
        save_file(state, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`."""
        labels = {int(k): v for k, v in read_json(folder / CONFIG_FILE)["id2label"].items()}
        config = read_config(folder / _CONFIG, options={}, num_classes=len(labels))
        segmenter = cls(id2label=labels, config=config)
        segmenter.network.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return segmenter

    def _inputs(self, images: torch.Tensor) -> list[dict[str, Any]]:
        """Return images as detectron2's models take them: [0, 255], in the order of channels."""
        pictures = images * 255
        if self.config.INPUT.FORMAT == "BGR":
            pictures = pictures.flip(1)
        height, width = images.shape[-2:]
        return [{"image": picture, "height": height, "width": width} for picture in pictures]
