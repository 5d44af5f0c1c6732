"""How a segmenter is trained: warm-up and decay, augmentation, loss and validation."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from seggen_core.config import SegmenterConfig
from seggen_core.errors import ConfigError
from seggen_core.project.rng import derive_seed, torch_generator
from seggen_core.segmentation.arms import Arm, Batch
from seggen_core.segmentation.augment import NUM_DRAWS, AugmentConfig, augment_batch, jitter_colors
from seggen_core.segmentation.color import NUM_DRAWS as NUM_COLOR_DRAWS
from seggen_core.segmentation.color import distort_colors
from seggen_core.segmentation.geometry import PADDING
from seggen_core.segmentation.mixing import TrainingSeed, phase_lengths
from seggen_core.segmentation.noise_filter import NoiseFilter
from seggen_core.segmentation.optimizer import freeze_batch_norm, make_optimizer
from seggen_core.segmentation.segment_labels import VOID, mask_targets
from seggen_core.segmentation.segmenter import Segmenter
from seggen_core.segmentation.validation import Validation
from seggen_core.taxonomy import IGNORE_INDEX
from seggen_core.training.loop import LoopSettings, OnStep, Training, make_accelerator, train
from seggen_core.training.precision import resolve_precision
from seggen_core.training.schedule import LearningRate, phases


def learning_rate(config: SegmenterConfig) -> LearningRate:
    """Return the learning rate by step: linear warm-up times decay, in each phase."""
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
    validation: Validation | None = None,
) -> int:
    """Train `segmenter` in place for `config.num_steps` steps; leave it in evaluation mode.

    Gradients of a step are the mean over its network calls (`config.micro_batch_size`).

    Batches, augmentation and the model's own randomness of step t are named by (seed, subset_seed,
    t), never by the arm: all arms get the same draws, and an interrupted run goes on from its last
    saved state with the same numbers (on a CPU, the same bytes with the same number of threads).

    Args:
        segmenter: on the device to train on.
        config: of the arm that is trained (`TrainSegConfig.for_arm`).
        arm: what it is trained on.
        state_folder: where the state is saved and looked for.
        on_step: called with (steps done, {"loss", "learning_rate"}) after every step, also for
            those before a resumption.
        noise_filter: says which pixels of synthetic pairs are ignored, after the augmentation.
        validation: scores the segmenter now and then, and may end the training early.

    Returns:
        The step that the run resumed from.

    Raises:
        ConfigError: the loss is no longer finite.
        StorageError: the state can't be saved.
    """
    device = segmenter.device
    segmenter.things = arm.things
    if config.freeze_batch_norm:
        freeze_batch_norm(segmenter)
    training = Training(
        name=config.model,
        module=segmenter,
        optimizer=make_optimizer(segmenter, config),
        learning_rate=learning_rate(config),
        read=arm.read,
        loss=_StepLoss(config, seed=arm.seed, things=arm.things, noise_filter=noise_filter),
        error=ConfigError,
        advice=f"lower train_seg.{config.model}.learning_rate",
    )
    settings = _loop_settings(config, device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        return train(
            training,
            settings,
            accelerator=make_accelerator(device, accumulation=arm.num_parts),
            state_folder=state_folder,
            on_step=on_step,
            watch=validation,
        )


def _loop_settings(config: SegmenterConfig, device: torch.device) -> LoopSettings:
    return LoopSettings(
        num_steps=config.num_steps,
        max_grad_norm=config.max_grad_norm,
        dtype=resolve_precision(config.precision, device),
        checkpoint_every=config.checkpoint_every,
        replay_losses=True,
        num_readers=config.num_readers,
    )


class _StepLoss:
    """The loss of a network call: its samples are augmented, filtered and given to the segmenter.

    All numbers of a step are drawn at once, so that they don't depend on the parts it is computed
    in.
    """

    def __init__(
        self,
        config: SegmenterConfig,
        *,
        seed: TrainingSeed,
        things: Sequence[bool] = (),
        noise_filter: NoiseFilter | None,
    ) -> None:
        self._config, self._things = config, things
        self._seed, self._noise_filter = seed, noise_filter

    def __call__(self, segmenter: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Return the loss, a scalar, of a segmenter in training mode."""
        device = next(segmenter.parameters()).device
        unwrapped = getattr(
            segmenter, "module", segmenter
        )  # it may be wrapped for several processes
        if isinstance(unwrapped, Segmenter):
            unwrapped.at_step(batch.step, self._config.num_steps)
        images, segmentation_maps = self._augment(batch, device)
        if self._noise_filter is not None:
            segmentation_maps = self._filter(images, segmentation_maps, batch)
        part = (batch.part,) if batch.part else ()
        torch.manual_seed(derive_seed(*self._seed.name("model", batch.step, *part)))
        if self._config.task == "semantic":
            return segmenter(images, segmentation_maps=segmentation_maps)
        masks, classes = mask_targets(
            segmentation_maps,
            task=self._config.task,
            things=self._things,
            segments=batch.segments,
        )
        void = segmentation_maps == VOID
        return segmenter(images, mask_labels=masks, class_labels=classes, unlabelled=void)

    def _filter(self, images: torch.Tensor, labels: torch.Tensor, batch: Batch) -> torch.Tensor:
        """Return labels, int64 [B, H, W], ignored where they contradict the filter."""
        assert self._noise_filter is not None
        if self._config.task == "semantic":
            return self._noise_filter(images, labels, synthetic=batch.is_synthetic)
        classes = self._noise_filter(images, labels >> 16, synthetic=batch.is_synthetic)
        return torch.where(classes == IGNORE_INDEX, VOID, labels)

    def _augment(self, batch: Batch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images float32 [B, 3, H, W] in [0, 1], and labels int64 [B, H, W]."""
        config = self._config
        images, maps = batch.images.to(device), batch.segmentation_maps.to(device)
        if batch.filled is None:
            augmentation = AugmentConfig(
                config.random_flip,
                config.random_scale,
                config.color_jitter if config.color == "jitter" else 0.0,
                config.crop_size if isinstance(config.crop_size, int) else None,
            )
            draws = self._draws("augment", batch, NUM_DRAWS).to(device)
            pictures, labels = augment_batch(
                images, segmentation_maps=maps, config=augmentation, draws=draws
            )
            return self._distort(pictures, batch) if config.color == "ssd" else pictures, labels
        pictures = images.float() / 255
        if config.color == "ssd":
            pictures = self._distort(pictures, batch)
        elif config.color_jitter:
            factors = 1 + config.color_jitter * (2 * self._draws("jitter", batch, 3) - 1)
            pictures = jitter_colors(pictures, factors=factors.to(device))
        # Samples are padded after their colours have changed.
        height, width = pictures.shape[2:]
        filled = batch.filled.to(device)
        inside = (torch.arange(height, device=device)[:, None] < filled[:, :1, None]) & (
            torch.arange(width, device=device) < filled[:, 1:, None]
        )
        return torch.where(inside[:, None], pictures, PADDING / 255), maps.long()

    def _distort(self, images: torch.Tensor, batch: Batch) -> torch.Tensor:
        draws = self._draws("color", batch, NUM_COLOR_DRAWS).to(images.device)
        return distort_colors(images, draws=draws)

    def _draws(self, purpose: str, batch: Batch, num_draws: int) -> torch.Tensor:
        """Return uniform numbers for the samples of `batch`, float32 [B, num_draws]."""
        generator = torch_generator(*self._seed.name(purpose, batch.step))
        return torch.rand(self._config.batch_size, num_draws, generator=generator)[batch.rows]
