"""HRNet (Wang et al., TPAMI 2019): timm's backbone and a light version of the HRNetV2 head."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional as F

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError
from seggen_core.project.publish import read_json
from seggen_core.segmentation.segmenter import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Segmenter,
    load_backbone,
    normalize,
)
from seggen_core.taxonomy import IGNORE_INDEX

_STEM_STRIDES = {1: (1, 1), 2: (2, 1), 4: (2, 2)}
"""Strides of timm's two stem convolutions, by the stride of both.

Stride 2 comes first: at full size the 64 channels between the two cost more.
"""


class HRNetSegmenter(Segmenter):
    """HRNet's four branches and a classifier over all of them.

    The branches are brought to the finest one's size; 1x1 convolution, BatchNorm, ReLU and the
    classifier follow, and its logits are brought to the input's size.

    The 1x1 convolution is applied per branch and the results are upsampled and summed: the same as
    concatenating the upsampled branches first (both are linear), for a quarter of the work. It
    projects to `head_width` channels, where HRNetV2 keeps the sum of the branches' channels.
    """

    backbone_prefix = "backbone."

    def __init__(
        self,
        *,
        id2label: Mapping[int, str],
        backbone: str,
        backbone_kwargs: Mapping[str, Any],
        stem_stride: int,
        head_width: int,
    ) -> None:
        """Build with random weights; the arguments are those of SegmenterConfig."""
        super().__init__(id2label=id2label)
        self.settings = {
            "backbone": backbone,
            "backbone_kwargs": dict(backbone_kwargs),
            "stem_stride": stem_stride,
            "head_width": head_width,
        }
        if not backbone.startswith("hrnet") or not timm.is_model(backbone):
            raise ConfigError(
                f"train_seg.hrnet.backbone is {backbone!r}; "
                f"expected one of timm's: {', '.join(timm.list_models('hrnet*'))}"
            )
        try:
            # feature_location "" takes the branches themselves, not the classification head's wide
            # bottlenecks behind them.
            self.backbone = timm.create_model(
                backbone,
                pretrained=False,
                features_only=True,
                feature_location="",
                out_indices=(1, 2, 3, 4),
                **backbone_kwargs,
            )
        except (TypeError, KeyError, ValueError) as error:
            raise ConfigError(
                f"timm can't build {backbone} with train_seg.hrnet.backbone_kwargs: {error}"
            ) from error
        first, second = _STEM_STRIDES[stem_stride]
        self.backbone.conv1.stride = (first, first)
        self.backbone.conv2.stride = (second, second)
        channels = self.backbone.feature_info.channels()
        self.projections = nn.ModuleList(nn.Conv2d(c, head_width, 1, bias=False) for c in channels)
        self.norm = nn.BatchNorm2d(head_width)
        self.classifier = nn.Conv2d(head_width, self.num_classes, 1)
        # The coarsest branch is 8 times smaller than the finest; timm's fusion needs them to fit
        # exactly.
        self._multiple = 8 * stem_stride
        self.register_buffer("class_weights", None, persistent=False)
        self.to(memory_format=torch.channels_last)

    @classmethod
    def build(
        cls, config: SegmenterConfig, *, id2label: Mapping[int, str], base: Path = Path()
    ) -> Self:
        """Build what `config` describes, with the weights of `backbone_source` if there is one."""
        segmenter = cls(
            id2label=id2label,
            backbone=config.backbone,
            backbone_kwargs=config.backbone_kwargs,
            stem_stride=config.stem_stride,
            head_width=config.head_width,
        )
        if config.backbone_source is not None:
            load_backbone(
                segmenter.backbone,
                source=base / config.backbone_source,
                example="timm/hrnet_w48.ms_in1k",
            )
        return segmenter

    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, float32 [B, C, H, W]; see `Segmenter`."""
        height, width = images.shape[-2:]
        below, right = -height % self._multiple, -width % self._multiple
        padded = F.pad(normalize(images), (0, right, 0, below)).contiguous(
            memory_format=torch.channels_last
        )
        branches = [
            project(b) for project, b in zip(self.projections, self.backbone(padded), strict=True)
        ]
        size = branches[0].shape[-2:]
        fused = branches[0]
        for branch in branches[1:]:
            fused = fused + F.interpolate(branch, size=size, mode="bilinear", align_corners=False)
        logits = self.classifier(F.relu(self.norm(fused)))
        return F.interpolate(logits, size=padded.shape[-2:], mode="bilinear", align_corners=False)[
            :, :, :height, :width
        ]

    def weigh_classes(self, weights: torch.Tensor) -> None:
        """Weigh the pixels of each class; see `Segmenter`."""
        self.class_weights = weights.to(self.classifier.weight.device)

    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        """Return the (weighted) mean cross-entropy of labelled pixels; see `Segmenter`."""
        logits = self.predict_logits(images)
        total = F.cross_entropy(
            logits,
            segmentation_maps,
            weight=self.class_weights,
            ignore_index=IGNORE_INDEX,
            reduction="sum",
        )
        labelled = segmentation_maps != IGNORE_INDEX
        if self.class_weights is None:
            return total / labelled.sum().clamp(min=1)
        return total / self.class_weights[segmentation_maps[labelled]].sum().clamp(
            min=self.class_weights.min()
        )

    def save(self, folder: Path) -> None:
        """Write config.json (the constructor's arguments) and model.safetensors."""
        tree = {
            "model_type": "seggen_hrnet",
            **self.settings,
            "id2label": {str(k): v for k, v in self.id2label.items()},
        }
        (folder / CONFIG_FILE).write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
        save_file({k: v.contiguous() for k, v in self.state_dict().items()}, folder / WEIGHTS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`."""
        tree = read_json(folder / CONFIG_FILE)
        del tree["model_type"]
        segmenter = cls(id2label={int(k): v for k, v in tree.pop("id2label").items()}, **tree)
        segmenter.load_state_dict(load_file(folder / WEIGHTS_FILE))
        return segmenter
