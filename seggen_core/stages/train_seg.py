"""Stage `train_seg`: one ablation arm's segmenters, one for each subset seed."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from seggen_core.config import SegGenConfig, SegmenterConfig, SyntheticAugmentConfig, VariantConfig
from seggen_core.errors import ConfigError, FoundationError
from seggen_core.evaluation.semantic import mean_iou
from seggen_core.project.digests import content_digest, json_digest
from seggen_core.project.paths import ProjectPaths
from seggen_core.project.rng import derive_seed
from seggen_core.project.runtime import limit_threads, pick_device
from seggen_core.segmentation.mixing import Arm, open_arm
from seggen_core.segmentation.models import Segmenter, build_segmenter, save_segmenter
from seggen_core.segmentation.noise_filter import NoiseFilter, mean_class_losses
from seggen_core.segmentation.predict import score_store
from seggen_core.segmentation.train import balanced_weights, train_segmenter
from seggen_core.store.reader import SampleStore, open_partitions
from seggen_core.taxonomy import Taxonomy
from seggen_core.tracking import StageRun, track_stage

_POINTS = 200
"""Points of a loss curve at most; each is a mean over the steps since the one before."""


def find_variant(config: SegGenConfig, name: str | None) -> VariantConfig:
    """Return the arm called `name`; ConfigError lists the known ones where there is none."""
    if name not in config.variants:
        raise ConfigError(
            f"there is no variant {name!r}; params.yaml has: {', '.join(config.variants)}"
        )
    return config.variants[name]


def read_training(paths: ProjectPaths, *, variant: str) -> dict[str, Any]:
    """Return the metrics.json of a trained arm; its "seeds" name the checkpoints that there are.

    Raises:
        FoundationError: the arm hasn't been trained.
    """
    file = paths.checkpoint(variant) / "metrics.json"
    if not file.is_file():
        raise FoundationError(
            f"{file} doesn't exist: the arm {variant} isn't trained; run: dvc repro train_seg@{variant}"
        )
    return json.loads(file.read_text(encoding="utf-8"))


def run(config: SegGenConfig, *, paths: ProjectPaths, item: str | None) -> None:
    """Write data/checkpoints/<variant>: a segmenter in seed<k> for each subset seed, metrics.json and history.csv.

    metrics.json has mIoU (percent) on the validation split, the one to tune on; the test split is
    read by `evaluate` alone. A run that was killed goes on from the last finished seed, and within
    a seed from its last saved state.
    """
    variant = find_variant(config, item)
    assert item is not None
    settings = config.train_seg.for_model(variant.model)
    own = {
        name: getattr(variant, name)
        for name in ("strategy", "p_aug")
        if getattr(variant, name) is not None
    }
    settings = settings.model_copy(update=own)
    if variant.p_aug is not None and settings.strategy == "pretrain":
        raise ConfigError(
            f"variants.{item}.p_aug has no effect under strategy pretrain; set strategy: replace beside it"
        )
    unseen = config.zero_shot.unseen if variant.hide_unseen else ()
    params = {
        "variant": variant.model_dump(mode="json"),
        "unseen": list(unseen),
        **settings.model_dump(mode="json", exclude={"overrides"}),
    }
    limit_threads(config.runtime)
    with track_stage(
        "train_seg", item=item, params=params, runtime=config.runtime, paths=paths
    ) as tracked:
        # 1. What goes in.
        taxonomy = Taxonomy.read(paths.taxonomy)
        subsets: dict[str, list[str]] = json.loads(paths.subsets.read_text(encoding="utf-8"))
        real, validation = SampleStore(paths.real("train")), SampleStore(paths.real("val"))
        partitions = {
            method: open_partitions(paths.synthetic(method)) for method in variant.methods
        }
        tracked.log_input(name="real_train", path=paths.real("train"))
        for method in partitions:
            tracked.log_input(name=method, path=paths.synthetic(method))
        stores = [real, validation, *(store for group in partitions.values() for store in group)]
        identity = [
            params,
            config.seed,
            subsets,
            taxonomy.to_json(),
            [content_digest(store.folder) for store in stores],
        ]
        fingerprint = json_digest(identity)
        scratch = paths.scratch / "train_seg" / item / fingerprint

        pixel_counts = np.sum(real.index["class_pixel_counts"].tolist(), axis=0)
        class_weights = (
            balanced_weights(pixel_counts, power=settings.class_balance)
            if settings.class_balance
            else None
        )

        # 2. One training for each subset.
        folders = {s: scratch / "out" / f"seed{s}" for s in config.dataset.subset_seeds}
        for subset_seed, folder in folders.items():
            if (folder / "metrics.json").exists():
                continue
            training = _Training(
                settings=settings,
                seed=config.seed,
                subset_seed=subset_seed,
                device=pick_device(config.runtime),
                id2label=taxonomy.id2label,
                class_weights=class_weights,
                base=paths.root,
                tracked=tracked,
                description=f"{item} seed {subset_seed}",
            )
            arguments: dict[str, Any] = {
                "config": settings,
                "real": real,
                "real_keys": real.keys() if variant.real == "all" else subsets[str(subset_seed)],
                "seed": config.seed,
                "subset_seed": subset_seed,
                "hidden_ids": [taxonomy.by_slug(slug).train_id for slug in unseen],
            }
            noise_filter = None
            if variant.noise_filter is not None:
                alone = open_arm(
                    variant.model_copy(update={"shuffle_masks": False}), partitions={}, **arguments
                )
                noise_filter = training.train_filter(
                    alone,
                    real_keys=arguments["real_keys"],
                    tolerance=variant.noise_filter.tolerance,
                    state_folder=scratch / f"filter{subset_seed}",
                )
            arm = open_arm(variant, partitions=partitions, **arguments)
            segmenter, curve = training.train(
                arm,
                state_folder=scratch / f"state{subset_seed}",
                synthetic_augment=variant.synthetic_augment,
                noise_filter=noise_filter,
            )
            if noise_filter is not None:
                # Not a part of metrics.json: a training that was killed counts from where it goes
                # on.
                share = noise_filter.num_ignored / max(noise_filter.num_pixels, 1)
                tracked.log_metrics(
                    {f"seed{subset_seed}/ignored_share": share}, step=settings.num_steps
                )
            training.finish(
                segmenter, curve=curve, facts=arm.facts, validation=validation, folder=folder
            )

        # 3. Tables over the seeds, and all of it into place.
        summaries = {
            s: json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
            for s, folder in folders.items()
        }
        metrics: dict[str, Any] = {
            "model": settings.model,
            "num_steps": settings.num_steps,
            "val_miou": round(float(np.mean([s["val_miou"] for s in summaries.values()])), 4),
            "seeds": {str(s): summary for s, summary in summaries.items()},
        }
        _write_json(scratch / "out" / "metrics.json", metrics)
        curves = [
            pd.read_csv(folder / "history.csv").assign(seed=s) for s, folder in folders.items()
        ]
        pd.concat(curves)[["seed", "step", "loss", "learning_rate"]].to_csv(
            scratch / "out" / "history.csv", index=False
        )
        tracked.log_metrics({"val_miou": metrics["val_miou"]})
        tracked.log_artifact(scratch / "out" / "history.csv")
        shutil.rmtree(paths.checkpoint(item), ignore_errors=True)
        paths.checkpoint(item).parent.mkdir(parents=True, exist_ok=True)
        (scratch / "out").replace(paths.checkpoint(item))
        shutil.rmtree(scratch.parent)


@dataclass(frozen=True, kw_only=True)
class _Training:
    """What the trainings of one subset seed share."""

    settings: SegmenterConfig
    seed: int
    subset_seed: int
    device: torch.device
    id2label: Mapping[int, str]
    class_weights: torch.Tensor | None
    base: Path
    tracked: StageRun
    description: str

    def train(
        self,
        arm: Arm,
        *,
        state_folder: Path,
        synthetic_augment: SyntheticAugmentConfig | None = None,
        noise_filter: NoiseFilter | None = None,
        prefix: str = "",
    ) -> tuple[Segmenter, list[dict[str, float]]]:
        """Train one segmenter, in evaluation mode in the end, with its loss curve; `prefix` is put before its metrics' names."""
        settings = self.settings
        with torch.random.fork_rng(devices=[]):
            # The same weights to start from in every arm.
            torch.manual_seed(
                derive_seed(self.seed, "train_seg", self.subset_seed, "initial weights")
            )
            segmenter = build_segmenter(settings, id2label=self.id2label, base=self.base).to(
                self.device
            )
        if self.class_weights is not None:
            segmenter.weigh_classes(self.class_weights)
        every = max(1, -(-settings.num_steps // _POINTS))
        curve: list[dict[str, float]] = []
        recent: list[float] = []
        title = f"train_seg {self.description}{' ' if prefix else ''}{prefix.rstrip('/')}"
        with tqdm(total=settings.num_steps, desc=title, unit="step", disable=None) as progress:

            def report(step: int, values: dict[str, float]) -> None:
                recent.append(values["loss"])
                progress.update()
                if step % every == 0 or step == settings.num_steps:
                    point = {
                        "loss": float(np.mean(recent)),
                        "learning_rate": values["learning_rate"],
                    }
                    recent.clear()
                    curve.append({"step": step, **point})
                    progress.set_postfix(loss=f"{point['loss']:.3f}")
                    named = {
                        f"seed{self.subset_seed}/{prefix}{name}": value
                        for name, value in point.items()
                    }
                    self.tracked.log_metrics(named, step=step)

            train_segmenter(
                segmenter,
                settings,
                plan=arm.plan,
                pool=arm.pool,
                seed=self.seed,
                subset_seed=self.subset_seed,
                device=self.device,
                state_folder=state_folder,
                on_step=report,
                synthetic_augment=synthetic_augment,
                noise_filter=noise_filter,
            )
        return segmenter, curve

    def train_filter(
        self, arm: Arm, *, real_keys: Sequence[str], tolerance: float, state_folder: Path
    ) -> NoiseFilter:
        """Train a segmenter on real samples alone, and make FreeMask's filter of it."""
        segmenter, _ = self.train(arm, state_folder=state_folder, prefix="filter/")
        losses = mean_class_losses(
            segmenter,
            pool=arm.pool,
            keys=real_keys,
            batch_size=self.settings.batch_size,
            device=self.device,
        )
        return NoiseFilter(segmenter, class_losses=losses, tolerance=tolerance)

    def finish(
        self,
        segmenter: Segmenter,
        *,
        curve: list[dict[str, float]],
        facts: dict[str, Any],
        validation: SampleStore,
        folder: Path,
    ) -> None:
        """Score a segmenter on the validation split and write it to `folder`, metrics.json last."""
        confusion = score_store(
            segmenter,
            store=validation,
            batch_size=self.settings.batch_size,
            device=self.device,
            description=f"{self.description}: validation",
        )
        miou = round(mean_iou(confusion), 4)
        self.tracked.log_metrics(
            {f"seed{self.subset_seed}/val_miou": miou}, step=self.settings.num_steps
        )
        save_segmenter(segmenter, folder=folder)
        pd.DataFrame(curve).to_csv(folder / "history.csv", index=False)
        parameters = sum(p.numel() for p in segmenter.parameters())
        metrics = {"val_miou": miou, "train_loss": curve[-1]["loss"], "parameters": parameters}
        _write_json(folder / "metrics.json", metrics | facts)


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
