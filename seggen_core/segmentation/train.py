"""The training loop of the segmenters: AdamW, warm-up and decay, and a state from which an interrupted run goes on the same."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seggen_core.config import SegmenterConfig, SyntheticAugmentConfig
from seggen_core.errors import ConfigError
from seggen_core.project.rng import derive_seed, numpy_rng, torch_generator
from seggen_core.segmentation.augment import AugmentConfig, augment_batch
from seggen_core.segmentation.mixing import BatchPlan, PairPool, Slot, phase_lengths
from seggen_core.segmentation.models import Segmenter
from seggen_core.segmentation.noise_filter import NoiseFilter
from seggen_core.segmentation.synthetic_augment import augment_synthetic

_STATE = "state.safetensors"
_NUM_OTHERS = 16
"""Synthetic pairs that a batch is spliced and occluded with."""


def learning_rate(config: SegmenterConfig, *, step: int) -> float:
    """Return the learning rate of `step`: linear warm-up times decay, anew in each phase of training."""
    start = 0
    for length in phase_lengths(config):
        if step < start + length:
            break
        start += length
    done = step - start
    warm = min(1.0, (done + 1) / max(1, config.warmup_steps))
    left = 1 - done / length
    if config.lr_scheduler == "step":
        decay = 0.1 ** ((9 * done >= 8 * length) + (27 * done >= 26 * length))
    else:
        decay = left**0.9 if config.lr_scheduler == "poly" else 0.5 * (1 - math.cos(math.pi * left))
    return config.learning_rate * warm * decay


def balanced_weights(pixel_counts: np.ndarray, *, power: float) -> torch.Tensor:
    """Return (median frequency / frequency) ** power of each class: float32 [C].

    Frequency is a class's share of all labelled pixels; the median is over the classes that there
    are. A class without a pixel weighs 1. (Median frequency balancing of Eigen and Fergus, ICCV
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
    plan: BatchPlan,
    pool: PairPool,
    seed: int,
    subset_seed: int,
    device: torch.device,
    state_folder: Path,
    on_step: Callable[[int, dict[str, float]], None],
    synthetic_augment: SyntheticAugmentConfig | None = None,
    noise_filter: NoiseFilter | None = None,
) -> int:
    """Train `segmenter` in place for `config.num_steps` steps.

    Batches, augmentation and the model's own randomness of step t are named by (seed, subset_seed,
    t), never by the arm: all arms get the same draws, and a run that was killed goes on from its
    last saved state with the same numbers (on a CPU, the same bytes with the same number of
    threads).

    Args:
        segmenter: on `device`.
        config: of the model that is trained (`SegmenterConfig.for_model`).
        plan: which samples.
        pool: where they are.
        seed, subset_seed: name of the random streams.
        device: where to compute.
        state_folder: where the state is saved and looked for.
        on_step: told (steps done, {"loss", "learning_rate"}) after every step, also of those done
            before a resumption.
        synthetic_augment: what is done to synthetic pairs before the augmentation that all samples
            get.
        noise_filter: says which pixels of synthetic pairs are ignored, after it.

    Returns:
        The step that the run resumed from.

    Raises:
        ConfigError: the loss is no longer finite.
    """
    optimizer = torch.optim.AdamW(
        parameter_groups(
            segmenter,
            weight_decay=config.weight_decay,
            backbone_multiplier=config.backbone_multiplier,
        ),
        lr=config.learning_rate,
        fused=True,
    )
    augmentation = AugmentConfig(
        config.random_flip, config.random_scale, config.color_jitter, config.crop_size
    )
    losses = load_state(state_folder, segmenter=segmenter, optimizer=optimizer)
    for step, value in enumerate(losses):
        on_step(step + 1, {"loss": value, "learning_rate": learning_rate(config, step=step)})
    first = len(losses)
    segmenter.train()
    # One batch is read ahead: by a single thread, since the pool's memory has no lock.
    read = partial(_read, pool, plan, synthetic_augment, (seed, "train_seg", subset_seed))
    with (
        ThreadPoolExecutor(1) as reader,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        upcoming = reader.submit(read, first)
        for step in range(first, config.num_steps):
            # 1. Batch.
            images, segmentation_maps, synthetic = upcoming.result()
            if step + 1 < config.num_steps:
                upcoming = reader.submit(read, step + 1)
            images, segmentation_maps = augment_batch(
                images.to(device),
                segmentation_maps=segmentation_maps.to(device),
                config=augmentation,
                generator=torch_generator(seed, "train_seg", subset_seed, "augment", step),
            )
            if noise_filter is not None:
                segmentation_maps = noise_filter(images, segmentation_maps, synthetic=synthetic)

            # 2. Loss and update.
            rate = learning_rate(config, step=step)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["multiplier"]
            torch.manual_seed(derive_seed(seed, "train_seg", subset_seed, "model", step))
            loss = segmenter.loss(images, segmentation_maps=segmentation_maps)
            value = loss.item()
            if not math.isfinite(value):
                raise ConfigError(
                    f"the loss of {config.model} is {value} at step {step}; lower train_seg.learning_rate ({rate:.2g} here)"
                )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(segmenter.parameters(), config.max_grad_norm)
            optimizer.step()

            # 3. Report, and a state to resume from.
            losses.append(value)
            on_step(step + 1, {"loss": value, "learning_rate": rate})
            if (step + 1) % config.checkpoint_every == 0 and step + 1 < config.num_steps:
                save_state(state_folder, segmenter=segmenter, optimizer=optimizer, losses=losses)
    segmenter.eval()
    return first


def parameter_groups(
    segmenter: Segmenter, *, weight_decay: float, backbone_multiplier: float = 1.0
) -> list[dict[str, Any]]:
    """Split parameters into kernels and matrices, which decay, and vectors (biases, normalisation), which don't.

    Each group says in "multiplier" how its learning rate differs; there is one for the backbone
    where it does.
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
        {"params": groups[decay, m], "weight_decay": decay, "multiplier": m} for decay, m in ordered
    ]


def save_state(
    folder: Path, *, segmenter: Segmenter, optimizer: torch.optim.Optimizer, losses: list[float]
) -> None:
    """Write parameters, buffers, optimiser moments and the loss of every step so far to one file, whole or not at all."""
    from safetensors.torch import save_file

    tensors = {f"model|{name}": value for name, value in segmenter.state_dict().items()}
    for name, parameter in segmenter.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer|{name}|{key}"] = value
    tensors["losses"] = torch.tensor(losses, dtype=torch.float64)
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "state.partial"
    save_file({k: v.detach().to("cpu").contiguous().clone() for k, v in tensors.items()}, partial)
    partial.replace(folder / _STATE)


def load_state(
    folder: Path, *, segmenter: Segmenter, optimizer: torch.optim.Optimizer
) -> list[float]:
    """Restore what `save_state` wrote, in place, and return the losses; none where there is no state."""
    from safetensors.torch import load_file

    if not (folder / _STATE).exists():
        return []
    stored = load_file(folder / _STATE)
    segmenter.load_state_dict(
        {k.removeprefix("model|"): v for k, v in stored.items() if k.startswith("model|")}
    )
    for name, parameter in segmenter.named_parameters():
        prefix = f"optimizer|{name}|"
        moments = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
        if moments:
            # Moments take their parameter's memory layout (channels last), as the optimiser would
            # have made them.
            optimizer.state[parameter] = {
                k: v.to(parameter.device) if v.ndim == 0 else torch.empty_like(parameter).copy_(v)
                for k, v in moments.items()
            }
    return stored["losses"].tolist()


def _read(
    pool: PairPool,
    plan: BatchPlan,
    augment: SyntheticAugmentConfig | None,
    name: tuple[str | int, ...],
    step: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return images uint8 [B, 3, H, W], masks uint8 [B, H, W] and which of them are synthetic, bool [B]."""
    slots = plan.slots(step)
    images, masks = pool.read_batch(slots)
    made = [k for k, slot in enumerate(slots) if slot.synthetic is not None]
    if augment is not None and made:
        rng = numpy_rng(*name, "synthetic augment", step)
        others = [
            Slot("", int(position))
            for position in rng.integers(plan.num_synthetic, size=_NUM_OTHERS)
        ]
        images[made], masks[made] = augment_synthetic(
            images[made], masks[made], pool=pool.read_batch(others), config=augment, rng=rng
        )
    synthetic = torch.tensor([slot.synthetic is not None for slot in slots])
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.from_numpy(masks), synthetic
