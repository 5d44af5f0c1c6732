"""Mask2Former (Cheng et al., CVPR 2022) for semantic segmentation, from transformers."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from torch.nn import functional as F
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedModel,
)
from transformers.utils import logging as transformers_logging

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.project.weights import check_finite, check_loading
from seggen_core.segmentation.left_out import Targets, left_out_loss
from seggen_core.segmentation.published_init import initialize_as_published
from seggen_core.segmentation.segmenter import (
    Segmenter,
    check_fit,
    load_backbone,
    normalize,
    weights_file,
)
from seggen_core.taxonomy import IGNORE_INDEX

_COMMIT = re.compile(r"[0-9a-f]{40}")

_RESNET = "resnet."
"""What transformers' classifiers put before the names of their ResNet's parameters."""

_NEW_NORMS = "hidden_states_norms."
"""Layers that Mask2Former adds to Swin; no classifier has them."""

_DIVISOR = 32
"""Images are padded to a multiple of this, the coarsest feature map's stride."""

_HEAD = ("class_predictor.", "criterion.")
"""Parts of a pretrained network that other classes replace."""


class Mask2FormerSegmenter(Segmenter):
    """One mask per class that is present, matched to queries; transformers' own loss.

    As in the official implementation, an ignored pixel belongs to no mask: it is a negative of
    every mask it is sampled for. Masks from attention methods, which are ignored outside of one
    class, therefore teach Mask2Former that nothing else is there, where they teach HRNet nothing.
    With `ignored_pixels: left_out` they teach nothing here, either (`left_out_loss`).

    Attributes:
        leaves_out: whether ignored pixels are left out of the loss. It isn't a part of what `save`
            writes.
    """

    leaves_out = False

    backbone_prefix = "network.model.pixel_level_module.encoder."

    def __init__(self, network: Mask2FormerForUniversalSegmentation) -> None:
        """Wrap a network; its config names the classes."""
        super().__init__(id2label=network.config.id2label)
        self.network = network

    @classmethod
    def build(
        cls, config: SegmenterConfig, *, id2label: Mapping[int, str], base: Path = Path()
    ) -> Self:
        """Build from `config.architecture`, or load `config.source` with a new class head.

        A network that is built gets the weights of `backbone_source`, if any.
        """
        changes = {
            **config.architecture,
            "id2label": dict(id2label),
            "label2id": {label: i for i, label in id2label.items()},
            "ignore_value": IGNORE_INDEX,
        }
        leaves_out = config.ignored_pixels == "left_out"
        if config.source is not None:
            segmenter = cls(_load_pretrained(config, base=base, changes=changes))
            segmenter.leaves_out = leaves_out
            return segmenter
        network = _build_network(changes)
        if config.initialization == "published":
            initialize_as_published(network)
        if config.backbone_source is not None:
            encoder, source = (
                network.model.pixel_level_module.encoder,
                base / config.backbone_source,
            )
            if encoder.config.model_type == "swin":
                _load_swin(encoder, source)
            else:
                load_backbone(encoder, source=source, example="microsoft/resnet-50", prefix=_RESNET)
        segmenter = cls(network)
        segmenter.leaves_out = leaves_out
        return segmenter

    def predict_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Return semantic scores, float32 [B, C, H, W].

        They are the queries' masks weighted by their class probabilities,
        ``sum_q softmax(class_q)[c] * sigmoid(mask_q)``, with "no object" left out (Mask2Former's
        semantic inference), masks brought to the input's size first. Inputs are padded with the
        mean colour to a multiple of 32.
        """
        height, width = images.shape[-2:]
        padded = _padded(normalize(images), value=0.0)
        output = self.network(pixel_values=padded)
        scores = semantic_scores(
            output.class_queries_logits,
            masks_queries_logits=output.masks_queries_logits,
            size=padded.shape[-2:],
        )
        return scores[..., :height, :width]

    @staticmethod
    def probabilities(scores: torch.Tensor) -> torch.Tensor:
        """Return the scores: they are sums of probabilities; see `Segmenter`."""
        return scores

    def loss(self, images: torch.Tensor, *, segmentation_maps: torch.Tensor) -> torch.Tensor:
        """Return transformers' loss: class, mask and dice terms of all decoder layers.

        Its random points come from torch's global generator. In a lower precision, the pixel
        decoder, the matching and the loss still compute in float32, as the authors have it. See
        `Segmenter`.
        """
        maps = _padded(segmentation_maps, value=IGNORE_INDEX)
        mask_labels, class_labels = binary_masks(maps, num_classes=self.num_classes)
        with _in_float32(self.network.model.pixel_level_module.decoder):
            output = self.network(
                pixel_values=_padded(normalize(images), value=0.0), output_auxiliary_logits=True
            )
        layers = [
            {name: value.float() for name, value in layer.items()}
            for layer in output.auxiliary_logits
        ]
        last = {
            "masks_queries_logits": output.masks_queries_logits.float(),
            "class_queries_logits": output.class_queries_logits.float(),
        }
        with torch.autocast(images.device.type, enabled=False):
            if self.leaves_out:
                targets = Targets(mask_labels, class_labels, maps == IGNORE_INDEX)
                return left_out_loss(self.network.criterion, [last, *layers], targets=targets)
            losses = self.network.get_loss_dict(
                **last,
                mask_labels=mask_labels,
                class_labels=class_labels,
                auxiliary_predictions=layers,
            )
            return self.network.get_loss(losses)

    def save(self, folder: Path) -> None:
        """Write a transformers folder."""
        with _quiet_transformers():
            self.network.save_pretrained(folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`.

        Raises:
            FoundationError: the weights are not those of the configuration.
        """
        with _quiet_transformers():
            network, loading = Mask2FormerForUniversalSegmentation.from_pretrained(
                folder,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        stage = f"train_seg@{folder.parent.name}"
        cure = f"run: dvc checkout {folder.parent}, or dvc repro -f -s {stage}"
        check_loading(loading, part=f"the segmenter in {folder}", cure=cure)
        return cls(network)


def _build_network(fields: Mapping[str, Any]) -> Mask2FormerForUniversalSegmentation:
    """Build a network from fields of Mask2FormerConfig, with random weights."""
    try:
        with _quiet_transformers():
            return Mask2FormerForUniversalSegmentation(Mask2FormerConfig(**fields))
    except (
        StrictDataclassError,
        TypeError,
        ValueError,
        KeyError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise ConfigError(
            f"transformers can't build train_seg.mask2former.architecture: {error}"
        ) from error


def _load_pretrained(
    config: SegmenterConfig, *, base: Path, changes: Mapping[str, Any]
) -> Mask2FormerForUniversalSegmentation:
    """Load `config.source`; the class head, and nothing else, gets random weights."""
    source, revision = str(config.source), config.revision
    local = (base / source).is_dir()
    if not local and (revision is None or not _COMMIT.fullmatch(revision)):
        raise FoundationError(
            f"train_seg.mask2former.source {source} is neither a folder here nor a hub repository "
            f"pinned by commit (revision: {revision!r}); set train_seg.mask2former.revision to the "
            "40-digit commit to load"
        )
    try:
        with _quiet_transformers():
            network, loading = Mask2FormerForUniversalSegmentation.from_pretrained(
                str(base / source) if local else source,
                revision=revision or "main",
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **changes,
            )
    # The user's files: transformers raises whatever it meets in them.
    except Exception as error:
        raise FoundationError(
            f"can't load a Mask2Former from {source} (revision {revision}): {error}"
        ) from error
    missing = [*loading["missing_keys"], *(entry[0] for entry in loading["mismatched_keys"])]
    unfit = sorted(name for name in missing if not name.startswith(_HEAD))
    if unfit:
        raise FoundationError(
            f"{source} (revision {revision}) doesn't fill this Mask2Former: {len(unfit)} "
            f"parameters are missing or of another shape, e.g. {unfit[0]}; "
            "train_seg.mask2former.architecture mustn't change the shape of pretrained layers"
        )
    return network.train()


def _load_swin(encoder: PreTrainedModel, source: Path) -> None:
    """Load the weights of one of transformers' Swin classifiers into a backbone.

    Their files have other names than the parameters in memory; transformers translates them.

    Raises:
        FoundationError: there is no such file, or it doesn't fit.
    """
    file = weights_file(source, example="microsoft/swin-tiny-patch4-window7-224")
    try:
        with _quiet_transformers():
            loaded, about = type(encoder).from_pretrained(
                file.parent,
                config=encoder.config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise FoundationError(f"{file} can't be read as a Swin: {error}") from error
    unfit = [*about["missing_keys"], *(entry[0] for entry in about["mismatched_keys"])]
    unfit = sorted(name for name in unfit if not name.startswith(_NEW_NORMS))
    check_fit(unfit, file=file, number=len(encoder.state_dict()))
    new = {n: v for n, v in encoder.state_dict().items() if n.startswith(_NEW_NORMS)}
    encoder.load_state_dict(loaded.state_dict() | new)
    check_finite(encoder, part=f"backbone_source {file}", cure="copy the file again")


def _padded(images: torch.Tensor, *, value: float) -> torch.Tensor:
    """Return images or maps [..., H, W] with rows below and columns at the right."""
    below, right = -images.shape[-2] % _DIVISOR, -images.shape[-1] % _DIVISOR
    return F.pad(images, (0, right, 0, below), value=value) if below or right else images


@contextmanager
def _in_float32(module: nn.Module) -> Iterator[None]:
    """Let a module compute in float32 where autocast is on."""
    device = next(module.parameters()).device.type
    if not torch.is_autocast_enabled(device):
        yield
        return
    context = torch.autocast(device, enabled=False)

    def begin(_module: nn.Module, inputs: tuple, named: dict) -> tuple[tuple, dict]:
        context.__enter__()
        return tuple([f.float() for f in value] for value in inputs), named

    def end(*_: object) -> None:
        context.__exit__(None, None, None)

    hooks = (
        module.register_forward_pre_hook(begin, with_kwargs=True),
        module.register_forward_hook(end, always_call=True),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers: bars for files that take milliseconds, warnings of other backbones."""
    bars, verbosity = (
        transformers_logging.is_progress_bar_enabled(),
        transformers_logging.get_verbosity(),
    )
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def semantic_scores(
    class_queries_logits: torch.Tensor,
    *,
    masks_queries_logits: torch.Tensor,
    size: tuple[int, int] | torch.Size,
) -> torch.Tensor:
    """Turn query outputs into class scores, float32 [B, C, H, W] (see `predict_logits`).

    Args:
        class_queries_logits: [B, Q, C + 1]; the last class is "no object".
        masks_queries_logits: [B, Q, h, w].
        size: (H, W).
    """
    masks = F.interpolate(
        masks_queries_logits, size=tuple(size), mode="bilinear", align_corners=False
    ).sigmoid()
    return torch.einsum("bqc,bqhw->bchw", class_queries_logits.softmax(-1)[..., :-1], masks)


def binary_masks(
    segmentation_maps: torch.Tensor, *, num_classes: int
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Split maps int64 [B, H, W] into one mask per class present.

    Returns:
        mask_labels: per image float32 [n, H, W] of 0 and 1; class_labels: per image int64 [n],
        ascending.
    """
    classes = torch.arange(num_classes, device=segmentation_maps.device)
    masks = segmentation_maps[:, None] == classes[:, None, None]
    present = masks.flatten(2).any(-1)
    return [m[p].float() for m, p in zip(masks, present, strict=True)], [
        classes[p] for p in present
    ]
