"""Mask2Former (Cheng et al., CVPR 2022), from transformers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    PreTrainedModel,
)

from seggen_core.config import SegmenterConfig
from seggen_core.errors import FoundationError
from seggen_core.project.weights import check_finite
from seggen_core.segmentation.left_out import Targets, left_out_loss
from seggen_core.segmentation.mask_classifier import MaskClassifier, Queries, resized
from seggen_core.segmentation.published_init import initialize_as_published
from seggen_core.segmentation.segmenter import (
    check_fit,
    load_backbone,
    normalize,
    weights_file,
)
from seggen_core.segmentation.transformers_folder import (
    build_network,
    load_pretrained,
    load_saved,
    network_fields,
    quiet_transformers,
    save_network,
)
from seggen_core.taxonomy import IGNORE_INDEX

_RESNET = "resnet."
"""What transformers' classifiers put before the names of their ResNet's parameters."""

_NEW_NORMS = "hidden_states_norms."
"""Layers that backbones add to Swin and others; no classifier has them."""

_EXAMPLES = {
    "swin": "microsoft/swin-tiny-patch4-window7-224",
    "convnext": "facebook/convnext-tiny-224",
    "convnextv2": "facebook/convnextv2-tiny-22k-224",
    "swinv2": "microsoft/swinv2-tiny-patch4-window8-256",
}
"""Classifiers of the Hub, for messages."""

_DIVISOR = 32
"""Images are padded to a multiple of this, the coarsest feature map's stride."""


class Mask2FormerSegmenter(MaskClassifier):
    """Mask2Former of transformers.

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
        fields = network_fields(config, id2label) | {"ignore_value": IGNORE_INDEX}
        leaves_out = config.ignored_pixels == "left_out"
        if config.source is not None:
            pretrained = load_pretrained(
                Mask2FormerForUniversalSegmentation, config, base=base, fields=fields
            )
            segmenter = cls(pretrained)
            segmenter.leaves_out = leaves_out
            return segmenter
        network = build_network(Mask2FormerForUniversalSegmentation, Mask2FormerConfig, fields)
        if config.initialization == "published":
            initialize_as_published(network)
        if config.backbone_source is not None:
            encoder, source = (
                network.model.pixel_level_module.encoder,
                base / config.backbone_source,
            )
            if encoder.config.model_type == "resnet":
                load_backbone(encoder, source=source, example="microsoft/resnet-50", prefix=_RESNET)
            else:
                _load_classifier(encoder, source)
        segmenter = cls(network)
        segmenter.leaves_out = leaves_out
        return segmenter

    def queries(self, images: torch.Tensor) -> Queries:
        """Return masks and classes; inputs are padded with the mean colour to a multiple of 32.

        Masks are brought to the size of the padded input first. See `MaskClassifier`.
        """
        height, width = images.shape[-2:]
        padded = _padded(normalize(images), value=0.0)
        output = self.network(pixel_values=padded)
        masks = resized(output.masks_queries_logits, padded.shape[-2:])
        return Queries(output.class_queries_logits, masks[..., :height, :width])

    def mask_loss(
        self,
        images: torch.Tensor,
        *,
        mask_labels: Sequence[torch.Tensor],
        class_labels: Sequence[torch.Tensor],
        unlabelled: torch.Tensor,
    ) -> torch.Tensor:
        """Return transformers' loss: class, mask and dice terms of all decoder layers.

        In a lower precision, the pixel decoder, the matching and the loss still compute in float32,
        as the authors have it. See `MaskClassifier`.
        """
        mask_labels = [_padded(masks, value=0.0) for masks in mask_labels]
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
                beside = _padded(unlabelled, value=True)
                targets = Targets(mask_labels, class_labels, beside)
                return left_out_loss(self.network.criterion, [last, *layers], targets=targets)
            losses = self.network.get_loss_dict(
                **last,
                mask_labels=mask_labels,
                class_labels=list(class_labels),
                auxiliary_predictions=layers,
            )
            return self.network.get_loss(losses)

    def save(self, folder: Path) -> None:
        """Write a transformers folder."""
        save_network(self.network, folder)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Inverse of `save`.

        Raises:
            FoundationError: the weights are not those of the configuration.
        """
        return cls(load_saved(Mask2FormerForUniversalSegmentation, folder))


def _load_classifier(encoder: PreTrainedModel, source: Path) -> None:
    """Load the weights of one of transformers' classifiers into a backbone of its kind.

    Their files have other names than the parameters in memory; transformers translates them.

    Raises:
        FoundationError: there is no such file, or it doesn't fit.
    """
    kind = encoder.config.model_type
    file = weights_file(source, example=_EXAMPLES.get(kind, f"<a {kind} classifier>"))
    try:
        with quiet_transformers():
            loaded, about = type(encoder).from_pretrained(
                file.parent,
                config=encoder.config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError) as error:
        raise FoundationError(f"{file} can't be read as a {kind}: {error}") from error
    unfit = [*about["missing_keys"], *(entry[0] for entry in about["mismatched_keys"])]
    unfit = sorted(name for name in unfit if not name.startswith(_NEW_NORMS))
    check_fit(unfit, file=file, num_parameters=len(encoder.state_dict()))
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
