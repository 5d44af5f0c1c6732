"""How a segmenter is trained: AdamW, warm-up and decay, augmentation and loss."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.segmentation.arms import Arm, Batch
from seggen_core.segmentation.augment import AugmentConfig, augment_batch
from seggen_core.segmentation.mixing import TrainingSeed, phase_lengths
from seggen_core.segmentation.noise_filter import NoiseFilter
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.training.loop import LoopSettings, OnStep, Training, train
from seggen_core.training.schedule import LearningRate, phases


def learning_rate(config: SegmenterConfig) -> LearningRate:
    """Return the learning rate by step: linear warm-up times decay, anew in each phase."""
    return phases(
        config.learning_rate,
        kind=config.lr_scheduler,
        warmup_steps=config.warmup_steps,
        phase_lengths=phase_lengths(config),
    )


def balanced_weights(pixel_counts: np.ndarray, *, power: float) -> torch.Tensor:
    """Return (median frequency / frequency) ** power of each class: float32 [C].

    Frequency is a class's share of all labelled pixels; the median is over the classes that have
    one. A class without a pixel weighs 1. (Median frequency balancing of Eigen and Fergus, ICCV
    2015, at power 1; theirs counts only pixels of pictures that show the class.)
    """
    counts = torch.as_tensor(pixel_counts, dtype=torch.float64)
    shown = counts > 0
    median = counts[shown].quantile(0.5)
    return torch.where(shown, (median / counts.clamp(min=1)) ** power, 1.0).float()


def train_segmenter(
    segmenter: Segmenter,
    config: SegmenterConfig,
    *,
    arm: Arm,
    state_folder: Path,
    on_step: OnStep,
    noise_filter: NoiseFilter | None = None,
) -> int:
    """Train `segmenter` in place for `config.num_steps` steps; leave it in evaluation mode.

    Batches, augmentation and the model's own randomness of step t are named by (seed, subset_seed,
    t), never by the arm: all arms get the same draws, and an interrupted run goes on from its last
    saved state with the same numbers (on a CPU, the same bytes with the same number of threads).

    Args:
        segmenter: on the device to train on.
        config: of the model that is trained (`SegmenterConfig.for_model`).
        arm: what it is trained on.
        state_folder: where the state is saved and looked for.
        on_step: called with (steps done, {"loss", "learning_rate"}) after every step, also for
            those before a resumption.
        noise_filter: says which pixels of synthetic pairs are ignored, after the augmentation.

    Returns:
        The step that the run resumed from.

    Raises:
        ConfigError: the loss is no longer finite.
        StorageError: the state can't be saved.
    """
    groups = parameter_groups(
        segmenter, weight_decay=config.weight_decay, backbone_multiplier=config.backbone_multiplier
    )
    training = Training(
        name=config.model,
        module=segmenter,
        optimizer=torch.optim.AdamW(groups, fused=True),
        learning_rate=learning_rate(config),
        read=arm.read,
        loss=_StepLoss(config, seed=arm.seed, noise_filter=noise_filter),
        error=ConfigError,
        advice="lower train_seg.learning_rate",
    )
    settings = LoopSettings(
        num_steps=config.num_steps,
        max_grad_norm=config.max_grad_norm,
        checkpoint_every=config.checkpoint_every,
        replay_losses=True,
    )
    device = segmenter.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return train(training, settings, state_folder=state_folder, on_step=on_step)


class _StepLoss:
    """The loss of a step: its batch is augmented, filtered and given to the segmenter."""

    def __init__(
        self, config: SegmenterConfig, *, seed: TrainingSeed, noise_filter: NoiseFilter | None
    ) -> None:
        self._augmentation = AugmentConfig(
            config.random_flip, config.random_scale, config.color_jitter, config.crop_size
        )
        self._seed, self._noise_filter = seed, noise_filter

    def __call__(self, segmenter: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss, a scalar, of a segmenter in training mode."""
        device = next(segmenter.parameters()).device
        images, segmentation_maps = augment_batch(
            batch.images.to(device),
            segmentation_maps=batch.segmentation_maps.to(device),
            config=self._augmentation,
            generator=torch_generator(*self._seed.name("augment", batch.step)),
        )
        if self._noise_filter is not None:
            segmentation_maps = self._noise_filter(
                images, segmentation_maps, synthetic=batch.is_synthetic
            )
        torch.manual_seed(derive_seed(*self._seed.name("model", batch.step)))
        return segmenter(images, segmentation_maps=segmentation_maps)


def parameter_groups(
    segmenter: Segmenter, *, weight_decay: float, backbone_multiplier: float = 1.0
) -> list[dict[str, Any]]:
    """Split parameters into those that decay and those that don't.

    Kernels and matrices decay, vectors (biases, normalisation) don't. The backbone has groups of
    its own where its multiplier isn't 1.

    Returns:
        Groups for an optimiser; "lr" multiplies the learning rate (`training.loop.Training`).
    """
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}
    for name, parameter in segmenter.named_parameters():
        if parameter.requires_grad:
            multiplier = backbone_multiplier if name.startswith(segmenter.backbone_prefix) else 1.0
            groups.setdefault((weight_decay if parameter.ndim > 1 else 0.0, multiplier), []).append(
                parameter
            )
    ordered = sorted(groups, key=lambda key: (-key[0], key[1]))
    return [
        {"params": groups[decay, multiplier], "weight_decay": decay, "lr": multiplier}
        for decay, multiplier in ordered
    ]
