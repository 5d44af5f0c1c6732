"""What every segmentation model offers to training and prediction, and what they share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors.torch import load_file
from torch import nn

from seggen_core.config import Task
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.project.artefacts import place
from seggen_core.project.weights import check_finite, check_floats, read_headers

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's, which the pretrained weights of both models expect."""

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


def segmenter_cure(folder: Path) -> str:
    """Return what to do about a damaged or missing segmenter, for messages.

    Args:
        folder: of the segmenter: one of an arm's seeds, below data/checkpoints, or any other.
    """
    arm = next((p for p in folder.absolute().parents if p.parent.name == "checkpoints"), None)
    if arm is None:
        return (
            f"name the folder of a segmenter, with {CONFIG_FILE} and {WEIGHTS_FILE}, such as the "
            "folder of a seed in data/checkpoints/<arm>"
        )
    return f"run: dvc checkout {place(arm)}, or dvc repro -f -s train_seg@{arm.name}"


class Segmenter(nn.Module, ABC):
    """A semantic segmentation model.

    Images are float32 [B, 3, H, W] in [0, 1], of any size; each model normalises them itself.

    Attributes:
        id2label: class names by train id.
        frozen_norms: batch normalisation that stays in evaluation mode while the rest is trained.
        things: which classes are things, by train id; set while it is trained for instances.
    """

    backbone_prefix: ClassVar[str]
    """What the names of the backbone's parameters begin with."""

    def __init__(self, *, id2label: Mapping[int, str]) -> None:
        super().__init__()
        self.id2label = dict(id2label)
        self.frozen_norms: list[nn.Module] = []
        self.things: tuple[bool, ...] = ()

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.id2label)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def forward(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        """Return `loss`: training calls the module, which may be wrapped for several processes."""
        return self.loss(images, segmentation_maps=segmentation_maps)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all modules but the frozen ones."""
        super().train(mode)
        for module in self.frozen_norms:
            module.eval()
        return self

    @staticmethod
    def probabilities(scores: torch.Tensor) -> torch.Tensor:
        """Return scores of `predict_logits` as what is averaged over several predictions."""
        return scores.softmax(1)

    @abstractmethod
    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        """Return the training loss, a scalar.

        It is finite and has a gradient even where every pixel is ignored.

        Args:
            images: float32 [B, 3, H, W] in [0, 1].
            segmentation_maps: int64 [B, H, W], train ids or IGNORE_INDEX.
        """

    def at_step(self, step: int, num_steps: int) -> None:
        """Prepare for training step `step` of `num_steps`."""

    def weigh_classes(self, weights: torch.Tensor) -> None:
        """Let class c weigh `weights[c]` in `loss` from now on: float32 [C], positive.

        Weights aren't a part of what `save` writes.

        Raises:
            ConfigError: the model's loss has no such weights.
        """
        raise ConfigError(
            f"{type(self).__name__} has no place for {len(weights)} class weights in its loss; set "
            "class_balance to 0 for it"
        )

    @abstractmethod
    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return per-class scores, float32 [B, C, H, W]; the argmax over C is the prediction."""

    def predict_segments(
        self,
        images: torch.Tensor,  # noqa: ARG002 (of those that predict some)
        *,
        size: tuple[int, int],  # noqa: ARG002
        task: Task,
    ) -> dict[str, Any]:
        """Return the segments of one image, float32 [1, 3, h, w] in [0, 1], at `size`.

        Returns:
            instances, and for "panoptic" also panoptic and semantic, as
            `metrics.segments.SegmentPrediction` has them.

        Raises:
            ConfigError: the model predicts none.
        """
        raise ConfigError(
            f"{type(self).__name__} gives a class for each pixel and no instances; the task {task} "
            "needs a segmenter like Mask2Former"
        )

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write config.json and model.safetensors to an existing folder."""


def normalize(images: torch.Tensor) -> torch.Tensor:
    """Return images of [0, 1], less ImageNet's mean and divided by its standard deviation."""
    mean, std = (images.new_tensor(v)[None, :, None, None] for v in (MEAN, STD))
    return (images - mean) / std


def load_backbone(
    backbone: nn.Module,
    *,
    source: Path,
    example: str,
    prefix: str = "",
) -> None:
    """Load pretrained weights into `backbone`.

    What the file holds beyond the backbone (the classification head) is left out.

    Args:
        backbone: gets the weights.
        source: a safetensors file, or a folder with model.safetensors. Parameters have the
            backbone's names in it.
        example: a hub repository that has such a file, for messages.
        prefix: what may stand before the parameters' names in the file.

    Raises:
        FoundationError: there is no such file, it is damaged, or a parameter of the backbone is
            missing from it or has another shape or type.
    """
    file = weights_file(source, example=example)
    stored = {name.removeprefix(prefix): value for name, value in load_file(file).items()}
    wanted = backbone.state_dict()
    unfit = [
        name
        for name, value in wanted.items()
        if name not in stored or stored[name].shape != value.shape
    ]
    check_fit(unfit, file=file, num_parameters=len(wanted))
    backbone.load_state_dict({name: stored[name] for name in wanted})
    check_finite(backbone, part=f"backbone_source {file}", cure=_cure(example))


def weights_file(source: Path, *, example: str) -> Path:
    """Return the file with pretrained weights.

    Raises:
        FoundationError: there is no such file, its header is damaged, or it holds other numbers
            than floats.
    """
    file = source / WEIGHTS_FILE if source.is_dir() else source
    if file.suffix != ".safetensors" or not file.is_file():
        raise FoundationError(
            f"backbone_source {source} is no safetensors file, nor a folder with "
            f"{WEIGHTS_FILE}; get one with: hf download {example} model.safetensors"
        )
    part = f"backbone_source {file}"
    headers = read_headers([file], part=part, cure=_cure(example))
    check_floats(headers, part=part, cure=_cure(example))
    return file


def _cure(example: str) -> str:
    return f"copy the file again, or: hf download {example} model.safetensors"


def check_fit(unfit: Sequence[str], *, file: Path, num_parameters: int) -> None:
    """Raise FoundationError if any of a backbone's parameters doesn't fit a file's."""
    if unfit:
        raise FoundationError(
            f"{file} doesn't fit the backbone of train_seg: {len(unfit)} of "
            f"{num_parameters} parameters are missing or of another shape, e.g. {unfit[0]}; "
            "name the backbone that the weights were made with, and no backbone_kwargs"
        )
