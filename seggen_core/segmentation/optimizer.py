"""Which parameters of a segmenter are trained, how fast, and with how much decay."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from seggen_core.config import SegmenterConfig
from seggen_core.segmentation.segmenter import Segmenter

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_POSITION_TABLES = ("relative_position_bias_table", "position_embeddings")
"""What the names of Swin's tables of positions end with."""


def make_optimizer(segmenter: Segmenter, config: SegmenterConfig) -> torch.optim.Optimizer:
    """Make the optimiser of all that `segmenter` trains."""
    groups = parameter_groups(
        segmenter,
        weight_decay=config.weight_decay,
        backbone_multiplier=config.backbone_multiplier,
        undecayed=config.undecayed,
    )
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=1.0, momentum=config.momentum)
    return torch.optim.AdamW(groups, fused=True)


def parameter_groups(
    segmenter: Segmenter,
    *,
    weight_decay: float,
    backbone_multiplier: float = 1.0,
    undecayed: str = "vectors",
) -> list[dict[str, Any]]:
    """Split parameters into those that decay and those that don't.

    The backbone has groups of its own where its multiplier isn't 1.

    Args:
        segmenter: the model.
        weight_decay: of those that decay.
        backbone_multiplier: on the learning rate of the backbone.
        undecayed: "vectors" of all kinds; "norms_and_embeddings", which leaves out normalisation
            layers, embeddings and Swin's tables of positions, as Mask2Former's authors do; "none".

    Returns:
        Groups for an optimiser; "lr" multiplies the learning rate (`training.loop.Training`).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, module, parameter in _named(segmenter):
        is_free = {
            "vectors": parameter.ndim <= 1,
            "norms_and_embeddings": _is_norm_or_embedding(name, module),
            "none": False,
        }[undecayed]
        multiplier = backbone_multiplier if name.startswith(segmenter.backbone_prefix) else 1.0
        groups.setdefault((0.0 if is_free else weight_decay, multiplier), []).append(parameter)
    ordered = sorted(groups, key=lambda key: (-key[0], key[1]))
    return [
        {"params": groups[decay, multiplier], "weight_decay": decay, "lr": multiplier}
        for decay, multiplier in ordered
    ]


def freeze_batch_norm(segmenter: Segmenter) -> None:
    """Keep weights and statistics of the backbone's batch normalisation from now on."""
    segmenter.frozen_norms = [
        module
        for name, module in segmenter.named_modules()
        if f"{name}.".startswith(segmenter.backbone_prefix) and isinstance(module, _BATCH_NORMS)
    ]
    for module in segmenter.frozen_norms:
        module.eval().requires_grad_(False)


def _named(segmenter: Segmenter) -> Iterator[tuple[str, nn.Module, nn.Parameter]]:
    """Yield name, module and value of each trained parameter, in the order of their names' list."""
    modules = dict(segmenter.named_modules())
    for name, parameter in segmenter.named_parameters():
        if parameter.requires_grad:
            yield name, modules[name.rpartition(".")[0]], parameter


def _is_norm_or_embedding(name: str, module: nn.Module) -> bool:
    kinds = (
        *_BATCH_NORMS,
        nn.InstanceNorm1d,
        nn.InstanceNorm2d,
        nn.InstanceNorm3d,
        nn.GroupNorm,
        nn.LayerNorm,
        nn.LocalResponseNorm,
        nn.Embedding,
    )
    # Normalisation layers of libraries may be classes of their own, but bear the name.
    return (
        isinstance(module, kinds)
        or type(module).__name__.endswith(("LayerNorm", "RMSNorm"))
        or name.endswith(_POSITION_TABLES)
    )
