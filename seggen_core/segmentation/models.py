"""What every segmentation model offers to training and prediction, and how models are built, saved and loaded.

A saved model is a folder with config.json and model.safetensors. Mask2Former's is a transformers
folder, which ``Mask2FormerForUniversalSegmentation.from_pretrained`` loads; HRNet's holds timm's
parameter names below ``backbone.``.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from safetensors.torch import load_file
from torch import nn

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError, FoundationError

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which the pretrained weights of both models expect."""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class Segmenter(nn.Module, ABC):
    """A semantic segmentation model. Images are float32 [B, 3, H, W] in [0, 1]; normalisation is the model's own business."""

    backbone_prefix: ClassVar[str]
    """What the names of the backbone's parameters begin with."""

    def __init__(self, *, id2label: Mapping[int, str]) -> None:
        super().__init__()
        self.id2label = dict(id2label)

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.id2label)

    @abstractmethod
    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        """Return the training loss, a scalar; `segmentation_maps` is int64 [B, H, W], train ids or IGNORE_INDEX.

        It is finite and has a gradient even where every pixel is ignored.
        """

    def weigh_classes(self, weights: torch.Tensor) -> None:
        """Let class c weigh `weights[c]` in `loss` from now on: float32 [C], positive. Not a part of what `save` writes.

        Raises:
            ConfigError: the model's loss has no such weights.
        """
        raise ConfigError(
            f"{type(self).__name__} has no place for {len(weights)} class weights in its loss; set train_seg.class_balance to 0 "
            "for it, in train_seg.overrides where other arms are to keep it"
        )

    @abstractmethod
    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return per-class scores, float32 [B, C, H, W]; the argmax over C is the prediction."""

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors to an existing folder."""


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Return images of [0, 1] with ImageNet's mean taken off and its standard deviation divided out."""
    mean, std = (images.new_tensor(v)[None, :, None, None] for v in (_MEAN, _STD))
    return (images - mean) / std


def build_segmenter(
    config: SegmenterConfig, *, id2label: Mapping[int, str], base: Path = Path()
) -> Segmenter:
    """Build the model that `config` describes, with random weights (torch's global generator) or pretrained ones.

    Args:
        config: of the model (`SegmenterConfig.for_model`).
        id2label: class names by train id, 0 to num_classes - 1 (`Taxonomy.id2label`).
        base: folder that relative paths to pretrained weights start from.

    Raises:
        ConfigError: the architecture's settings are wrong.
        FoundationError: pretrained weights are missing, aren't safetensors, or don't fit.
    """
    assert sorted(id2label) == list(range(len(id2label))), id2label
    if config.model == "hrnet":
        from seggen_core.segmentation.hrnet import HRNetSegmenter

        return HRNetSegmenter.build(config, id2label=id2label, base=base)
    from seggen_core.segmentation.mask2former import Mask2FormerSegmenter

    return Mask2FormerSegmenter.build(config, id2label=id2label, base=base)


def load_backbone(backbone: nn.Module, *, source: Path, example: str, prefix: str = "") -> None:
    """Load pretrained weights, a safetensors file or a folder with model.safetensors, into `backbone`.

    What the file holds beyond the backbone (the classification head) is left. Parameters are called
    in it as in the backbone, perhaps with `prefix` before their names; `example` is a hub
    repository that has such a file.

    Raises:
        FoundationError: there is no such file, or a parameter of the backbone is missing from it or
            has another shape.
    """
    file = source / WEIGHTS_FILE if source.is_dir() else source
    if file.suffix != ".safetensors" or not file.is_file():
        raise FoundationError(
            f"train_seg.backbone_source {source} is no safetensors file, nor a folder with {WEIGHTS_FILE}; get one with: "
            f"hf download {example} model.safetensors"
        )
    stored = {name.removeprefix(prefix): value for name, value in load_file(file).items()}
    wanted = backbone.state_dict()
    unfit = [
        name
        for name, value in wanted.items()
        if name not in stored or stored[name].shape != value.shape
    ]
    if unfit:
        raise FoundationError(
            f"{file} doesn't fit train_seg.backbone: {len(unfit)} of {len(wanted)} parameters are missing or of another shape, "
            f"e.g. {unfit[0]}; name the backbone that the weights were made with, and no backbone_kwargs"
        )
    backbone.load_state_dict({name: stored[name] for name in wanted})


def save_segmenter(segmenter: Segmenter, *, folder: Path) -> None:
    """Write a model to `folder`, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    segmenter.save(folder)


def load_segmenter(folder: Path) -> Segmenter:
    """Load what `save_segmenter` wrote, in evaluation mode.

    Raises:
        FoundationError: `folder` holds no segmenter.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FoundationError(
            f"{folder} holds no {CONFIG_FILE}, so no segmenter; run: dvc repro train_seg"
        ) from None
    segmenter: Segmenter
    if config.get("model_type") == "mask2former":
        from seggen_core.segmentation.mask2former import Mask2FormerSegmenter

        segmenter = Mask2FormerSegmenter.load(folder)
    elif config.get("model_type") == "seggen_hrnet":
        from seggen_core.segmentation.hrnet import HRNetSegmenter

        segmenter = HRNetSegmenter.load(folder)
    else:
        raise FoundationError(
            f"{folder / CONFIG_FILE} has model_type {config.get('model_type')!r}; expected mask2former or seggen_hrnet"
        )
    return segmenter.eval()
